r"""Values of answers, and when two are equal, without a computer algebra system.

A scalar is a number, or an expression in letters known by its numbers at fixed points: at each of them a
letter stands for another number, drawn from its name. Two scalars are equal if they agree wherever both are
defined. Rational numbers are exact, so comparing two of them is a proof; others have 120 digits, of which 60
must agree, and what could make these mislead, as 10^{60}\sqrt2+1, is refused.
"""

import operator
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from hashlib import blake2b
from itertools import pairwise
from math import comb, factorial, isqrt
from typing import Any, NamedTuple, NoReturn

from mpmath import MPContext

Number = Any
"""A Fraction, a real or complex mpmath number, None, or (only as the end of an interval) a float, +-inf."""
MP = MPContext()  # of our own: nobody else changes its precision
MP.dps = 120
_SAME, _NEGLIGIBLE, _SMALLEST, _LARGEST = (MP.mpf(bound) for bound in ("1e-60", "1e-90", "1e-30", "1e30"))
_MAX_BITS, _MAX_EXPONENT, _MAX_FACTORIAL = 1 << 17, 1000, 5000
CONSTANTS: dict[str, Number] = {r"\pi": +MP.pi, "e": +MP.e, "i": MP.mpc(0, 1), r"\infty": float("inf")}
POINTS = ((1, 1), (0, 1), (20, 20), (2000, 3000), (-1, 1), (10**7, 10**6), (-(10**7), 10**6))
"""Where letters lie at each point: least number and range."""
MIN_DEFINED = 2  # points at which an expression must be defined for us to say what it equals


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
    return x if not (x := MP.convert(a)) or _SMALLEST <= abs(x) <= _LARGEST else refuse()


def power(base: Number, exponent: Number) -> Number:
    """Refused: 0^0, and powers of negative or complex numbers that are not whole, but for e^z."""
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if whole and isinstance(base, Fraction):
        bits = max(abs(base.numerator).bit_length() - 1, base.denominator.bit_length() - 1)
        fits = (base or exponent) and abs(exponent) * bits <= _MAX_BITS
        return base**exponent.numerator if fits else refuse()
    fits = whole or base == CONSTANTS["e"] or (is_real(base) and base > 0 and is_real(exponent))
    if not fits or abs(exponent) > _MAX_EXPONENT:
        refuse()
    return _settled(_inexact(base) ** (exponent.numerator if whole else _inexact(exponent)))


def root(a: Number, index: Number) -> Number:
    """The real root; of a negative number an odd root, or the imaginary square root."""
    n = index.numerator if isinstance(index, Fraction) and index.denominator == 1 else 0
    if not 2 <= n <= 64 or not is_real(a) or (a < 0 and n % 2 == 0 and n > 2):
        refuse()
    if a < 0:
        return -root(-a, index) if n % 2 else CONSTANTS["i"] * _inexact(root(-a, index))
    if isinstance(a, Fraction):
        nearest = isqrt if n == 2 else lambda k: round(min(k, 1 << 50) ** (1 / n))
        guess = Fraction(nearest(a.numerator), nearest(a.denominator))
        if guess**n == a:
            return guess
    return _settled(MP.root(_inexact(a), n))


def _natural(a: Number) -> int:
    fits = isinstance(a, Fraction) and a.denominator == 1 and 0 <= a <= _MAX_FACTORIAL
    return a.numerator if fits else refuse()


REAL_FUNCTIONS = ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "ln", "log")
_ARITHMETIC: dict[str, Callable[..., Number]] = {
    **{"add": operator.add, "sub": operator.sub, "mul": operator.mul, "bars": abs},
    **dict.fromkeys(("div", "frac"), operator.truediv),
}
_REAL = (MP.sin, MP.cos, MP.tan, MP.cot, MP.sec, MP.csc, MP.exp, MP.ln, MP.ln)
_WITH_DIGITS = _ARITHMETIC | dict(zip(REAL_FUNCTIONS, _REAL, strict=True))
_OTHERS: dict[str, Callable[..., Number]] = {
    **{"neg": operator.neg, "pow": power, "root": root, "fact": lambda n: Fraction(factorial(_natural(n)))},
    **{"binom": lambda n, k: Fraction(comb(_natural(n), _natural(k)))},
}


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
    return bool(abs((x := MP.convert(a)) - b) <= _SAME * max(1, abs(x)))


def less(a: Number, b: Number) -> bool:
    return bool(MP.convert(a) < MP.convert(b)) if is_real(a) and is_real(b) else refuse()


