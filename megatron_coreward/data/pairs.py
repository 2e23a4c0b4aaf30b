"""Question pairs and evaluation questions from files.

Pairs come from two Parquet files in the schema of the paper's data, aligned row by row on
`extra_info.index`, or from one file with both wordings:

    two files   prompt list<struct<content, role>>, extra_info.index;
                optional reward_model.ground_truth, level, type
    one file    original_question, rephrased_question; optional answer (or solution), level, type

The user turn of `prompt` is the question; the file's own system turn is ignored (data.system_prompt is used).
Training is label-free: a ground truth that is absent, null or empty gives `answer=None` and never an error;
it is for evaluation and diagnostics only. Evaluation files (Parquet, JSON, JSONL) must have every answer.

Departs from the authors' loader: files that do not hold the same problems row by row are refused, and the
system turn comes from the configuration.
"""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

logger = logging.getLogger(__name__)

QUESTION_SUFFIXES = (".parquet", ".json", ".jsonl")
GSM8K_MARK = "####"


@dataclass(frozen=True)
class PairRecord:
    """A pair as a file holds it, before tokenisation. `pair_id` is its row number."""

    pair_id: int
    original: str
    rephrased: str
    answer: str | None = None
    level: str = ""
    subject: str = ""


@dataclass(frozen=True)
class Question:
    """An evaluation question; `question_id` is its row number."""

    question_id: int
    question: str
    answer: str
    level: str = ""
    subject: str = ""


def load_pairs(original: str, rephrased: str = "") -> list[PairRecord]:
    """Pairs of the files data.original and data.rephrased, or of one file with both views.

    Raises ValueError for a missing, empty or corrupted file, a missing column, a wrong column type, a row
    without a question, and files that are not aligned.
    """
    first = _read_parquet(original, "data.original")
    if rephrased:
        second = _read_parquet(rephrased, "data.rephrased")
        originals, rephrasings = first.user_turns(), second.user_turns()
        _check_aligned(first, second)
        answers = first.optional("reward_model.ground_truth")
    else:
        originals, rephrasings = first.questions("original_question"), first.questions("rephrased_question")
        answers = first.optional("answer" if first.has("answer") else "solution")
    levels, subjects = first.optional("level"), first.optional("type")
    pairs = [
        PairRecord(row, one, other, answer, level or "", subject or "")
        for row, (one, other, answer, level, subject) in enumerate(
            zip(originals, rephrasings, answers, levels, subjects, strict=True)
        )
    ]
    logger.info("%d pairs from %s", len(pairs), " and ".join(filter(None, (original, rephrased))))
    return pairs


