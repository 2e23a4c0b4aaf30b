"""Data files as records: Parquet, JSON, JSONL and CSV, with errors that name the key, the file and the place.

A record is a dict, whatever the format. Its place is what a reader of the file would count: the line of a
JSONL or CSV file, from 1, and the row of a Parquet or JSON file, from 0, which messages say. They also name
the line on which a row of a JSON file begins. What the columns mean is columns.py's business.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.config.fields import DATA_SUFFIXES
from megatron_coreward.config.hf_datasets import local_file

Record = dict[str, Any]

_BLOCK_ROWS = 4096
_LARGEST_FIELD = 1 << 30
_NAMED = 10
_PARQUET_MAGIC = b"PAR1"
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"


def bad_input(key: str, path: str, problem: str, allowed: str) -> ValueError:
    return ValueError(f"{key}={path}: {problem}; {allowed}")


@dataclass(frozen=True)
class DataFile:
    """The records of a file with their places, and the words in which errors name them.

    `columns` are the names of all records, in the order in which they come up.
    """

    key: str
    path: str
    columns: list[str]
    records: list[Record]
    places: list[int]

    def error(self, problem: str, allowed: str, places: Sequence[int] = ()) -> ValueError:
        """An error about the whole file, or one whose `problem` names records at these `places`."""
        if not places:
            return bad_input(self.key, self.path, problem, allowed)
        if unit_of(self.path) == "line":
            return bad_input(self.key, f"{self.path}:{places[0]}", problem, allowed)
        is_json = Path(self.path).suffix.lower() == ".json"
        path = f"{self.path}:{_line_of(self.path, places[0])}" if is_json else self.path
        return bad_input(self.key, path, f"{problem} (rows count from 0)", allowed)

    def named(self, places: Sequence[int]) -> str:
        """'row 3', 'lines 3, 5', or the first _NAMED of them 'and 7 more'."""
        names, left = ", ".join(map(str, places[:_NAMED])), len(places) - _NAMED
        unit = unit_of(self.path) + "s" * (len(places) > 1)
        return f"{unit} {names}{f' and {left} more' if left > 0 else ''}"


def unit_of(path: str) -> str:
    """What the places of a file count."""
    return "line" if Path(path).suffix.lower() in (".jsonl", ".csv") else "row"


def read_file(path: str, key: str, columns: Sequence[str]) -> DataFile:
    """A file's records. Of a Parquet file only `columns` are read, nested ones with all their fields.

    `path` may be a file of a data set on the hub (config/hf_datasets.py); errors then name its place in the
    cache. Raises ValueError as iter_records and local_file do, and for a file without records.
    """
    path = local_file(path, key)
    numbered = list(iter_records(path, key, {name.split(".")[0] for name in columns}))
    if not numbered:
        raise bad_input(key, path, "the file has no rows", f"set {key} to a file with rows")
    places, records = map(list, zip(*numbered, strict=True))
    if is_parquet(path):
        names = pq.read_schema(path).names
    else:
        names = list(dict.fromkeys(name for record in records for name in record))
    return DataFile(key, path, names, records, places)


def iter_records(path: str, key: str, columns: set[str] | None = None) -> Iterator[tuple[int, Record]]:
    """(place, record) of a file: Parquet, JSON (an object or a list), JSONL or CSV with a header line.

    A Parquet file is read a block at a time and may have any name; `columns` limits what is read of it.

    Raises:
        ValueError: unknown suffix; missing, empty or unreadable file; a record that is no object.
    """
    check_file(path, key)
    suffix = Path(path).suffix.lower()
    if is_parquet(path):
        yield from _parquet_records(path, key, columns)
    elif suffix == ".csv":
        yield from _csv_records(path, key)
    elif suffix in DATA_SUFFIXES:
        for place, record in _json_lines(path, key) if suffix == ".jsonl" else _json_rows(path, key):
            if not isinstance(record, dict):
                file = DataFile(key, path, [], [], [])
                problem = f"{file.named([place])} is a {type(record).__name__}"
                raise file.error(problem, "every record must be an object", [place])
            yield place, record
    else:
        allowed = f"allowed are {', '.join(DATA_SUFFIXES)}"
        raise bad_input(key, path, f"unknown suffix '{suffix}'", allowed)


def check_file(path: str, key: str) -> None:
    """Raises ValueError unless `path` is a file with content that is not a Git LFS pointer."""
    if not path:
        raise ValueError(f"{key} is empty; set it to a file, or data.source=synthetic for generated problems")
    if Path(path).is_dir():
        files = sorted(file.name for file in Path(path).iterdir() if file.suffix.lower() in DATA_SUFFIXES)
        names = ", ".join(files[:_NAMED]) or "it has no data file"
        raise bad_input(key, path, "this is a folder", f"set {key} to a file in it ({names})")
    if not Path(path).is_file():
        raise bad_input(key, path, "no such file", f"set {key} to an existing file")
    start = _start(path)
    if not start:
        raise bad_input(key, path, "the file is empty (0 bytes)", f"set {key} to a file with rows")
    if start.startswith(_LFS_MAGIC):
        advice = "fetch the data with `git lfs pull` in its folder"
        raise bad_input(key, path, "this is a Git LFS pointer, not the data", advice)


def _start(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(len(_LFS_MAGIC))


def is_parquet(path: str) -> bool:
    suffix = Path(path).suffix.lower()
    return suffix == ".parquet" or (suffix not in DATA_SUFFIXES and _start(path).startswith(_PARQUET_MAGIC))


def read_parquet(path: str, key: str) -> pa.Table:
    """A Parquet file with all its columns. Raises ValueError if it cannot be read, or has no rows."""
    check_file(path, key)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, key, error) from error
    if table.num_rows == 0:
        raise bad_input(key, path, "the file has no rows", f"set {key} to a file with rows")
    return table


def read_table(path: str, key: str) -> pa.Table:
    """The records of a file of any kind as a table; a Parquet file as it is."""
    if is_parquet(path):
        return read_parquet(path, key)
    return pa.Table.from_pylist([record for _, record in iter_records(path, key)])


def _not_parquet(path: str, key: str, error: Exception) -> ValueError:
    ways = f"set {key} to a valid Parquet file"
    if Path(path).suffix.lower() in DATA_SUFFIXES[1:]:
        ways = f"`coreward prepare own {path} --output DIR` makes a Parquet file of it"
    return bad_input(key, path, f"not readable as Parquet ({error})", ways)


def _parquet_records(path: str, key: str, columns: set[str] | None) -> Iterator[tuple[int, Record]]:
    try:
        with pq.ParquetFile(path) as file:
            wanted = [name for name in file.schema_arrow.names if columns is None or name in columns]
            place = 0
            for block in file.iter_batches(_BLOCK_ROWS, columns=wanted):
                # Without a column a block knows its length, but not its rows.
                records = block.to_pylist() if wanted else [{}] * block.num_rows
                yield from enumerate(records, start=place)
                place += block.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, key, error) from error


def _text(path: str, key: str, form: str) -> str:
    """A text file's content, without a byte-order mark."""
    content = Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise bad_input(
            key, f"{path}:{line}", f"not readable as {form} (not UTF-8: {error.reason})", "save it as UTF-8"
        ) from error