SET = r"\{\}"
"""Kinds. A set and a bare list are one: roots are listed in any order. Others are brackets, signs, names."""
INTERVALS = ("()", "[)", "(]", "[]")
UNIONS = (r"\cup", r"\setminus")


class Scalar(NamedTuple):
    """One number; or, for an expression in letters, one for each point (None: undefined there)."""

    at: tuple[Number, ...]


class Collection(NamedTuple):
    """A set, tuple, interval, union, matrix, or a relation between scalars."""

    kind: str
    items: tuple["Value", ...]


Value = Scalar | Collection


def apply(name: str, *operands: Value) -> Scalar:
    """A function of numbers, at each point; UndefinedError where that is none, or at too few points."""
    scalars = [x for x in operands if isinstance(x, Scalar)]
    count = max(len(x.at) for x in scalars) if len(scalars) == len(operands) else refuse()
    columns = zip(*(x.at * (count // len(x.at)) for x in scalars), strict=True)
    at = tuple(_at_point(name, numbers, count > 1) for numbers in columns)
    return Scalar(at) if count - at.count(None) >= min(MIN_DEFINED, count) else refuse()


def _at_point(name: str, numbers: tuple[Number, ...], lettered: bool) -> Number:
    try:
        if any(n is None for n in numbers) or (lettered and name == "root" and less(numbers[0], Fraction(0))):
            return None  # letters stand for numbers of which there is a root
        if name in _OTHERS:
            return _OTHERS[name](*numbers)
        if name in _ARITHMETIC and all(isinstance(number, Fraction) for number in numbers):
            return _ARITHMETIC[name](*numbers)
        result = _settled(_WITH_DIGITS[name](*map(_inexact, numbers)))
        return result if name in _ARITHMETIC or is_real(result) else None
    except (UndefinedError, ZeroDivisionError):
        return None


def same_value(a: Value, b: Value) -> bool:
    """Whether two values are equal. Collections need the same kind, and only sets have no order."""
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        count = max(len(a.at), len(b.at))
        pairs = zip(a.at * (count // len(a.at)), b.at * (count // len(b.at)), strict=True)
        common = [(x, y) for x, y in pairs if x is not None and y is not None]
        return len(common) >= min(MIN_DEFINED, count) and all(same_number(x, y) for x, y in common)
    x, y = (v if isinstance(v, Collection) else Collection(SET, (v,)) for v in (a, b))
    if x.kind in UNIONS or y.kind in UNIONS:
        return _same_numbers(x, y)
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


def _same_numbers(a: Value, b: Value) -> bool:
    """Whether two sets of reals hold the same of the ends of both and of what lies between and beside."""
    try:
        own, others = ends_of(a), ends_of(b)
    except UndefinedError:
        return False
    if any(_holds(a, x) != _holds(b, x) for x in own if abs(x) != CONSTANTS[r"\infty"]):
        return False
    ends = sorted(MP.convert(end) for end in (*own, *others) if abs(end) != CONSTANTS[r"\infty"])
    probes = [
        (low + high) / 2 for low, high in pairwise([ends[0] - 2, *ends, ends[-1] + 2] if ends else [-1, 1])
    ]
    return all(_holds(a, x) == _holds(b, x) for x in (*ends, *probes))


def _holds(value: Value, x: Number) -> bool:
    if isinstance(value, Scalar):
        return same_number(value.at[0], x)
    if value.kind not in INTERVALS:
        first, *others = (_holds(item, x) for item in value.items) if value.items else (False,)
        return first and not any(others) if value.kind == UNIONS[1] else first or any(others)
    low, high = ends_of(value)
    if same_number(low, x) or same_number(high, x):
        return value.kind[same_number(high, x)] in "[]"
    return less(low, x) and less(x, high)


@lru_cache(maxsize=4096)
def ends_of(value: Value) -> list[Number]:
    """The ends of intervals and the numbers of finite sets; UndefinedError for what is no set of reals."""
    if isinstance(value, Scalar) or value.kind not in (SET, *INTERVALS, *UNIONS):
        refuse()
    if value.kind in UNIONS:
        return [end for item in value.items for end in ends_of(item)]
    ends = [x.at[0] for x in value.items if isinstance(x, Scalar) and len(x.at) == 1 and is_real(x.at[0])]
    fits = value.kind == SET or (len(ends) == 2 and less(*ends) and not same_number(*ends))
    return ends if fits and len(ends) == len(value.items) else refuse()
