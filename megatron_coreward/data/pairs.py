"""Question pairs and evaluation questions from files.

Pairs come from two Parquet files in the schema of the paper's data, aligned row by row on
`extra_info.index`, or from one file with both wordings:

    two files   prompt list<struct<content, role>>, extra_info.index;
                optional reward_model.ground_truth, level, type
    one file    original_question, rephrased_question; optional answer (or solution), level, type
    originals   a run that answers original questions only needs no more than the first of two files

The user turn of `prompt` is the question; the file's own system turn is ignored (data.system_prompt is used).
Training is label-free: a ground truth that is absent, null or empty gives `answer=None` and never an error;
it is for evaluation and diagnostics only. Evaluation files (Parquet, JSON, JSONL) must have every answer.

Departs from the authors' loader: files that do not hold the same problems row by row are refused, and the
system turn comes from the configuration.
"""

import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.data.tables import Table, bad_input, read_json, read_parquet, text_or_none

logger = logging.getLogger(__name__)

QUESTION_SUFFIXES = (".parquet", ".json", ".jsonl")
GSM8K_MARK = "####"
_QUESTION_KEYS = ("prompt", "question", "problem")
_MATH_ID = re.compile(r"(?:train|test)/(\w+)/\d+\.json")
_ROWS_NAMED = 10


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


PAIR_KEYS = ("data.original", "data.rephrased")


def load_pairs(
    original: str,
    rephrased: str = "",
    keys: tuple[str, str] = PAIR_KEYS,
    *,
    rephrased_needed: bool = True,
) -> list[PairRecord]:
    """Pairs of the files data.original and data.rephrased, or of one file with both views.

    Unless `rephrased_needed`, a file of originals will do, and the rephrasings are empty. `keys` are the
    options that error messages name.

    Raises ValueError for a missing, empty or corrupted file, a missing column, a wrong column type, a row
    without a question, and files that are not aligned.
    """
    first = read_parquet(original, keys[0])
    if rephrased:
        second = read_parquet(rephrased, keys[1])
        originals, rephrasings = first.user_turns(), second.user_turns()
        _check_aligned(first, second)
        answers = first.optional("reward_model.ground_truth")
    elif not rephrased_needed and not first.has("original_question"):
        originals, answers = first.user_turns(), first.optional("reward_model.ground_truth")
        rephrasings = [""] * len(originals)
    else:
        originals, rephrasings = first.questions("original_question"), first.questions("rephrased_question")
        answers = first.optional("answer" if first.has("answer") else "solution")
    levels, subjects = first.optional("level"), first.optional("type")
    pairs = [
        PairRecord(row, question, rephrased_question, answer, level or "", subject or "")
        for row, (question, rephrased_question, answer, level, subject) in enumerate(
            zip(originals, rephrasings, answers, levels, subjects, strict=True)
        )
    ]
    logger.info("%d pairs from %s", len(pairs), " and ".join(filter(None, (original, rephrased))))
    return pairs


def load_questions(path: str, key: str = "evaluation.file") -> list[Question]:
    """Questions of a benchmark file.

    Parquet in the schema above, JSON (a list of objects) or JSONL (an object per line) with `prompt`,
    `question` or `problem`, `answer`, and optional `level` and `type` or `subject`. An answer in GSM8K's form
    gives the number after ####; an `id` in MATH's form (test/SUBJECT/807.json) the subject that is not given.
    `key` is the option that error messages name. Raises ValueError as load_pairs does, and for questions
    without an answer, with their rows.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in QUESTION_SUFFIXES:
        raise bad_input(
            key, path, f"unknown suffix '{suffix}'", f"allowed are {', '.join(QUESTION_SUFFIXES)}"
        )
    if suffix == ".parquet":
        return _parquet_questions(read_parquet(path, key))
    return _json_questions(path, key, lines=suffix == ".jsonl")


def _check_aligned(first: Table, second: Table) -> None:
    if first.table.num_rows != second.table.num_rows:
        raise second.error(
            f"{second.table.num_rows} rows, but {first.key}={first.path} has {first.table.num_rows}",
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
                f"row {row} has extra_info.index {other}, but {index} in {first.key}={first.path}",
                "the files must hold the same problems in the same order",
            )


def _parquet_questions(source: Table) -> list[Question]:
    answers = source.optional("reward_model.ground_truth")
    missing = [row for row, answer in enumerate(answers) if answer is None]
    if missing:
        raise source.error(
            f"{_rows(missing)} no answer", "evaluation needs text in reward_model.ground_truth in every row"
        )
    rows = zip(source.user_turns(), answers, source.optional("level"), source.optional("type"), strict=True)
    return [
        Question(row, question, answer or "", level or "", subject or "")
        for row, (question, answer, level, subject) in enumerate(rows)
    ]


def _rows(numbers: Sequence[int]) -> str:
    """'row 3 has', 'rows 3, 5 have', or the first _ROWS_NAMED numbers 'and 7 more have'."""
    if len(numbers) == 1:
        return f"row {numbers[0]} has"
    named, left = ", ".join(map(str, numbers[:_ROWS_NAMED])), len(numbers) - _ROWS_NAMED
    return f"rows {named}{f' and {left} more' if left > 0 else ''} have"


def _json_questions(path: str, key: str, lines: bool) -> list[Question]:
    records = read_json(path, key, lines)
    if not isinstance(records, list) or not records:
        raise bad_input(
            key, path, f"a {type(records).__name__} without records", "it must be a list of objects"
        )
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise bad_input(
                key, path, f"record {row} is a {type(record).__name__}", "every record must be an object"
            )
    questions = [_json_question(row, record) for row, record in enumerate(records)]
    for what, names, missing in (
        ("question", _QUESTION_KEYS, [q.question_id for q in questions if not q.question]),
        ("answer", ("answer",), [q.question_id for q in questions if not q.answer]),
    ):
        if missing:
            raise bad_input(
                key,
                path,
                f"{_rows(missing)} no {what}; row {missing[0]} has the keys {', '.join(records[missing[0]])}",
                f"every record needs {' or '.join(map(repr, names))}",
            )
    return questions


def _json_question(row: int, record: dict[str, Any]) -> Question:
    """Empty texts where the record has no question or no answer."""
    question = _first(record, _QUESTION_KEYS)
    path = _MATH_ID.fullmatch(str(record.get("id", "")))
    subject = text_or_none(_first(record, ("type", "subject"))) or (path[1] if path else "")
    return Question(
        row,
        question if isinstance(question, str) and question.strip() else "",
        final_answer(record.get("answer")) or "",
        text_or_none(record.get("level")) or "",
        subject,
    )


def _first(record: dict[str, Any], names: Iterable[str]) -> Any:
    return next((record[name] for name in names if name in record), None)


def final_answer(value: Any) -> str | None:
    """The number after GSM8K's last ####, without thousands commas; other answers as they are."""
    answer = text_or_none(value) or ""
    _, mark, number = answer.rpartition(GSM8K_MARK)
    return (number.strip().replace(",", "") if mark else answer) or None
