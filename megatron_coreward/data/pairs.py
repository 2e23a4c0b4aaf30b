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
    RESPONSE_COLUMNS,
    TRUTH_COLUMNS,
    USUAL,
    Missing,
    NamedColumns,
    Unreadable,
    has,
    index_of,
    label_of,
    lookup,
    no_column,
    question_of,
    response_of,
    truth_of,
)
from megatron_coreward.data.tables import DataFile, Record, read_file
from megatron_coreward.utils.logging import warn

logger = logging.getLogger(__name__)

PAIR_KEYS = ("data.original", "data.rephrased")
EVALUATION_KEY = "evaluation.file"
PROBE_KEYS = ("monitor.original", "monitor.rephrased")
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
    named: NamedColumns = USUAL,
    rephrased_needed: bool = True,
    truth_needed: bool = False,
) -> list[PairRecord]:
    """Pairs of the files data.original and data.rephrased, or of one file with both wordings.

    Columns that are `named` must exist in `original`, the one of rephrasings in `rephrased` if that is given.
    Unless `rephrased_needed`, a file of originals will do, and the rephrasings are empty. With `truth_needed`
    ground truths that cannot be read are refused; those that are absent stay None. `keys` are the options
    that error messages name.

    Raises ValueError for a missing, empty or corrupted file, a missing column, a row without a question, and
    files that are not aligned.
    """
    first = _read(original, keys[0], named)
    originals = _texts(first, _chosen(first, named.question, QUESTION_COLUMNS, "question"), "question")
    rephrasings = [""] * len(originals)
    if rephrased:
        second = _read(rephrased, keys[1], named)
        questions = _present(second, named.question, QUESTION_COLUMNS)
        columns = _chosen(second, named.rephrased, (*REPHRASED_COLUMNS, *questions), "rephrased")
        rephrasings = _texts(second, columns, "question")
        _check_aligned(first, second)
    elif named.rephrased or _has_any(first, REPHRASED_COLUMNS):
        columns = _chosen(first, named.rephrased, REPHRASED_COLUMNS, "rephrased")
        rephrasings = _texts(first, columns, "rephrasing")
    elif rephrased_needed:
        raise _no_rephrasings(first, keys)
    truths = _training_truths(first, named.answer, needed=truth_needed)
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


def _no_rephrasings(file: DataFile, keys: tuple[str, str]) -> ValueError:
    ways = f"name their file in {keys[1]}"
    if keys == PAIR_KEYS:
        ways += (
            "; `coreward rephrase` makes one, and reward.method=majority_voting learns from the original "
            "questions alone; a column of another name is read with data.rephrased_column=NAME"
        )
    return file.error(f"no rephrasings: {no_column(REPHRASED_COLUMNS, file.columns)}", ways)


def load_originals(path: str, key: str) -> list[str]:
    """The questions of a file that is going to be the first of two. Raises ValueError as load_pairs does."""
    file = read_file(path, key, ALL_COLUMNS)
    questions = _texts(file, QUESTION_COLUMNS, "question")
    _indices(file)
    return questions


def check_wordings_differ(
    pairs: Sequence[PairRecord], original: str, rephrased: str, keys: tuple[str, str] = PAIR_KEYS
) -> None:
    """Raises ValueError if the rephrasings are the original questions, in nearly all pairs.

    Both wordings then have one vote, and judging one by the other is majority voting at twice the cost; a
    probe would find that they always agree. `keys` are the options that the message names.
    """
    same = sum(" ".join(pair.original.split()) == " ".join(pair.rephrased.split()) for pair in pairs)
    if rephrased and Path(original).resolve() == Path(rephrased).resolve():
        problem = f"{keys[1]}={rephrased}: this is the file of {keys[0]}"
    elif same >= _SAME_SHARE * len(pairs):
        name = f"{keys[1]}={rephrased}" if rephrased else f"{keys[0]}={original}"
        problem = f"{name}: {same} of {len(pairs)} rephrasings are their original question"
    else:
        return
    other = ", or reward.method=majority_voting with an empty data.rephrased" if keys == PAIR_KEYS else ""
    raise ValueError(f"{problem}; set {keys[1]} to rephrasings (`coreward rephrase` makes them){other}")


