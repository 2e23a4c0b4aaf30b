r"""Values of answers, and when two are equal, without a computer algebra system.

A scalar is a number, or an expression in letters known by its numbers at fixed points: at each of them a
letter stands for another number, drawn from its name. Two scalars are equal if they agree wherever both are
defined. Rational numbers are exact, so comparing two of them is a proof; others have 120 digits, of which 60
must agree, and what could make these mislead, as 10^{60}\sqrt2+1, is refused. Nothing takes more than
milliseconds.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cmp_to_key, lru_cache
from hashlib import blake2b
from math import comb, factorial, isqrt
from typing import Any, NoReturn

from mpmath import MPContext

Number = Any
"""A Fraction, a real or complex mpmath number, or (only as the end of an interval) a float, +-inf."""
MP = MPContext()  # of our own: nobody else changes its precision
MP.dps = 120
_SAME, _NEGLIGIBLE, _SMALLEST, _LARGEST = (MP.mpf(bound) for bound in ("1e-60", "1e-90", "1e-30", "1e30"))
_MAX_BITS, _MAX_EXPONENT, _MAX_FACTORIAL = 1 << 17, 1000, 5000
CONSTANTS: dict[str, Number] = {"pi": +MP.pi, "e": +MP.e, "i": MP.mpc(0, 1), "oo": float("inf")}
POINTS = ((1, 1), (0, 1), (20, 20), (2000, 3000), (-1, 1), (10**7, 10**6), (-(10**7), 10**6))
"""Where letters lie at each point: least number and range."""
MIN_DEFINED = 2
"""Points at which an expression must be defined for us to say what it equals."""


class UndefinedError(ArithmeticError):
    """There is no value, or none that 60 digits could tell from others, or it would take too long to find."""


def refuse() -> NoReturn:
    raise UndefinedError


def is_real(a: Number) -> bool:
    return not isinstance(a, MP.mpc)


def _settled(a: Number) -> Number:
    """A result in range; what cancels is exactly 0 and what has no imaginary part is real."""
    if not is_real(a):
        real, imaginary = (0 if abs(part) <= _NEGLIGIBLE else part for part in (a.real, a.imag))
        a = MP.mpc(real, imaginary) if imaginary else real
    if abs(a) <= _NEGLIGIBLE:
        return Fraction(0)
    return a if _SMALLEST <= abs(a) <= _LARGEST else refuse()  # refuses NaN, too


def _inexact(a: Number) -> Number:
    return MP.convert(a) if not a or _SMALLEST <= abs(MP.convert(a)) <= _LARGEST else refuse()


def _arithmetic(operation: Callable[[Any, Any], Any]) -> Callable[[Number, Number], Number]:
    def work(a: Number, b: Number) -> Number:
        exact = isinstance(a, Fraction) and isinstance(b, Fraction)
        return operation(a, b) if exact else _settled(operation(_inexact(a), _inexact(b)))

    return work


def power(base: Number, exponent: Number) -> Number:
    """Refused: 0^0, and powers of negative or complex numbers that are not whole, but for e^z."""
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if whole and isinstance(base, Fraction):
        bits = max(abs(base.numerator).bit_length() - 1, base.denominator.bit_length() - 1)
        return (
            base**exponent.numerator if (base or exponent) and abs(exponent) * bits <= _MAX_BITS else refuse()
        )
    fits = whole or (is_real(base) and base > 0 and (is_real(exponent) or base == CONSTANTS["e"]))
    if not fits or abs(exponent) > _MAX_EXPONENT:
        refuse()
    if whole:
        return _settled(_inexact(base) ** exponent.numerator)
    if isinstance(exponent, Fraction) and exponent.denominator <= 64:
        return power(root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    return _settled(_inexact(base) ** _inexact(exponent))


def root(a: Number, index: Number) -> Number:
    """The real root; of a negative number an odd root, or the imaginary square root."""
    n = index.numerator if isinstance(index, Fraction) and index.denominator == 1 else 0
    if not 2 <= n <= 64 or not is_real(a) or (a < 0 and n % 2 == 0 and n > 2):
        refuse()
    if a < 0:
        return -root(-a, index) if n % 2 else FUNCTIONS["mul"](CONSTANTS["i"], root(-a, index))
    if isinstance(a, Fraction):
        parts = a.numerator, a.denominator
        guess = Fraction(*(isqrt(k) if n == 2 else round(min(k, 1 << 50) ** (1 / n)) for k in parts))
        if guess**n == a:
            return guess
    return _settled(MP.root(_inexact(a), n))


def _natural(a: Number) -> int:
    fits = isinstance(a, Fraction) and a.denominator == 1 and 0 <= a <= _MAX_FACTORIAL
    return a.numerator if fits else refuse()


def _real(work: Callable[[Any], Any]) -> Callable[[Number], Number]:
    def of_real(a: Number) -> Number:
        result = _settled(work(_inexact(a))) if is_real(a) and (a > 0 or work != MP.ln) else refuse()
        return result if is_real(result) else refuse()

    return of_real


REAL_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    **{"sin": MP.sin, "cos": MP.cos, "tan": MP.tan, "cot": MP.cot, "sec": MP.sec, "csc": MP.csc},
    **{"exp": MP.exp, "ln": MP.ln},
}
FUNCTIONS: dict[str, Callable[..., Number]] = {
    **{name: _real(work) for name, work in REAL_FUNCTIONS.items()},
    **{"bars": lambda a: abs(a) if isinstance(a, Fraction) else _settled(abs(a))},
    **{"log": lambda base, a: FUNCTIONS["div"](FUNCTIONS["ln"](a), FUNCTIONS["ln"](base))},
    **{"add": _arithmetic(operator.add), "sub": _arithmetic(operator.sub), "mul": _arithmetic(operator.mul)},
    **dict.fromkeys(("div", "frac"), _arithmetic(operator.truediv)),
    **{"neg": operator.neg, "pow": power, "root": root, "fact": lambda n: Fraction(factorial(_natural(n)))},
    **{"binom": lambda n, k: Fraction(comb(_natural(n), _natural(k)))},
}
"""By the name of the node that reader.py makes of them."""


@lru_cache(maxsize=1024)
def letter_at(name: str) -> tuple[Fraction, ...]:
    """What a letter stands for at each point, the same in every process."""
    hashes = [blake2b(f"{point}{name}".encode(), digest_size=2).digest() for point in range(len(POINTS))]
    shares = [Fraction(int.from_bytes(digest) | 1, 1 << 16) for digest in hashes]
    return tuple(low + span * share for (low, span), share in zip(POINTS, shares, strict=True))


def same_number(a: Number, b: Number) -> bool:
    """Proved for two rational numbers; 60 digits otherwise."""
    if isinstance(a, float) or isinstance(b, float) or (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return bool(a == b)
    return bool(abs(MP.convert(a) - b) <= _SAME * max(1, abs(MP.convert(a))))


def less(a: Number, b: Number) -> bool:
    return bool(MP.convert(a) < MP.convert(b)) if is_real(a) and is_real(b) else refuse()


SET = r"\{\}"
"""Kind of a set and of a bare list: roots are listed in any order. Other kinds are brackets, signs, names."""


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


def _compare(a: Bound, b: Bound) -> int:
    if same_number(a[0], b[0]):
        return a[1] - b[1]
    return -1 if less(a[0], b[0]) else 1


_ORDER = cmp_to_key(_compare)


def union(parts: Sequence[Value], removed: Sequence[Value] = ()) -> Value:
    """The numbers in any of `parts` and none of `removed` (intervals, finite sets), in the fewest parts.

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
    ends = [(Scalar((low,)), Scalar((high,))) for (low, _), (high, _) in merged]
    if all(same_value(low, high) for low, high in ends):
        return Collection(SET, tuple(low for low, _ in ends))
    kinds = ["(["[low[1] < 0] + ")]"[high[1] > 0] for low, high in merged]
    intervals = [Collection(kind, pair) for kind, pair in zip(kinds, ends, strict=True)]
    return intervals[0] if len(intervals) == 1 else Collection("union", tuple(intervals))


def _spans(part: Value) -> list[tuple[Bound, Bound]]:
    if isinstance(part, Collection) and part.kind == "union":
        return [span for item in part.items for span in _spans(item)]
    if isinstance(part, Scalar):
        refuse()
    items = part.items
    ends = [x.at[0] for x in items if isinstance(x, Scalar) and len(x.at) == 1 and is_real(x.at[0])]
    if len(ends) == len(items) and part.kind == SET:
        return [((end, -1), (end, 1)) for end in ends]
    if len(ends) != len(items) or len(items) != 2 or part.kind not in ("()", "[)", "(]", "[]"):
        refuse()
    span = (ends[0], -1 if part.kind[0] == "[" else 1), (ends[1], 1 if part.kind[1] == "]" else -1)
    return [span] if _compare(*span) < 0 else refuse()
