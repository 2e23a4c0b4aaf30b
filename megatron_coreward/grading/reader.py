r"""Reads the value of an answer from a strict subset of LaTeX.

    answer   := item | item (, item)* | item (\cup item)* | item \setminus item | scalar (relation scalar)+
              | digits (: digits)+
    item     := scalar | (answer, ...) or [..) or \{..\} | [+-] \infty
              | \begin{pmatrix} scalar & ... \\ ... \end{pmatrix}

with scalars as in scalar_reader.py; one \pm makes two items. Most answers are within it, so that grader.py
needs math-verify (milliseconds per parse, and sometimes a hang) for the rest only.
"""

from collections.abc import Sequence
from fractions import Fraction

from megatron_coreward.grading import arithmetic
from megatron_coreward.grading.arithmetic import UndefinedError
from megatron_coreward.grading.scalar_reader import (
    MAX_DEPTH,
    UnclearError,
    is_letter,
    known,
    read_scalar,
    tokens_of,
)
from megatron_coreward.grading.values import (
    CLOCK,
    MATRIX,
    ROW,
    SET,
    Collection,
    Relation,
    Scalar,
    Value,
    apply,
    number,
    union,
    without,
)

_BEGIN, _END = r"\begin{pmatrix}", r"\end{pmatrix}"
_LEVEL = {"(": 1, "[": 1, "{": 1, r"\{": 1, _BEGIN: 1, ")": -1, "]": -1, "}": -1, r"\}": -1, _END: -1}
_RELATIONS = ("=", r"\neq", r"\approx", "<", r"\leq", ">", r"\geq")
_MIRRORED = {">": "<", r"\geq": r"\leq"}

Tokens = list[str]


def read_value(form: str) -> Value | None:
    """The value of a normal form, or None where it is outside the subset or not known well enough.

    Raises:
        TooLargeError: a number in it is too large for anybody to compute.
    """
    try:
        return _read(tokens_of(form), 0)
    except (UnclearError, UndefinedError):
        return None


def _read(tokens: Tokens, depth: int) -> Value:
    if depth > MAX_DEPTH:
        raise UnclearError
    parts = _split(tokens, (",",))
    if len(parts) > 1:
        return Collection(SET, _items(_without_names(parts), depth))
    if len(signs := _split(tokens, _RELATIONS)) > 1:
        return _relations(signs, [token for token in tokens if token in _RELATIONS])
    if len(sets := _split(tokens, (r"\setminus",))) > 1:
        if len(sets) > 2 or r"\cup" in tokens:  # `A\cup B\setminus C` has two readings
            raise UnclearError
        return without(*(_read(part, depth + 1) for part in sets))
    if len(sets := _split(tokens, (r"\cup",))) > 1:
        return union([_read(part, depth + 1) for part in sets])
    if ":" in tokens:
        return _clock(tokens)
    if r"\pm" in tokens and not (tokens[0] == r"\{" and _bracketed(tokens)):
        return Collection(SET, _items([tokens], depth))
    return _item(tokens, depth)


def _item(tokens: Tokens, depth: int) -> Value:
    """Whatever has no comma, relation or union outside brackets."""
    if tokens[-1:] == [r"\infty"] and tokens[:-1] in ([], ["+"], ["-"]):
        return number(-arithmetic.INFINITY if tokens[0] == "-" else arithmetic.INFINITY)
    if not _bracketed(tokens):
        return _multiple(tokens, depth) or read_scalar(tokens)
    inner = tokens[1:-1]
    if tokens[0] == _BEGIN:
        return _matrix(inner)
    kind, parts = tokens[0] + tokens[-1], _split(inner, (",",))
    if kind == "()" and len(parts) == 1:
        return read_scalar(tokens)
    if kind == SET:
        return Collection(SET, _items(parts, depth))
    return Collection(kind, tuple(_read(part, depth + 1) for part in parts))


