"""Records of public math data, or of your own, as questions with answers. A converter for each format."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from megatron_coreward.data.pairs import GSM8K_MARK, final_answer
from megatron_coreward.data.tables import text_or_none
from megatron_coreward.grading.answers import extract_answer

Record = dict[str, Any]


@dataclass(frozen=True)
class Item:
    """A question as a source has it; level and subject are blank where the source has none."""

    question: str
    answer: str | None
    level: str = ""
    subject: str = ""


Converter = Callable[[Record], Item]


def pick(record: Record, *names: str) -> Any:
    """The value under the first of `names` that the record has."""
    for name in names:
        if name in record:
            return record[name]
    raise ValueError(f"no column {' or '.join(names)} among {', '.join(map(str, record))}")


def text_of(value: Any) -> str:
    return (text_or_none(value) or "").strip()


def question_in(record: Record) -> str:
    """The question of a record of any kind; of a list of turns, the user's."""
    question = pick(record, "problem", "question", "prompt")
    if isinstance(question, list):
        return "\n".join(text_of(turn["content"]) for turn in question if turn["role"] == "user")
    return text_of(question)


def answer_in(text: str) -> str | None:
    r"""The last \boxed{...} of a solution, else what follows GSM8K's ####, else the text itself."""
    if r"\boxed" in text or r"\fbox" in text:
        return extract_answer(text).strip() or None
    return final_answer(text)


def from_math(record: Record) -> Item:
    """Hendrycks MATH and its mirrors: problem, solution or answer, level, type or subject."""
    if "answer" in record:
        answer = text_of(record["answer"])
    else:
        answer = extract_answer(text_of(pick(record, "solution"))).strip()
    level = text_of(record.get("level"))
    subject = text_of(record.get("type")) or text_of(record.get("subject"))
    return Item(question_in(record), answer or None, f"Level {level}" if level.isdigit() else level, subject)


def from_gsm8k(record: Record) -> Item:
    """GSM8K: question, and answer with the number after ####."""
    solution = text_of(pick(record, "answer"))
    return Item(question_in(record), final_answer(solution) if GSM8K_MARK in solution else None)


DAPO_LEAD = re.compile(r"\s*Solve the following math problem step by step\.[^\n]*\n+")
DAPO_TAIL = re.compile(r"\n+Remember to put your answer on its own line after \"Answer:\"\.?\s*$")


def from_dapo(record: Record) -> Item:
    """DAPO-Math-17k, as released (prompt with an instruction around it) or processed."""
    question = DAPO_TAIL.sub("", DAPO_LEAD.sub("", question_in(record), count=1)).strip()
    answer = pick(record, "reward_model", "answer", "solution", "label")
    return Item(question, text_or_none(answer["ground_truth"] if isinstance(answer, dict) else answer))


CONVERTERS: dict[str, Converter] = {"math": from_math, "gsm8k": from_gsm8k, "dapo": from_dapo}


def from_columns(question: str, answer: str | None, level: str | None, subject: str | None) -> Converter:
    """A converter for columns of these names; None where there is no such column."""

    def convert(record: Record) -> Item:
        return Item(
            text_of(pick(record, question)),
            answer_in(text_of(pick(record, answer))) if answer else None,
            text_of(pick(record, level)) if level else "",
            text_of(pick(record, subject)) if subject else "",
        )

    return convert
