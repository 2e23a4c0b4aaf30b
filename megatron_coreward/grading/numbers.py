r"""Arithmetic of answers: exact where numbers are rational, else 120 digits of which 60 must agree.

What could make 60 digits mislead, as 10^{60}\sqrt2+1, is refused. Nothing takes more than milliseconds: powers,
factorials and arguments of functions are bounded before they are computed.
"""

import operator
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
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


class UndefinedError(ArithmeticError):
    """There is no value, or none that 60 digits could tell from others, or it would take too long."""


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
        both = isinstance(a, Fraction) and isinstance(b, Fraction)
        return operation(a, b) if both else _settled(operation(_inexact(a), _inexact(b)))

    return work


multiply, divide = _arithmetic(operator.mul), _arithmetic(operator.truediv)


def power(base: Number, exponent: Number) -> Number:
    """Refused: 0^0, and powers of negative or complex numbers that are not whole, but for e^z."""
    whole = isinstance(exponent, Fraction) and exponent.denominator == 1
    if not base and not exponent:
        refuse()
    if whole and isinstance(base, Fraction):
        bits = max(abs(base.numerator).bit_length() - 1, base.denominator.bit_length() - 1)
        if abs(exponent) * bits > _MAX_BITS:
            refuse()
        return base**exponent.numerator
    if abs(exponent) > _MAX_EXPONENT:
        refuse()
    if whole:
        return _settled(_inexact(base) ** exponent.numerator)
    if not is_real(base) or base <= 0 or not (is_real(exponent) or base == CONSTANTS["e"]):
        refuse()
    if isinstance(exponent, Fraction) and exponent.denominator <= 64:
        return power(root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    return _settled(_inexact(base) ** _inexact(exponent))


def root(a: Number, index: Number) -> Number:
    """The real root; of a negative number an odd root, or the imaginary square root."""
    n = index.numerator if isinstance(index, Fraction) and index.denominator == 1 else 0
    if not 2 <= n <= 64 or not is_real(a):
        refuse()
    if a < 0:
        return (
            -root(-a, index) if n % 2 else multiply(CONSTANTS["i"], root(-a, index)) if n == 2 else refuse()
        )
    if isinstance(a, Fraction):
        guesses = [
            isqrt(k) if n == 2 else round(min(k, 1 << 50) ** (1 / n)) for k in (a.numerator, a.denominator)
        ]
        if Fraction(*guesses) ** n == a:
            return Fraction(*guesses)
    return _settled(MP.root(_inexact(a), n))


def _natural(a: Number) -> int:
    if not isinstance(a, Fraction) or a.denominator != 1 or not 0 <= a <= _MAX_FACTORIAL:
        refuse()
    return a.numerator


FUNCTIONS: dict[str, Callable[..., Number]] = {
    **{
        "add": _arithmetic(operator.add),
        "sub": _arithmetic(operator.sub),
        "mul": multiply,
        "div": divide,
        "frac": divide,
        "pow": power,
        "root": root,
    },
    **{"neg": operator.neg, "fact": lambda n: Fraction(factorial(_natural(n)))},
    **{"binom": lambda n, k: Fraction(comb(_natural(n), _natural(k)))},
}
"""By the name of the node that reader.py makes of them."""


POINTS = ((1, 1), (0, 1), (20, 20), (2000, 3000), (-1, 1), (10**7, 10**6), (-(10**7), 10**6))
"""Where letters lie at each point: least number and range."""


@lru_cache(maxsize=1024)
def letter_at(name: str) -> tuple[Fraction, ...]:
    """What a letter stands for at each point, the same in every process."""
    hashes = [blake2b(f"{point}{name}".encode(), digest_size=2) for point in range(len(POINTS))]
    shares = [Fraction(int.from_bytes(found.digest()) | 1, 1 << 16) for found in hashes]
    return tuple(low + span * share for (low, span), share in zip(POINTS, shares, strict=True))


def same_number(a: Number, b: Number) -> bool:
    """Proved for two rational numbers; 60 digits otherwise."""
    if isinstance(a, float) or isinstance(b, float) or (isinstance(a, Fraction) and isinstance(b, Fraction)):
        return bool(a == b)
    return bool(abs(MP.convert(a) - b) <= _SAME * max(1, abs(MP.convert(a))))


def less(a: Number, b: Number) -> bool:
    return bool(MP.convert(a) < MP.convert(b)) if is_real(a) and is_real(b) else refuse()
