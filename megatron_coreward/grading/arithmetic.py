r"""Numbers of values.py: exact where they are rational, else 120 digits of which 60 must agree.

    sqrt(9) + 1/2        a Fraction: comparing two of them is a proof
    sqrt(2), pi, 3+4i    an mpmath number: equal if they agree to 60 digits, which is no proof

What could make 60 digits mislead is refused with UndefinedError, and so left to math-verify: large and tiny
numbers beside irrational ones (cancellation), and rational ones with more digits than that. Nothing here
takes more than milliseconds: powers, factorials and arguments of functions are bounded before they are
computed.
"""

from collections.abc import Callable
from fractions import Fraction
from math import comb, factorial, isqrt
from typing import Any, NoReturn

from mpmath import MPContext

Number = Any
"""A Fraction, a real or complex mpmath number, or (only as the end of an interval) a float, +-inf."""

_MP = MPContext()  # of our own: nobody else changes its precision
_MP.dps = 120
_TOLERANCE = _MP.mpf("1e-60")
_NEGLIGIBLE = _MP.mpf("1e-80")  # what is left of sqrt(8)-2sqrt(2)
_SMALLEST, _LARGEST = _MP.mpf("1e-12"), _MP.mpf("1e20")
_MAX_DENOMINATOR = 1 << 200
_MAX_BITS = 1 << 17
_MAX_EXPONENT = 1000
_MAX_ROOT = 64
_MAX_FACTORIAL = 5000

PI: Number = +_MP.pi
E: Number = +_MP.e
I: Number = _MP.mpc(0, 1)  # noqa: E741
INFINITY: Number = float("inf")


class UndefinedError(ArithmeticError):
    """There is no value, or none that 60 digits could tell from others, or it would take too long."""


class TooLargeError(ArithmeticError):
    """A rational number has too many digits to write down, which is what math-verify would try to do."""


def add(a: Number, b: Number) -> Number:
    return a + b if _exact(a, b) else _settled(_inexact(a) + _inexact(b))


def negate(a: Number) -> Number:
    return -a


def multiply(a: Number, b: Number) -> Number:
    return a * b if _exact(a, b) else _settled(_inexact(a) * _inexact(b))


def divide(a: Number, b: Number) -> Number:
    return a / b if _exact(a, b) else _settled(_inexact(a) / _inexact(b))


def power(base: Number, exponent: Number) -> Number:
    """Refused: 0^0, and powers of negative or complex numbers that are not whole."""
    if not base and not exponent:
        raise UndefinedError
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        return _whole_power(base, exponent.numerator)
    if _positive(base) and isinstance(exponent, Fraction) and exponent.denominator <= _MAX_ROOT:
        return power(root(base, exponent.denominator), Fraction(exponent.numerator))
    if not _positive(base) or not _real(exponent) or abs(exponent) > _MAX_EXPONENT:
        raise UndefinedError
    return _settled(_inexact(base) ** _inexact(exponent))


def _whole_power(base: Number, n: int) -> Number:
    if isinstance(base, Fraction):
        bits = abs(n) * max(abs(base.numerator).bit_length() - 1, base.denominator.bit_length() - 1)
        return base**n if bits <= _MAX_BITS else _refuse(TooLargeError)
    if abs(n) > _MAX_EXPONENT:
        raise TooLargeError if abs(n) > _MAX_BITS else UndefinedError
    return _settled(_inexact(base) ** n)


def root(a: Number, index: int) -> Number:
    """The real root; refused where there is none."""
    if not 2 <= index <= _MAX_ROOT:
        return a if index == 1 else _refuse()
    if not a:
        return Fraction(0)
    if not _positive(a):
        return -root(-a, index) if _real(a) and index % 2 else _refuse()
    if isinstance(a, Fraction):
        roots = _whole_root(a.numerator, index), _whole_root(a.denominator, index)
        if roots[0] is not None and roots[1] is not None:
            return Fraction(roots[0], roots[1])
    return _settled(_MP.root(_inexact(a), index))


def square_root(a: Number) -> Number:
    """As root(a, 2), but imaginary for negative numbers."""
    return multiply(I, root(-a, 2)) if _real(a) and a < 0 else root(a, 2)


def absolute(a: Number) -> Number:
    return abs(a) if isinstance(a, Fraction) else _settled(abs(_inexact(a)))


def factorial_of(a: Number) -> Number:
    return Fraction(factorial(_small_natural(a)))


def binomial(n: Number, k: Number) -> Number:
    return Fraction(comb(_small_natural(n), _small_natural(k)))


def log(a: Number, base: Number) -> Number:
    return divide(function("ln", a), function("ln", base))


_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sin": _MP.sin,
    "cos": _MP.cos,
    "tan": _MP.tan,
    "cot": _MP.cot,
    "sec": _MP.sec,
    "csc": _MP.csc,
    "arcsin": _MP.asin,
    "arccos": _MP.acos,
    "arctan": _MP.atan,
    "sinh": _MP.sinh,
    "cosh": _MP.cosh,
    "tanh": _MP.tanh,
    "exp": _MP.exp,
    "ln": _MP.ln,
}
FUNCTION_NAMES = tuple(_FUNCTIONS)


def function(name: str, a: Number) -> Number:
    """A real function of a real number; refused where it is not real, or too large."""
    x = _inexact(a)
    if not _real(x) or (name == "ln" and x <= 0):
        raise UndefinedError
    result = _settled(_FUNCTIONS[name](x))
    return result if _real(result) else _refuse()


def same_number(a: Number, b: Number) -> bool:
    """Proved for two rational numbers; 60 digits otherwise."""
    if _exact(a, b) or isinstance(a, float) or isinstance(b, float):
        return bool(a == b)
    x, y = _plain(a), _plain(b)
    return bool(abs(x - y) <= _TOLERANCE * max(1, abs(x)))


def less(a: Number, b: Number) -> bool:
    """a < b for real numbers that are not the same; refused for complex ones."""
    if not (_real(a) and _real(b)):
        raise UndefinedError
    if _exact(a, b) or isinstance(a, float) or isinstance(b, float):
        return bool(a < b)
    return bool(_plain(a) < _plain(b))


def rounded(a: Number) -> complex:
    """As a machine number; infinite where it is too large for one."""
    try:
        return complex(a)
    except OverflowError:
        return complex(INFINITY if a > 0 else -INFINITY)


def _exact(a: Number, b: Number) -> bool:
    return isinstance(a, Fraction) and isinstance(b, Fraction)


def _real(a: Number) -> bool:
    return not isinstance(a, _MP.mpc)


def _positive(a: Number) -> bool:
    return _real(a) and a > 0


def _plain(a: Number) -> Number:
    return _MP.mpf(a.numerator) / a.denominator if isinstance(a, Fraction) else a


def _inexact(a: Number) -> Number:
    """As an mpmath number; refused where that would lose what tells it from others."""
    if not isinstance(a, Fraction):
        return a
    fits = a.denominator <= _MAX_DENOMINATOR and (not a or _SMALLEST <= abs(_plain(a)) <= _LARGEST)
    return _plain(a) if fits else _refuse()


def _settled(a: Number) -> Number:
    """A result in range; what cancels is exactly 0 and what has no imaginary part is real."""
    if _real(a):
        return _settled_part(a) or Fraction(0)
    real, imaginary = _settled_part(a.real), _settled_part(a.imag)
    return _MP.mpc(real, imaginary) if imaginary else real or Fraction(0)


def _settled_part(a: Number) -> Number:
    size = abs(a)
    if size <= _NEGLIGIBLE:
        return _MP.zero
    return a if _SMALLEST <= size <= _LARGEST else _refuse()  # refuses NaN, too


def _whole_root(n: int, index: int) -> int | None:
    if n >= 1 << 50 and index != 2:  # beyond what a float tells
        return None
    guess = isqrt(n) if index == 2 else round(n ** (1 / index))
    return guess if guess**index == n else None


def _small_natural(a: Number) -> int:
    if not isinstance(a, Fraction) or a.denominator != 1 or a < 0:
        raise UndefinedError
    return a.numerator if a <= _MAX_FACTORIAL else _refuse(TooLargeError)


def _refuse(error: type[ArithmeticError] = UndefinedError) -> NoReturn:
    raise error
