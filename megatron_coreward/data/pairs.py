"""Question pairs and evaluation questions from files.

Pairs come from two files aligned row by row on `extra_info.index`, as the paper's data are, or from one file
with both wordings. A run that answers original questions only needs no rephrasings. tables.py reads the
files, columns.py finds question, rephrasing and ground truth in a record; docs/data.md has the tables.

Training is label-free: a ground truth that is absent or empty gives `answer=None` and never an error, and one
that cannot be read does so with a warning. Evaluation, and a reward that needs the truth, refuse such a file.

Departs from the authors' loader: files that do not hold the same problems row by row are refused, and the
system turn comes from the configuration.
"""

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from megatron_coreward.data.columns import (
    ALL_COLUMNS,
    INDEX_COLUMNS,
    QUESTION_COLUMNS,
    REPHRASED_COLUMNS,
    TRUTH_COLUMNS,
    Missing,
    Unreadable,
    has,
    index_of,
    label_of,
    lookup,
    no_column,
    question_of,
    truth_of,
)
from megatron_coreward.data.tables import DataFile, Record, read_file

logger = logging.getLogger(__name__)

PAIR_KEYS = ("data.original", "data.rephrased")
_MATH_ID = re.compile(r"(?:train|test)/(\w+)/\d+\.json")
_SAME_SHARE = 0.9
_REASONS_NAMED = 3
_Value = TypeVar("_Value")


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


def load_pairs(
    original: str,
    rephrased: str = "",
    keys: tuple[str, str] = PAIR_KEYS,
    *,
    rephrased_needed: bool = True,
    truth_needed: bool = False,
) -> list[PairRecord]:
    """Pairs of the files data.original and data.rephrased, or of one file with both wordings.

    Unless `rephrased_needed`, a file of originals will do, and the rephrasings are empty. With `truth_needed`
    ground truths that cannot be read are refused; those that are absent stay None. `keys` are the options
    that error messages name.

    Raises ValueError for a missing, empty or corrupted file, a missing column, a row without a question, and
    files that are not aligned.
    """
    first = read_file(original, keys[0], ALL_COLUMNS)
    originals = _texts(first, QUESTION_COLUMNS, "question")
    rephrasings = [""] * len(originals)
    if rephrased:
        second = read_file(rephrased, keys[1], ALL_COLUMNS)
        rephrasings = _texts(second, (*REPHRASED_COLUMNS, *QUESTION_COLUMNS), "question")
        _check_aligned(first, second)
    elif _has_any(first, REPHRASED_COLUMNS):
        rephrasings = _texts(first, REPHRASED_COLUMNS, "rephrasing")
    elif rephrased_needed:
        ways = f"name their file in {keys[1]}"
        if keys == PAIR_KEYS:
            ways += (
                "; `coreward rephrase` makes one, and reward.method=majority_voting learns from the original "
                "questions alone"
            )
        raise first.error(f"no rephrasings: {no_column(REPHRASED_COLUMNS, first.columns)}", ways)
    truths, faults = _ground_truths(first)
    unreadable = {place: fault for place, fault in faults.items() if not isinstance(fault, Missing)}
    if unreadable and truth_needed:
        raise _no_truth(first, unreadable)
    if unreadable:
        logger.warning(
            "%s=%s: %d of %d ground truths are not read and count as absent (only metrics use them): %s",
            *(first.key, first.path, len(unreadable), len(truths)),
            _by_reason(first, unreadable, "no answer"),
        )
    pairs = [
        PairRecord(
            row, one, other, truth, label_of(record, ("level",)), label_of(record, ("type", "subject"))
        )
        for row, (one, other, truth, record) in enumerate(
            zip(originals, rephrasings, truths, first.records, strict=True)
        )
    ]
    logger.info("%d pairs from %s", len(pairs), " and ".join(filter(None, (original, rephrased))))
    return pairs


def load_originals(path: str, key: str) -> list[str]:
    """The questions of a file that is going to be the first of two. Raises ValueError as load_pairs does."""
    file = read_file(path, key, ALL_COLUMNS)
    questions = _texts(file, QUESTION_COLUMNS, "question")
    _indices(file)
    return questions


def check_wordings_differ(pairs: Sequence[PairRecord], original: str, rephrased: str) -> None:
    """Raises ValueError if the rephrasings are the original questions, in nearly all pairs.

    Both wordings then have one vote, and judging one by the other is majority voting at twice the cost.
    """
    same = sum(" ".join(pair.original.split()) == " ".join(pair.rephrased.split()) for pair in pairs)
    if rephrased and Path(original).samefile(rephrased):
        problem = f"data.rephrased={rephrased}: this is the file of data.original"
    elif same >= _SAME_SHARE * len(pairs):
        name = f"data.rephrased={rephrased}" if rephrased else f"data.original={original}"
        problem = f"{name}: {same} of {len(pairs)} rephrasings are their original question"
    else:
        return
    raise ValueError(
        f"{problem}; set data.rephrased to rephrasings (`coreward rephrase` makes them), or "
        "reward.method=majority_voting with an empty data.rephrased"
    )


def load_questions(path: str, key: str = "evaluation.file") -> list[Question]:
    """Questions of a benchmark file, each with its ground truth.

    An `id` in MATH's form (test/SUBJECT/807.json) gives the subject that is not given otherwise. `key` is the
    option that error messages name. Raises ValueError as load_pairs does, and for questions without a ground
    truth that can be read, with their places and the reasons.
    """
    file = read_file(path, key, ALL_COLUMNS)
    questions = _texts(file, QUESTION_COLUMNS, "question")
    if not _has_any(file, TRUTH_COLUMNS):
        raise file.error(f"no answers: {no_column(TRUTH_COLUMNS, file.columns)}", "every question needs one")
    truths, faults = _ground_truths(file)
    if faults:
        raise _no_truth(file, faults)
    rows = zip(questions, truths, file.records, strict=True)
    return [
        Question(row, question, truth or "", label_of(record, ("level",)), _subject(record))
        for row, (question, truth, record) in enumerate(rows)
    ]


def _subject(record: Record) -> str:
    path = _MATH_ID.fullmatch(str(lookup(record, "id")))
    return label_of(record, ("type", "subject")) or (path[1] if path else "")


def _has_any(file: DataFile, columns: Sequence[str]) -> bool:
    return any(has(record, column) for record in file.records for column in columns)


def _texts(file: DataFile, columns: Sequence[str], what: str) -> list[str]:
    """The text under `columns` in every record. Raises ValueError where there is none, with the reasons."""
    if not _has_any(file, columns):
        raise file.error(
            no_column(columns, file.columns),
            "these names are read; `coreward prepare own --question-column NAME` takes another",
        )
    return _all_of(file, lambda record: question_of(record, columns), f"no {what}", "every record needs one")


def _all_of(file: DataFile, read: Callable[[Record], _Value], lacking: str, needed: str) -> list[_Value]:
    """What `read` finds in every record. Raises ValueError for the records where it cannot."""
    values: list[_Value] = []
    faults: dict[int, Unreadable] = {}
    for place, record in zip(file.places, file.records, strict=True):
        try:
            values.append(read(record))
        except Unreadable as error:
            faults[place] = error
    if faults:
        raise file.error(_by_reason(file, faults, lacking), needed, sorted(faults))
    return values


def _ground_truths(file: DataFile) -> tuple[list[str | None], dict[int, Unreadable]]:
    """The ground truths, and why there is none (Missing) or it cannot be read, by place."""
    truths: list[str | None] = []
    faults: dict[int, Unreadable] = {}
    for place, record in zip(file.places, file.records, strict=True):
        try:
            truths.append(truth_of(record))
        except Unreadable as error:
            truths.append(None)
            faults[place] = error
    return truths, faults


def _no_truth(file: DataFile, faults: Mapping[int, Unreadable]) -> ValueError:
    return file.error(
        _by_reason(file, faults, "no answer"),
        "a ground truth must be a number or a text with the answer alone, in \\boxed{} or after ####; "
        "mend these records or leave them out",
        sorted(faults),
    )


def _by_reason(file: DataFile, faults: Mapping[int, Unreadable], lacking: str) -> str:
    """'lines 2, 5 have no answer: column 'answer' is null, line 7 has ...', the first reasons first."""
    groups: dict[str, list[int]] = {}
    for place in sorted(faults):
        groups.setdefault(str(faults[place]), []).append(place)
    named = [
        f"{file.named(places)} {'have' if len(places) > 1 else 'has'} {lacking}: {reason}"
        for reason, places in groups.items()
    ]
    left = len(named) - _REASONS_NAMED
    return ", ".join(named[:_REASONS_NAMED]) + (f", and {left} more reasons" if left > 0 else "")


def _check_aligned(first: DataFile, second: DataFile) -> None:
    if len(first.records) != len(second.records):
        raise second.error(
            f"{len(second.records)} rows, but {first.key}={first.path} has {len(first.records)}",
            "the files must hold the same problems in the same order",
        )
    for row, (index, other) in enumerate(zip(_indices(first), _indices(second), strict=True)):
        if index != other:
            raise second.error(
                f"{second.named([second.places[row]])} has extra_info.index {other}, but {index} in "
                f"{first.key}={first.path}",
                "the files must hold the same problems in the same order",
                [second.places[row]],
            )


def _indices(file: DataFile) -> list[int]:
    """The index of every record. Raises ValueError where there is none, since null equals null."""
    needed = "two files are aligned on a number that both wordings of a question share"
    if not _has_any(file, INDEX_COLUMNS):
        raise file.error(no_column(INDEX_COLUMNS, file.columns), needed)
    indices = _all_of(file, index_of, "no index", needed)
    repeated = len(indices) - len(set(indices))
    if repeated:
        logger.warning(
            "%s=%s: %d rows repeat an index, so files in another order might not be noticed",
            *(file.key, file.path, repeated),
        )
    return indices
