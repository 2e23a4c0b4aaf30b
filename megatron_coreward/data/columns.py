r"""What the columns of a record mean: the one way to find a question, a rephrasing, a ground truth, an index.

Training, evaluation and the preparation tools all read records (tables.py) through this module. Of several
columns with the same meaning the first that is filled counts.

A question is a text, or a chat with one user turn, whose other turns are ignored. A ground truth is a text, a
number, or a list of one of these; a text is reduced to its last \boxed{...}, else to what follows its last
####. What is left must be an answer and not a solution in prose (`_is_prose`): no answer of a model equals
such a text, so that all rewards would silently be 0.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from megatron_coreward.data.tables import Record
from megatron_coreward.grading.answers import extract_answer

QUESTION_COLUMNS = ("original_question", "prompt", "question", "problem")
REPHRASED_COLUMNS = ("rephrased_question", "rephrased")
TRUTH_COLUMNS = ("reward_model.ground_truth", "answer", "ground_truth", "solution")
RESPONSE_COLUMNS = ("response", "completion", "solution")
INDEX_COLUMNS = ("extra_info.index", "index")
LABEL_COLUMNS = ("level", "type", "subject", "id")
ALL_COLUMNS = (*QUESTION_COLUMNS, *REPHRASED_COLUMNS, *TRUTH_COLUMNS, *INDEX_COLUMNS, *LABEL_COLUMNS)


@dataclass(frozen=True)
class NamedColumns:
    """Names of columns that the configuration gives; for "" the usual ones are read."""

    question: str = ""
    rephrased: str = ""
    answer: str = ""


USUAL = NamedColumns()
MAX_WORDS = 12
MAX_WORDS_IN_SOLUTION = 3

GSM8K_MARK = "####"
BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_THOUSANDS_COMMA = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_LIST_TEXT = re.compile(r"""\s*\[\s*(?:['"]|\{\s*['"]\w+['"]\s*:)""")
_CHAT_TEXT = re.compile(r"""\s*\[\s*\{\s*['"](?:role|content)['"]\s*:""")
_DICT_TEXT = re.compile(r"""\s*\{\s*(['"])\w+\1\s*:""")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[a-zA-Z]+")
_LONG_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]{2}|[^\W\d_]{3,}")
_SHORT_WORD = re.compile(r"[^\W\d_]{2,}")
_REASONING = re.compile(r"\b(?:[Ww]e|[Tt]hus|[Hh]ence|[Tt]herefore|[Bb]ecause|answer is)\b")


class Unreadable(ValueError):
    """A value that cannot be read; the text goes on after the name of its column."""


class Missing(Unreadable):
    """There is no value."""


def lookup(record: Record, column: str) -> Any:
    """The value of a column, nested names with dots; None where it does not exist."""
    if column in record:
        return record[column]
    outer, _, inner = column.partition(".")
    nested = record.get(outer)
    return nested.get(inner) if isinstance(nested, dict) else None


def has(record: Record, column: str) -> bool:
    outer, _, inner = column.partition(".")
    nested = record.get(outer)
    return column in record or (isinstance(nested, dict) and inner in nested)


def is_filled(value: Any) -> bool:
    """Whether a value is more than null, a blank text, NaN or an empty list."""
    if isinstance(value, float):
        return not math.isnan(value)
    return value is not None and value != [] and (not isinstance(value, str) or bool(value.strip()))


def find(record: Record, columns: Sequence[str]) -> str:
    """The first of `columns` that is filled, else the first that exists. Raises Missing if none does."""
    existing = [column for column in columns if has(record, column)]
    if not existing:
        raise Missing(no_column(columns, list(record)))
    return next((column for column in existing if is_filled(lookup(record, column))), existing[0])


def no_column(columns: Sequence[str], existing: Sequence[str]) -> str:
    return f"no column {' or '.join(map(repr, columns))} among {', '.join(map(str, existing))}"


def question_of(record: Record, columns: Sequence[str] = QUESTION_COLUMNS) -> str:
    """The question in the first filled of `columns`. Raises Missing or Unreadable, with the column's name."""
    column = find(record, columns)
    try:
        return _question_in(lookup(record, column))
    except Unreadable as error:
        raise type(error)(f"column '{column}' {error}") from error


def response_of(record: Record, columns: Sequence[str] = RESPONSE_COLUMNS) -> str:
    """The text in the first filled of `columns`. Raises Missing or Unreadable, as question_of."""
    column = find(record, columns)
    value = lookup(record, column)
    if not is_filled(value):
        raise Missing(f"column '{column}' {_emptiness(value)}")
    if not isinstance(value, str):
        raise Unreadable(f"column '{column}' is {_kind(value)}, not text")
    return value


def truth_of(record: Record, columns: Sequence[str] = TRUTH_COLUMNS) -> str:
    """The ground truth in the first filled of `columns`. Raises Missing or Unreadable, as question_of."""
    column = find(record, columns)
    try:
        return truth_in(lookup(record, column), in_solution=column == "solution")
    except Unreadable as error:
        raise type(error)(f"column '{column}' {error}") from error


def index_of(record: Record) -> int:
    """The number that both wordings of a question share. Raises Missing or Unreadable, as question_of."""
    column = find(record, INDEX_COLUMNS)
    value = lookup(record, column)
    if not is_filled(value):
        raise Missing(f"column '{column}' {_emptiness(value)}")
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():  # of a Parquet column with nulls
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Unreadable(f"column '{column}' is {_kind(value)}; it must be integer")
    return value


def label_of(record: Record, columns: Sequence[str]) -> str:
    """A level or subject as text; "" where there is none."""
    value = next((lookup(record, column) for column in columns if is_filled(lookup(record, column))), "")
    return str(value) if isinstance(value, str | int | float) else ""


def _question_in(value: Any) -> str:
    if isinstance(value, str) and _CHAT_TEXT.match(value):
        value = _parsed(value, "a chat")
    if isinstance(value, list):
        value = _user_turn(value)
    if not is_filled(value):
        raise Missing(_emptiness(value))
    if not isinstance(value, str):
        raise Unreadable(f"is {_kind(value)}; it must be text or a chat")
    return value


def _user_turn(turns: list[Any]) -> str:
    """The content of a chat's one user turn."""
    for turn in turns:
        missing = [name for name in ("role", "content") if not isinstance(turn, dict) or name not in turn]
        if missing:
            raise Unreadable(f"has a turn without {' and '.join(missing)}; a chat is of {{role, content}}")
    contents = [turn["content"] for turn in turns if turn["role"] == "user"]
    if len(contents) != 1:
        error = Unreadable if contents else Missing
        raise error(f"has {len(contents)} user turns; it must have one")
    [content] = contents
    if isinstance(content, list):  # parts, as in [{"type": "text", "text": "..."}]
        if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in content):
            raise Unreadable("has a user turn with parts other than text")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        raise Missing("has an empty user turn")
    return content


def truth_in(value: Any, *, in_solution: bool = False) -> str:
    """The ground truth that a value holds, of a column for solutions or for answers. Raises as truth_of."""
    if isinstance(value, str) and _LIST_TEXT.match(value):
        value = _parsed(value, "a list")
    if isinstance(value, list) and len(value) == 1:
        return truth_in(value[0], in_solution=in_solution)
    if isinstance(value, float) and math.isnan(value):
        raise Unreadable("is NaN")
    if not is_filled(value):
        raise Missing(_emptiness(value))
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and math.isfinite(value):
        return format(Decimal(str(value)), "f")
    if not isinstance(value, str):
        raise Unreadable(f"is {_kind(value)}")
    if _DICT_TEXT.match(value):
        raise Unreadable("is the text of a dict")
    if value.strip() in ("nan", "NaN"):
        raise Unreadable("is NaN")
    return _reduced(value, in_solution)


def _reduced(text: str, in_solution: bool) -> str:
    """A text's last box, else what follows its last ####, else the text itself."""
    if BOX.search(text):
        answer = extract_answer(text).strip()
        if not answer:
            raise Missing(r"has an empty or unclosed \boxed{}")
        return answer
    _, mark, number = text.rpartition(GSM8K_MARK)
    if mark and not number.strip():
        raise Missing("has nothing after ####")
    answer = _THOUSANDS_COMMA.sub("", number.strip()) if mark else text
    if _is_prose(answer, in_solution and not mark):
        raise Unreadable(r"is prose without a \boxed{} or ####")
    return answer


def _is_prose(text: str, in_solution: bool) -> bool:
    """Whether a text without a box is a solution and not an answer.

    It is if it has more than MAX_WORDS words of three letters or more, LaTeX commands not counted; several
    lines and no LaTeX command; or three words and a turn of reasoning among them ("we", "thus", "hence",
    "therefore", "because", "answer is"). In a column called `solution` more than MAX_WORDS_IN_SOLUTION words
    are enough, or a sentence with its full stop.
    """
    plain = _COMMAND.sub(" ", text)
    words, short_words = len(_LONG_WORD.findall(plain)), len(_SHORT_WORD.findall(plain))
    lines = [line for line in text.splitlines() if line.strip()]
    return (
        words > (MAX_WORDS_IN_SOLUTION if in_solution else MAX_WORDS)
        or (len(lines) > 1 and "\\" not in text)
        or (short_words >= 3 and _REASONING.search(plain) is not None)
        or (in_solution and short_words >= 2 and text.rstrip().endswith((".", "!", "。")))
    )


def _parsed(text: str, what: str) -> Any:
    """The list that a text writes down as JSON. Python's way of writing it is not read."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise Unreadable(f"is the text of {what}, but not as JSON") from error


def _emptiness(value: Any) -> str:
    if isinstance(value, float):
        return "is NaN"
    return "is null" if value is None else "is an empty list" if value == [] else "is blank"


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)} values"
    names = {bool: "true or false", int: "a number", float: "a number", dict: "a dict", str: "text"}
    return names.get(type(value), f"a {type(value).__name__}")