def _multiple(tokens: Tokens, depth: int) -> Collection | None:
    r"""A number times a tuple or matrix, as `-(1,2)` or `2\begin{pmatrix}...`; else None."""
    groups = (i for i, token in enumerate(tokens) if i and token in ("(", _BEGIN) and _bracketed(tokens[i:]))
    start = next(groups, 0)
    value = _item(tokens[start:], depth) if start else None
    if not isinstance(value, Collection):
        return None
    factor = read_scalar([*tokens[:start], "1"] if start == 1 and tokens[0] in ("+", "-") else tokens[:start])
    if value.kind not in ("()", MATRIX) or len(factor.at) > 1:
        raise UnclearError
    return _times(factor, value)


def _times(factor: Scalar, value: Collection) -> Collection:
    items: list[Value] = []
    for item in value.items:
        if isinstance(item, Scalar):
            items.append(known(apply(arithmetic.multiply, factor, item)))
        elif isinstance(item, Collection):
            items.append(_times(factor, item))
        else:
            raise UnclearError
    return Collection(value.kind, tuple(items))


def _items(parts: Sequence[Tokens], depth: int) -> tuple[Value, ...]:
    r"""The members of a set; an item with \pm is two of them."""
    items: list[Value] = []
    for part in parts:
        if part.count(r"\pm") > 1:
            raise UnclearError
        signs = ("+", "-") if r"\pm" in part else ("",)
        items += [_read([sign if token == r"\pm" else token for token in part], depth + 1) for sign in signs]
    return tuple(items)


def _without_names(parts: list[Tokens]) -> list[Tokens]:
    """`x=1,x=2` is a list of two numbers; `x=1,y=2` is not."""
    name = parts[0][:1]
    same = all(part[:2] == [*name, "="] and name[0] not in part[2:] for part in parts) and is_letter(name[0])
    return [part[2:] for part in parts] if same else parts


def _relations(sides: Sequence[Tokens], signs: Sequence[str]) -> Value:
    """One relation, or the two of `1<x<3`."""
    if len(signs) > 1 and not {"<", r"\leq", ">", r"\geq"}.issuperset(signs):
        raise UnclearError
    values = [read_scalar(side) for side in sides]
    relations: list[Value] = []
    for left, sign, right in zip(values, signs, values[1:], strict=False):
        if sign in _MIRRORED:
            left, right = right, left
        difference = apply(arithmetic.add, left, apply(arithmetic.negate, right))
        sign = _MIRRORED.get(sign, sign)
        if (
            len(difference.at) == 1 or sign == r"\approx"
        ):  # says nothing of a letter: `2=3` is as good as `4=9`
            relations.append(Collection(sign, (left, right)))
        else:
            relations.append(Relation(sign, known(difference)))
    return relations[0] if len(relations) == 1 else Collection(SET, tuple(relations))


def _clock(tokens: Tokens) -> Value:
    """`3:5` is a ratio; `4:30` may be a time of day, which is no number."""
    parts = tokens[::2]
    if set(tokens[1::2]) != {":"} or not all(part.isdigit() for part in parts) or len(tokens) % 2 == 0:
        raise UnclearError
    values = tuple(number(Fraction(part)) for part in parts)
    if len(parts) > 2 or len(parts[1]) == 2:
        return Collection(CLOCK, values)
    return known(apply(arithmetic.divide, *values))


def _matrix(tokens: Tokens) -> Collection:
    rows = [[read_scalar(cell) for cell in _split(row, ("&",))] for row in _split(tokens, (r"\\",))]
    if len({len(row) for row in rows}) != 1:
        raise UnclearError
    return Collection(MATRIX, tuple(Collection(ROW, tuple(row)) for row in rows))


def _bracketed(tokens: Tokens) -> bool:
    """Whether the first token is a bracket that closes with the last one."""
    if not tokens or tokens[0] not in ("(", "[", r"\{", _BEGIN):
        return False
    level = 0
    for index, token in enumerate(tokens):
        level += _LEVEL.get(token, 0)
        if level == 0:
            return index == len(tokens) - 1
    return False


def _split(tokens: Tokens, separators: Sequence[str]) -> list[Tokens]:
    """The parts between separators that are in no brackets."""
    parts: list[Tokens] = [[]]
    level = 0
    for token in tokens:
        level += _LEVEL.get(token, 0)
        if token in separators and level == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts
