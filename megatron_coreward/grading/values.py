r"""Values of answers, and when two are equal, without a computer algebra system.

A scalar is a number, or an expression in letters known by its numbers at fixed points: at each of them a letter
stands for another number, drawn from its name. Two scalars are equal if they agree wherever both are defined. For
rational expressions inequality is proved, and two that differ, of degree d, agree at all points by chance only
(below (d / 2^16)^6 if the points were drawn anew for them). Unions of intervals are equal if they hold the same
numbers.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cmp_to_key

from megatron_coreward.grading.numbers import Number, is_real, less, refuse, same_number

MIN_DEFINED = 2
"""Points at which an expression must be defined for us to say what it equals."""
SET = r"\{\}"
"""Kind of a set and of a bare list: roots are listed in any order. Other kinds are brackets, signs, or names."""


@dataclass(frozen=True)
class Scalar:
    """One number; or, for an expression in letters, one for each point (None: undefined there)."""

    at: tuple[Number | None, ...]


@dataclass(frozen=True)
class Collection:
    """A set, tuple, interval, union, matrix, or a relation between scalars."""

    kind: str
    items: tuple["Value", ...]


Value = Scalar | Collection


def same_value(a: Value, b: Value) -> bool:
    """Whether two values are equal. Collections need the same kind, and only sets have no order."""
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        count = max(len(a.at), len(b.at))
        pairs = zip(a.at * (count // len(a.at)), b.at * (count // len(b.at)), strict=True)
        common = [same_number(x, y) for x, y in pairs if x is not None and y is not None]
        return all(common) and len(common) >= min(MIN_DEFINED, count)
    x, y = (v if isinstance(v, Collection) else Collection(SET, (v,)) for v in (a, b))
    if (x.kind, len(x.items)) != (y.kind, len(y.items)):
        return False
    if x.kind != SET:
        return all(map(same_value, x.items, y.items))
    rest = list(y.items)
    for item in x.items:
        match = next((i for i, other in enumerate(rest) if same_value(item, other)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


Bound = tuple[Number, int]
"""A place before (-1) or after (1) a real number: [2,3) goes from before 2 to before 3."""


def union(parts: Sequence[Value], removed: Sequence[Value] = ()) -> Value:
    """The numbers in any of `parts` and in none of `removed` (intervals and finite sets), in as few parts as possible.

    Raises:
        UndefinedError: a part is something else, or its numbers are not real.
    """
    spans = [span for part in parts for span in _spans(part)]
    for low, high in (span for part in removed for span in _spans(part)):
        cut = [(begin, min(end, low, key=_ORDER)) for begin, end in spans]
        cut += [(max(begin, high, key=_ORDER), end) for begin, end in spans]
        spans = [span for span in cut if _compare(*span) < 0]
    merged: list[tuple[Bound, Bound]] = []
    for low, high in sorted(spans, key=lambda span: _ORDER(span[0])):
        if merged and _compare(low, merged[-1][1]) <= 0:
            low, last = merged.pop()
            high = max(last, high, key=_ORDER)
        merged.append((low, high))
    ends = [tuple(Scalar((bound[0],)) for bound in span) for span in merged]
    if all(same_value(low, high) for low, high in ends):
        return Collection(SET, tuple(low for low, _ in ends))
    kinds = ["(["[low[1] < 0] + ")]"[high[1] > 0] for low, high in merged]
    intervals = [Collection(kind, pair) for kind, pair in zip(kinds, ends, strict=True)]
    return intervals[0] if len(intervals) == 1 else Collection("union", tuple(intervals))


def _spans(part: Value) -> list[tuple[Bound, Bound]]:
    if isinstance(part, Scalar):
        refuse()
    if part.kind == "union":
        return [span for item in part.items for span in _spans(item)]
    ends = [item.at[0] for item in part.items if isinstance(item, Scalar) and len(item.at) == 1]
    if len(ends) != len(part.items) or not all(map(is_real, ends)):
        refuse()
    if part.kind == SET:
        return [((end, -1), (end, 1)) for end in ends]
    if part.kind not in ("()", "[)", "(]", "[]") or len(ends) != 2:
        refuse()
    span = (ends[0], -1 if part.kind[0] == "[" else 1), (ends[1], 1 if part.kind[1] == "]" else -1)
    return [span] if _compare(*span) < 0 else refuse()


def _compare(a: Bound, b: Bound) -> int:
    if same_number(a[0], b[0]):
        return a[1] - b[1]
    return -1 if less(a[0], b[0]) else 1


_ORDER = cmp_to_key(_compare)
