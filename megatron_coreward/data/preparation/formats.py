"""Records of public math data, or of your own, as questions with answers. A converter for each format."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from megatron_coreward.data.columns import (
    BOX,
    GSM8K_MARK,
    QUESTION_COLUMNS,
    REPHRASED_COLUMNS,
    TRUTH_COLUMNS,
    Missing,
    NamedColumns,
    Unreadable,
    find,
    has,
    label_of,
    question_of,
    truth_of,
)
from megatron_coreward.data.tables import Record


@dataclass(frozen=True)
class Item:
    """A question as a source has it; level and subject are blank where the source has none.

    `fault` says why an answer that is there could not be read; `rephrased` is None where the source has no
    rephrasings and blank where it has one that cannot be read.
    """

    question: str
    answer: str | None
    level: str = ""
    subject: str = ""
    fault: str = ""
    rephrased: str | None = None


Converter = Callable[[Record], Item]


def question_in(record: Record, *names: str) -> str:
    """The question in the first filled column of `names`, by default of those that training reads.

    A column that does not exist is an error; one that is blank is a row without a question.
    """
    columns = names or QUESTION_COLUMNS
    find(record, columns)
    try:
        return question_of(record, columns).strip()
    except Missing:
        return ""


def answer_in(record: Record, *names: str) -> tuple[str | None, str]:
    """The answer in the first filled column of `names`, and why one that is there cannot be read."""
    find(record, names)
    try:
        return truth_of(record, names).strip(), ""
    except Missing:
        return None, ""
    except Unreadable as error:
        return None, str(error)


def from_math(record: Record) -> Item:
    """Hendrycks MATH and its mirrors: problem, solution or answer, level, type or subject."""
    column = find(record, ("answer", "solution"))
    is_answer = column == "answer" or BOX.search(str(record[column]))
    answer, fault = answer_in(record, column) if is_answer else (None, "")
    level = label_of(record, ("level",))
    level = f"Level {level}" if level.isdigit() else level
    return Item(question_in(record), answer, level, label_of(record, ("type", "subject")), fault)


def from_gsm8k(record: Record) -> Item:
    """GSM8K: question, and answer with the number after ####."""
    is_answer = GSM8K_MARK in str(record[find(record, ("answer",))])
    answer, fault = answer_in(record, "answer") if is_answer else (None, "")
    return Item(question_in(record), answer, fault=fault)


DAPO_LEAD = re.compile(r"\s*Solve the following math problem step by step\.[^\n]*\n+")
DAPO_TAIL = re.compile(r"\n+Remember to put your answer on its own line after \"Answer:\"\.?\s*$")


def from_dapo(record: Record) -> Item:
    """DAPO-Math-17k, as released (prompt with an instruction around it) or processed."""
    question = DAPO_TAIL.sub("", DAPO_LEAD.sub("", question_in(record), count=1)).strip()
    answer, fault = answer_in(record, *TRUTH_COLUMNS, "label")
    return Item(question, answer, fault=fault)


CONVERTERS: dict[str, Converter] = {"math": from_math, "gsm8k": from_gsm8k, "dapo": from_dapo}


def from_columns(named: NamedColumns, level: str | None, subject: str | None) -> Converter:
    """A converter for columns of these names, which must exist; of the usual ones where none is named."""

    def convert(record: Record) -> Item:
        answers = _columns(record, named.answer, TRUTH_COLUMNS)
        rephrasings = _columns(record, named.rephrased, REPHRASED_COLUMNS)
        text, fault = answer_in(record, *answers) if answers else (None, "")
        labels = [label_of(record, (find(record, (name,)),)) if name else "" for name in (level, subject)]
        return Item(
            question_in(record, *filter(None, (named.question,))),
            *(text, labels[0].strip(), labels[1].strip(), fault),
            question_in(record, *rephrasings) if rephrasings else None,
        )

    return convert


def _columns(record: Record, named: str, usual: Sequence[str]) -> list[str]:
    """The named column, else those of the usual ones that the record has."""
    return [named] if named else [name for name in usual if has(record, name)]