def load_questions(path: str) -> list[Question]:
    """Questions of evaluation.file.

    Parquet in the schema above, JSON (a list of objects) or JSONL (an object per line) with `prompt` or
    `question`, `answer`, and optional `level` and `type` or `subject`. An answer in GSM8K's form gives the
    number after ####. Raises ValueError as load_pairs does, and for any question without an answer.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in QUESTION_SUFFIXES:
        raise _error(
            "evaluation.file",
            path,
            f"unknown suffix '{suffix}'",
            f"allowed are {', '.join(QUESTION_SUFFIXES)}",
        )
    if suffix == ".parquet":
        return _parquet_questions(_read_parquet(path, "evaluation.file"))
    return _json_questions(path, lines=suffix == ".jsonl")


def _error(key: str, path: str, found: str, allowed: str) -> ValueError:
    return ValueError(f"{key}={path}: {found}; {allowed}")


@dataclass(frozen=True)
class _Table:
    """A Parquet table with the names that its error messages need."""

    key: str
    path: str
    table: pa.Table

    def error(self, found: str, allowed: str) -> ValueError:
        return _error(self.key, self.path, found, allowed)

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
        found = self._type(column)
        if found is None:
            raise self.error(
                f"no column '{column}' among {', '.join(self.table.column_names)}",
                "a file of one view needs prompt (and for pairs extra_info.index), one file of both views, "
                "alone in data.original, needs original_question and rephrased_question",
            )
        if not _KINDS[kind](found):
            raise self.error(f"column '{column}' has type {found}", f"it must be {kind}")
        return self.values(column)

    def optional(self, column: str) -> list[str | None]:
        """Values of a column as text; None where column or value is absent or blank."""
        if not self.has(column):
            return [None] * self.table.num_rows
        return [_text_or_none(value) for value in self.values(column)]

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


def _text_or_none(value: Any) -> str | None:
    text = "" if value is None else str(value)
    return text if text.strip() else None


def _check_file(path: str, key: str) -> None:
    if not path:
        raise ValueError(f"{key} is empty; set it to a file, or data.source=synthetic for generated problems")
    if not Path(path).is_file():
        raise _error(key, path, "no such file", f"set {key} to an existing file")
    if Path(path).stat().st_size == 0:
        raise _error(key, path, "the file is empty (0 bytes)", f"set {key} to a file with rows")


def _read_parquet(path: str, key: str) -> _Table:
    _check_file(path, key)
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except (pa.ArrowInvalid, OSError) as error:
        raise _error(
            key, path, f"not readable as Parquet ({error})", f"set {key} to a valid Parquet file"
        ) from error
    if table.num_rows == 0:
        raise _error(key, path, "the file has no rows", f"set {key} to a file with rows")
    return _Table(key, path, table)


def _check_aligned(first: _Table, second: _Table) -> None:
    if first.table.num_rows != second.table.num_rows:
        raise second.error(
            f"{second.table.num_rows} rows, but data.original={first.path} has {first.table.num_rows}",
            "the files must hold the same problems in the same order",
        )
    indices = zip(
        first.required("extra_info.index", "integer"),
        second.required("extra_info.index", "integer"),
        strict=True,
    )
    for row, (index, other) in enumerate(indices):
        if index != other:
            raise second.error(
                f"row {row} has extra_info.index {other}, but {index} in data.original={first.path}",
                "the files must hold the same problems in the same order",
            )


def _parquet_questions(source: _Table) -> list[Question]:
    rows = zip(
        source.user_turns(),
        source.optional("reward_model.ground_truth"),
        source.optional("level"),
        source.optional("type"),
        strict=True,
    )
    questions = []
    for row, (question, answer, level, subject) in enumerate(rows):
        if answer is None:
            raise source.error(
                f"row {row} has no answer", "evaluation needs text in reward_model.ground_truth in every row"
            )
        questions.append(Question(row, question, answer, level or "", subject or ""))
    return questions


def _json_questions(path: str, lines: bool) -> list[Question]:
    _check_file(path, "evaluation.file")
    try:
        text = Path(path).read_text(encoding="utf-8")
        records = (
            [json.loads(line) for line in text.split("\n") if line.strip()] if lines else json.loads(text)
        )
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        form = "JSON lines" if lines else "JSON"
        raise _error(
            "evaluation.file", path, f"not readable as {form} ({error})", f"set it to a valid {form} file"
        ) from error
    if not isinstance(records, list) or not records:
        raise _error(
            "evaluation.file",
            path,
            f"a {type(records).__name__} without records",
            "it must be a list of objects",
        )
    return [_json_question(row, record, path) for row, record in enumerate(records)]


def _json_question(row: int, record: Any, path: str) -> Question:
    if not isinstance(record, dict):
        raise _error(
            "evaluation.file",
            path,
            f"record {row} is a {type(record).__name__}",
            "every record must be an object",
        )
    question = _first(record, ("prompt", "question"))
    answer = _final_answer(record.get("answer"))
    if not isinstance(question, str) or not question.strip() or answer is None:
        raise _error(
            "evaluation.file",
            path,
            f"record {row} has keys {', '.join(record)}",
            "every record needs text in 'prompt' or 'question' and an 'answer'",
        )
    level, subject = record.get("level"), _first(record, ("type", "subject"))
    return Question(row, question, answer, _text_or_none(level) or "", _text_or_none(subject) or "")


def _first(record: dict[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def _final_answer(value: Any) -> str | None:
    """The number after GSM8K's last ####, without thousands commas; other answers as they are."""
    answer = _text_or_none(value) or ""
    _, mark, number = answer.rpartition(GSM8K_MARK)
    return (number.strip().replace(",", "") if mark else answer) or None
