r"""Values of answers, and when two are equal, without a computer algebra system.

A scalar is a number, or an expression in letters known by its numbers at six fixed points: at each of them
a letter stands for another number, drawn from its name. Two scalars are equal if they agree wherever both
are defined over the reals. What that shows:

- numbers without roots or constants: arithmetic is exact, so equality and inequality are proved;
- rational expressions in letters: inequality is proved. Two that differ, of degree d, agree at all points
  by chance only (below (d / 2^16)^6 if the points were drawn anew for them);
- the rest: numbers agree to 60 digits (arithmetic.py), which nobody proves, but no two answers of 256 bytes
  are known to do so and differ.

Equations and inequalities are equal if one is a constant multiple of the other, unions of intervals if they
hold the same numbers. reader.py makes values from text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from hashlib import blake2b
from typing import TypeVar

from megatron_coreward.grading.arithmetic import (
    Number,
    UndefinedError,
    divide,
    less,
    multiply,
    rounded,
    same_number,
)

POINTS = ((1, 1), (0, 1), (20, 20), (2000, 3000), (0, -1), (-2000, 5000))
"""Where letters lie at each point: least number and range. math_worker.py uses the first two as well."""
MIN_DEFINED = 2
"""Points at which an expression must be defined for us to say what it equals."""

SET = r"\{\}"
"""Kind of a set and of a bare list: roots are listed in any order."""
MATRIX, ROW, UNION, CLOCK = "matrix", "row", "union", "clock"
"""Other kinds of collections; the rest are brackets, "()", "[)" and so on."""


@dataclass(frozen=True)
class Scalar:
    """One number; or, for an expression in letters, one for each of POINTS (None: undefined there)."""

    at: tuple[Number | None, ...]


@dataclass(frozen=True)
class Collection:
    """A tuple, interval or set; a matrix of rows, a union of intervals, a time of day."""

    kind: str
    items: tuple["Value", ...]


@dataclass(frozen=True)
class Relation:
    r"""`difference` stands in relation `sign` (one of "=", "\neq", "<", "\leq") to 0."""

    sign: str
    difference: Scalar


Value = Scalar | Collection | Relation

T = TypeVar("T")
_ZERO = Fraction(0)


def number(value: Number) -> Scalar:
    return Scalar((value,))


@lru_cache(maxsize=1024)
def letter(name: str) -> Scalar:
    """What a letter stands for, the same in every process."""
    shares = [
        Fraction(int.from_bytes(blake2b(f"{point}{name}".encode(), digest_size=2).digest()) | 1, 1 << 16)
        for point in range(len(POINTS))
    ]
    return Scalar(tuple(low + span * share for (low, span), share in zip(POINTS, shares, strict=True)))


def apply(operation: Callable[..., Number], *operands: Scalar) -> Scalar:
    """The operation at every point; None where it, or an operand, is undefined."""
    count = max(len(operand.at) for operand in operands)
    columns = zip(*(operand.at * (count // len(operand.at)) for operand in operands), strict=True)
    return Scalar(tuple(_at_point(operation, column) for column in columns))


def _at_point(operation: Callable[..., Number], operands: Sequence[Number | None]) -> Number | None:
    if None in operands:
        return None
    try:
        return operation(*operands)
    except (UndefinedError, ZeroDivisionError):
        return None


def is_defined(scalar: Scalar) -> bool:
    """Whether enough is known of it."""
    return sum(value is not None for value in scalar.at) >= min(MIN_DEFINED, len(scalar.at))


def changes_sign(scalar: Scalar) -> bool:
    """Whether it is negative at some points and positive at others.

    Raises:
        UndefinedError: it is not real.
    """
    found = [value for value in scalar.at if value is not None]
    return any(less(value, _ZERO) for value in found) and any(less(_ZERO, value) for value in found)


def same_value(a: Value, b: Value) -> bool:
    """Whether two values are equal. Collections need the same kind, and only sets have no order."""
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        return _same_scalar(a, b)
    if isinstance(a, Relation) or isinstance(b, Relation):
        return isinstance(a, Relation) and isinstance(b, Relation) and _same_relation(a, b)
    x, y = _collection(a), _collection(b)
    if (x.kind, len(x.items)) != (y.kind, len(y.items)):
        return False
    if x.kind == SET:
        return _pair_up(x.items, y.items, same_value)
    return all(same_value(i, j) for i, j in zip(x.items, y.items, strict=True))


def _collection(value: Scalar | Collection) -> Collection:
    return value if isinstance(value, Collection) else Collection(SET, (value,))


def _same_scalar(a: Scalar, b: Scalar) -> bool:
    count = max(len(a.at), len(b.at))
    pairs = zip(a.at * (count // len(a.at)), b.at * (count // len(b.at)), strict=True)
    common = 0
    for x, y in pairs:
        if x is not None and y is not None:
            if not same_number(x, y):
                return False
            common += 1
    return common >= min(MIN_DEFINED, count)


def _same_relation(a: Relation, b: Relation) -> bool:
    """Whether the differences are proportional; by a positive factor, if the relation has a direction."""
    if a.sign != b.sign:
        return False
    pairs = zip(
        a.difference.at, b.difference.at, strict=True
    )  # as many: a relation without letters is refused
    point = next((i for i, pair in enumerate(pairs) if all(pair)), None)
    if point is None:
        return False
    x, y = number(a.difference.at[point]), number(b.difference.at[point])
    if not _same_scalar(apply(multiply, a.difference, y), apply(multiply, b.difference, x)):
        return False
    factor = apply(divide, x, y).at[0]
    return a.sign in ("=", r"\neq") or (factor is not None and less(_ZERO, factor))


@dataclass(frozen=True)
class _Span:
    """A real interval; a single number if its ends are the same."""

    opening: str
    low: Number
    high: Number
    closing: str


def union(parts: Sequence[Value]) -> Value:
    """The numbers in any of `parts` (intervals and finite sets), with as few parts as possible.

    Raises:
        UndefinedError: a part is something else, or its numbers are not real.
    """
    return _joined([span for part in parts for span in _spans(part)])


def without(whole: Value, removed: Value) -> Value:
    """The numbers of `whole` (an interval, a union or a finite set) that are not in the finite set `removed`.

    Raises:
        UndefinedError: one of them is something else, its numbers are not real, or none is left.
    """
    spans = _spans(whole)
    for point in _spans(removed):
        if point.low is not point.high:
            raise UndefinedError
        spans = [rest for span in spans for rest in _cut(span, point.low)]
    return _joined(spans)


def _cut(span: _Span, at: Number) -> list[_Span]:
    """What is left of a span without the number `at`."""
    if span.low is span.high:
        return [] if same_number(span.low, at) else [span]
    if same_number(span.low, at) or same_number(span.high, at):
        opening = "(" if same_number(span.low, at) else span.opening
        closing = ")" if same_number(span.high, at) else span.closing
        return [_Span(opening, span.low, span.high, closing)]
    if less(at, span.low) or less(span.high, at):
        return [span]
    return [_Span(span.opening, span.low, at, ")"), _Span("(", at, span.high, span.closing)]


def _joined(spans: Sequence[_Span]) -> Value:
    """The numbers in any of the spans. Raises UndefinedError if there is none."""
    merged: list[_Span] = []
    for span in sorted(spans, key=cmp_to_key(_order)):
        if merged and _touch(merged[-1], span):
            merged[-1] = _merge(merged[-1], span)
        else:
            merged.append(span)
    if not merged:
        raise UndefinedError
    if all(span.low is span.high for span in merged):
        return Collection(SET, tuple(number(span.low) for span in merged))
    intervals = [Collection(s.opening + s.closing, (number(s.low), number(s.high))) for s in merged]
    return intervals[0] if len(intervals) == 1 else Collection(UNION, tuple(intervals))


def _spans(part: Value) -> list[_Span]:
    items = part.items if isinstance(part, Collection) else ()
    if isinstance(part, Collection) and part.kind == UNION:
        return [span for item in items for span in _spans(item)]
    ends = [item.at[0] for item in items if isinstance(item, Scalar) and len(item.at) == 1]
    if not isinstance(part, Collection) or not ends or len(ends) != len(items):
        raise UndefinedError
    if part.kind == SET:
        return [_Span("[", end, end, "]") for end in ends]
    if part.kind not in ("()", "[)", "(]", "[]") or len(ends) != 2:
        raise UndefinedError
    single = part.kind == "[]" and ends[0] is ends[1]  # as a union has them
    if not single and not less(*ends):
        raise UndefinedError
    return [_Span(part.kind[0], ends[0], ends[1], part.kind[1])]


def _order(a: _Span, b: _Span) -> int:
    if same_number(a.low, b.low):
        return (b.opening == "[") - (a.opening == "[")
    return -1 if less(a.low, b.low) else 1


def _touch(a: _Span, b: _Span) -> bool:
    """Whether there is no number between `a` and `b`, which does not begin before `a`."""
    if same_number(a.high, b.low):
        return a.closing == "]" or b.opening == "["
    return less(b.low, a.high)


def _merge(a: _Span, b: _Span) -> _Span:
    if same_number(a.high, b.high):
        return _Span(a.opening, a.low, a.high, max(a.closing, b.closing))  # "]" > ")"
    last = b if less(a.high, b.high) else a
    return _Span(a.opening, a.low, last.high, last.closing)


def points(value: Value) -> list[complex] | None:
    """Rounded numbers that equal values share, the same as math_worker.py has for it; None: unknown."""
    if isinstance(value, Collection):
        nested = [points(item) for item in value.items]
        known = [found for found in nested if found is not None]
        return [point for found in known for point in found] if len(known) == len(nested) else None
    at = value.difference.at if isinstance(value, Relation) else value.at
    if any(found is None for found in at[:2]):
        return None
    first = rounded(at[0])
    if isinstance(value, Scalar):
        return [first]
    second = rounded(at[1])
    return [first / second] if second and abs(first) < float("inf") else None


def may_be_equal(a: Sequence[complex], b: Sequence[complex]) -> bool:
    """Whether the numbers of two values agree to ten digits, in any order.

    Less would have `x^2+|1999x|=5` and `x^2+|2000x|=5` compared in full: their ratios differ by 2e-7.
    """
    return len(a) == len(b) and _pair_up(a, b, _close)


def _close(x: complex, y: complex) -> bool:
    return x == y or abs(x - y) <= 1e-10 * max(1.0, abs(x), abs(y)) < float("inf")


def _pair_up(a: Sequence[T], b: Sequence[T], same: Callable[[T, T], bool]) -> bool:
    """Whether every item of `a` has one of its own in `b`, which has as many."""
    rest = list(b)
    for x in a:
        match = next((i for i, y in enumerate(rest) if same(x, y)), None)
        if match is None:
            return False
        rest.pop(match)
    return True