def load_questions(path: str, key: str = EVALUATION_KEY, named: NamedColumns = USUAL) -> list[Question]:
    """Questions of a benchmark file, each with its ground truth.

    Columns that are `named` for the training file are read where the file has them, else the usual ones.
    An `id` in MATH's form (test/SUBJECT/807.json) gives the subject that is not given otherwise. `key` is the
    option that error messages name. Raises ValueError as load_pairs does, and for questions without a ground
    truth that can be read, with their places and the reasons.
    """
    file = _read(path, key, named)
    questions = _texts(file, _present(file, named.question, QUESTION_COLUMNS), "question")
    columns = _present(file, named.answer, TRUTH_COLUMNS)
    if not _has_any(file, columns):
        needed = "every question needs one; a column of another name is read with data.answer_column=NAME"
        raise file.error(f"no answers: {no_column(columns, file.columns)}", needed)
    truths, faults = _ground_truths(file, columns)
    if faults:
        raise _no_truth(file, faults)
    rows = zip(questions, truths, file.records, strict=True)
    return [
        Question(row, question, truth or "", label_of(record, ("level",)), _subject(record))
        for row, (question, truth, record) in enumerate(rows)
    ]


def load_examples(path: str, named: NamedColumns = USUAL, response_column: str = "") -> list[tuple[str, str]]:
    """(question, response) of every record of the file data.original.

    Raises ValueError as load_pairs does, and for records without a response.
    """
    file = read_file(
        path, PAIR_KEYS[0], (*ALL_COLUMNS, *RESPONSE_COLUMNS, named.question, named.answer, response_column)
    )
    questions = _texts(file, _chosen(file, named.question, QUESTION_COLUMNS, "question"), "question")
    columns = _chosen(file, response_column, RESPONSE_COLUMNS, "response")
    if not _has_any(file, columns):
        needed = "supervised training needs one for every question; data.response_column=NAME takes another"
        raise file.error(f"no responses: {no_column(columns, file.columns)}", needed)
    responses = _all_of(
        *(file, lambda record: response_of(record, columns)),
        *("no response", "every record needs one"),
    )
    logger.info("%d questions with responses from %s", len(questions), path)
    return list(zip(questions, responses, strict=True))


def _subject(record: Record) -> str:
    path = _MATH_ID.fullmatch(str(lookup(record, "id")))
    return label_of(record, ("type", "subject")) or (path[1] if path else "")


def _read(path: str, key: str, named: NamedColumns) -> DataFile:
    return read_file(path, key, (*ALL_COLUMNS, named.question, named.rephrased, named.answer))


def _present(file: DataFile, named: str, usual: Sequence[str]) -> Sequence[str]:
    """The columns that are read: `named` alone if the file has it, else the usual ones."""
    return (named,) if named and _has_any(file, (named,)) else usual


def _chosen(file: DataFile, named: str, usual: Sequence[str], meaning: str) -> Sequence[str]:
    """As _present, but raises ValueError if a column is named that the file does not have."""
    columns = _present(file, named, usual)
    if named and columns == usual:
        key = f"data.{meaning}_column"
        raise file.error(no_column((named,), file.columns), f"{key} names it; set {key} to one of these")
    return columns


def _has_any(file: DataFile, columns: Sequence[str]) -> bool:
    return any(has(record, column) for record in file.records for column in columns)


def _texts(file: DataFile, columns: Sequence[str], what: str) -> list[str]:
    """The text under `columns` in every record. Raises ValueError where there is none, with the reasons."""
    if not _has_any(file, columns):
        other = "data.question_column=NAME" if file.key in (*PAIR_KEYS, EVALUATION_KEY, *PROBE_KEYS) else ""
        other = other or "`coreward prepare own --question-column NAME`"
        raise file.error(no_column(columns, file.columns), f"these names are read; {other} takes another")
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


def _training_truths(file: DataFile, named: str, *, needed: bool) -> list[str | None]:
    """The ground truths of a training file, None where there is none that can be read.

    Raises ValueError for those that cannot be read where they are `needed`.
    """
    truths, faults = _ground_truths(file, _chosen(file, named, TRUTH_COLUMNS, "answer"))
    unreadable = {place: fault for place, fault in faults.items() if not isinstance(fault, Missing)}
    if unreadable and needed:
        raise _no_truth(file, unreadable)
    if unreadable:
        warn(
            *(logger, "ground truths not read", f"{file.key} (its answers)"),
            "%s=%s: %d of %d ground truths are not read and count as absent (only metrics use them): %s",
            *(file.key, file.path, len(unreadable), len(truths), _by_reason(file, unreadable, "no answer")),
        )
    return truths


def _ground_truths(file: DataFile, columns: Sequence[str]) -> tuple[list[str | None], dict[int, Unreadable]]:
    """The ground truths, and why there is none (Missing) or it cannot be read, by place."""
    truths: list[str | None] = []
    faults: dict[int, Unreadable] = {}
    for place, record in zip(file.places, file.records, strict=True):
        try:
            truths.append(truth_of(record, columns))
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
        warn(
            *(logger, "repeated indices", f"{file.key} (its extra_info.index)"),
            "%s=%s: %d rows repeat an index, so files in another order might not be noticed",
            *(file.key, file.path, repeated),
        )
    return indices