def read_json(path: str, key: str) -> Any:
    """The content of a JSON file. Raises ValueError if it cannot be read."""
    check_file(path, key)
    text = _text(path, key, "JSON")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{path}:{error.lineno}"
        problem = f"not readable as JSON ({error.msg}, column {error.colno})"
        raise bad_input(key, place, problem, "set it to a valid JSON file") from error


def _json_rows(path: str, key: str) -> Iterator[tuple[int, Any]]:
    content = read_json(path, key)
    yield from enumerate(content if isinstance(content, list) else [content])


def _line_of(path: str, row: int) -> int:
    """The line on which a record of a JSON file begins, from 1."""
    text = Path(path).read_text(encoding="utf-8-sig")
    place = _skip_blanks(text, 0)
    if text[place] == "[":
        place = _skip_blanks(text, place + 1)
        for _ in range(row):
            _, end = json.JSONDecoder().raw_decode(text, place)
            place = _skip_blanks(text, _skip_blanks(text, end) + 1)  # the comma
    return text.count("\n", 0, place) + 1


def _skip_blanks(text: str, place: int) -> int:
    while text[place].isspace():
        place += 1
    return place


def _json_lines(path: str, key: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(_text(path, key, "JSON lines").split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                problem = f"not readable as JSON lines ({error.msg}, column {error.colno})"
                raise bad_input(
                    key, f"{path}:{number}", problem, "every line must be a JSON object"
                ) from error


def _csv_records(path: str, key: str) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(_LARGEST_FIELD)
    lines = csv.reader(io.StringIO(_text(path, key, "CSV"), newline=""), strict=True)
    header: list[str] = []
    place = 1
    try:
        for fields in lines:
            if fields and not header:
                header = fields
            elif fields:
                if len(fields) != len(header):
                    raise csv.Error("a line has more or fewer fields than the header")
                yield place, dict(zip(header, fields, strict=True))
            place = lines.line_num + 1  # a field may go over several lines; a record begins at its first
    except csv.Error as error:
        problem = f"not readable as CSV ({error})"
        raise bad_input(key, f"{path}:{place}", problem, "it needs a header line and UTF-8") from error
