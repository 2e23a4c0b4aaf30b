"""Tables of questions from files, with errors that name the key, the file and what is wrong.

Parquet files become a `Table` with typed columns. `iter_records` reads rows of any supported format as
dicts, a block at a time, so that a file of millions of rows needs no memory.
"""

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RECORD_SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")
_BLOCK_ROWS = 4096
_LARGEST_FIELD = 1 << 30


def bad_input(key: str, path: str, problem: str, allowed: str) -> ValueError:
    return ValueError(f"{key}={path}: {problem}; {allowed}")


@dataclass(frozen=True)
class Table:
    """A Parquet table with the names that its error messages need."""

    key: str
    path: str
    table: pa.Table

    def error(self, problem: str, allowed: str) -> ValueError:
        return bad_input(self.key, self.path, problem, allowed)

    def _type(self, column: str) -> pa.DataType | None:
        """Type of a column, nested names with dots; None where it does not exist."""
        fields: pa.Schema | pa.DataType = self.table.schema
        for name in column.split("."):
            if not isinstance(fields, pa.Schema) and not pa.types.is_struct(fields):
                return None
            if fields.get_field_index(name) < 0:
                return None
            fields = fields.field(name).type
        return fields

    def has(self, column: str) -> bool:
        return self._type(column) is not None

    def values(self, column: str) -> list[Any]:
        outer, *inner = column.split(".")
        values = self.table.column(outer).to_pylist()
        for name in inner:
            values = [None if value is None else value[name] for value in values]
        return values

    def required(self, column: str, kind: str) -> list[Any]:
        """Values of a column that must exist with type `kind`, a key of _KINDS."""
        column_type = self._type(column)
        if column_type is None:
            raise self.error(
                f"no column '{column}' among {', '.join(self.table.column_names)}",
                "a file of one view needs prompt (and for pairs extra_info.index), one file of both views, "
                "alone in data.original, needs original_question and rephrased_question",
            )
        if not _KINDS[kind](column_type):
            raise self.error(f"column '{column}' has type {column_type}", f"it must be {kind}")
        return self.values(column)

    def optional(self, column: str) -> list[str | None]:
        """Values of a column as text; None where column or value is absent or blank."""
        if not self.has(column):
            return [None] * self.table.num_rows
        return [text_or_none(value) for value in self.values(column)]

    def questions(self, column: str) -> list[str]:
        return [
            self._question(row, [value] if value else [])
            for row, value in enumerate(self.required(column, "text"))
        ]

    def user_turns(self) -> list[str]:
        """The one user turn of every prompt."""
        prompts = self.required("prompt", "list<struct<content: text, role: text>>")
        return [
            self._question(row, [turn["content"] for turn in prompt or () if turn and turn["role"] == "user"])
            for row, prompt in enumerate(prompts)
        ]

    def _question(self, row: int, texts: list[str | None]) -> str:
        filled = [text for text in texts if text and text.strip()]
        if len(texts) != 1 or len(filled) != 1:
            raise self.error(
                f"row {row} has {len(filled)} questions",
                "every row needs one user turn (or question) with text",
            )
        return filled[0]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_messages(kind: pa.DataType) -> bool:
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(
        kind.value_type
    ):
        return False
    turn = kind.value_type
    return all(
        turn.get_field_index(name) >= 0 and _is_text(turn.field(name).type) for name in ("content", "role")
    )


_KINDS = {
    "text": _is_text,
    "integer": pa.types.is_integer,
    "list<struct<content: text, role: text>>": _is_messages,
}


def text_or_none(value: Any) -> str | None:
    text = "" if value is None else str(value)
    return text if text.strip() else None


def check_file(path: str, key: str) -> None:
    if not path:
        raise ValueError(f"{key} is empty; set it to a file, or data.source=synthetic for generated problems")
    if not Path(path).is_file():
        raise bad_input(key, path, "no such file", f"set {key} to an existing file")
    if Path(path).stat().st_size == 0:
        raise bad_input(key, path, "the file is empty (0 bytes)", f"set {key} to a file with rows")


def read_parquet(path: str, key: str) -> Table:
    check_file(path, key)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, key, error) from error
    if table.num_rows == 0:
        raise bad_input(key, path, "the file has no rows", f"set {key} to a file with rows")
    return Table(key, path, table)


def _not_parquet(path: str, key: str, error: Exception) -> ValueError:
    return bad_input(key, path, f"not readable as Parquet ({error})", f"set {key} to a valid Parquet file")


def read_json(path: str, key: str, lines: bool) -> Any:
    """The content of a JSON file, or the list of a JSONL file's lines."""
    check_file(path, key)
    try:
        text = Path(path).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        form = "JSON lines" if lines else "JSON"
        raise bad_input(
            key, path, f"not readable as {form} ({error})", f"set it to a valid {form} file"
        ) from error


def iter_records(path: str, key: str) -> Iterator[dict[str, Any]]:
    """The rows of a Parquet, JSON (one object or a list of them), JSONL or CSV file (with a header line).

    Raises:
        ValueError: unknown suffix; missing, empty or unreadable file; a row that is no object.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in RECORD_SUFFIXES:
        raise bad_input(key, path, f"unknown suffix '{suffix}'", f"allowed are {', '.join(RECORD_SUFFIXES)}")
    check_file(path, key)
    if suffix == ".parquet":
        yield from _parquet_records(path, key)
    elif suffix == ".csv":
        yield from _csv_records(path, key)
    else:
        content = read_json(path, key, lines=suffix == ".jsonl")
        for row, record in enumerate(content if isinstance(content, list) else [content]):
            if not isinstance(record, dict):
                raise bad_input(
                    key, path, f"record {row} is a {type(record).__name__}", "every record must be an object"
                )
            yield record


def _parquet_records(path: str, key: str) -> Iterator[dict[str, Any]]:
    try:
        with pq.ParquetFile(path) as file:
            for block in file.iter_batches(_BLOCK_ROWS):
                yield from block.to_pylist()
    except (pa.ArrowInvalid, OSError) as error:
        raise _not_parquet(path, key, error) from error


def _csv_records(path: str, key: str) -> Iterator[dict[str, Any]]:
    csv.field_size_limit(_LARGEST_FIELD)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for record in csv.DictReader(file, strict=True):
                if None in record or None in record.values():
                    raise csv.Error("a line has more or fewer fields than the header")
                yield record
    except (csv.Error, UnicodeDecodeError, OSError) as error:
        raise bad_input(
            key, path, f"not readable as CSV ({error})", "it needs a header line and UTF-8"
        ) from error
