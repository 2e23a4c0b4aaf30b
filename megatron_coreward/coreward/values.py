r"""Exact values of simple answers, without a computer algebra system.

Most answers are numbers, fractions, roots, short polynomials, or tuples of those. This module reads a
strict subset of LaTeX and computes their value, so that grader.py needs math-verify (milliseconds per
parse, and sometimes a hang) for the rest only:

    sum      := [+-] product ([+-] product)*
    product  := power ([*/ \cdot \times \div] power | power)*
    power    := atom [^ argument]
    atom     := number | letter | \pi | \infty | (sum) | {sum} | \frac argument argument | \sqrt[n] argument

Rational arithmetic is exact (Fraction); roots and constants are decimals of 60 digits, compared to 40. A
letter stands for a fixed number between 1 and 2 drawn from its name, so that two expressions in letters
are equal when they agree there. Whatever could be read in two ways (`1/2x`, `1\frac12`, `f(x)`) is left
to math-verify.
"""

import re
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from fractions import Fraction
from zlib import crc32

Scalar = Fraction | Decimal


@dataclass(frozen=True)
class Collection:
    r"""A tuple, interval or set; `brackets` is "()", "[)" or "\{\}", a bare list being a set."""

    brackets: str
    items: tuple["Value", ...]


Value = Scalar | Collection

PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")
E = Decimal("2.71828182845904523536028747135266249775724709369995957496696763")
_DIGITS = 60
_TOLERANCE = Decimal("1e-40")
_MAX_BITS = 1 << 14
"""Largest exact power; a larger one is left to math-verify and its time limit."""
_MAX_DEPTH = 25
_SET = r"\{\}"

_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\.\d+|\\(?:frac|sqrt|pi|infty|cdot|times|div)(?![a-zA-Z]) ?"
    r"|\\[{}]|[a-zA-Z]|[-+*/^(){}\[\],]",
    re.ASCII,
)
_TIMES = ("*", r"\cdot", r"\times")
_FACTORS = (r"\frac", r"\sqrt", r"\pi", r"\infty", "(", "{")
"""What may follow a factor without a sign between, besides letters."""
_OVER = ("/", r"\div")


class _UnclearError(Exception):
    """The text is outside the subset, or could be read in two ways."""


def letter_value(name: str) -> Fraction:
    """The number that a letter stands for: the same in every process, between 1 and 2."""
    return 1 + Fraction(crc32(name.encode()), 1 << 32)


def read_value(form: str) -> Value | None:
    """The value of a normal form, or None where it is outside the subset."""
    try:
        with localcontext(Context(prec=_DIGITS)):
            return _read(_tokens(form), 0)
    except (_UnclearError, ArithmeticError):  # the latter: division by zero, overflow, invalid operation
        return None


def same_value(a: Value, b: Value) -> bool:
    """Whether two values are equal. Tuples and intervals need the same brackets; a bare list is a set."""
    if isinstance(a, Collection) or isinstance(b, Collection):
        x, y = _collection(a), _collection(b)
        if (x.brackets, len(x.items)) != (y.brackets, len(y.items)):
            return False
        if x.brackets == _SET:
            return _same_in_any_order(x.items, y.items)
        return all(same_value(i, j) for i, j in zip(x.items, y.items, strict=True))
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    with localcontext(Context(prec=_DIGITS)):
        first, second = _decimal(a), _decimal(b)
        scale = max(Decimal(1), abs(first), abs(second))
        return first == second or (scale.is_finite() and abs(first - second) <= _TOLERANCE * scale)


def points(value: Value) -> list[complex]:
    """All numbers in a value, rounded: enough to see that two values differ."""
    if isinstance(value, Collection):
        return [point for item in value.items for point in points(item)]
    with localcontext(Context(prec=_DIGITS)):
        return [complex(float(_decimal(value)))]


def may_be_equal(a: list[complex], b: list[complex]) -> bool:
    """Whether the numbers of two values agree to six digits, in any order."""
    if len(a) != len(b):
        return False
    rest = list(b)
    for x in a:
        match = next((i for i, y in enumerate(rest) if _close(x, y)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def _close(x: complex, y: complex) -> bool:
    return x == y or abs(x - y) <= 1e-6 * max(1.0, abs(x), abs(y)) < float("inf")


def _collection(value: Value) -> Collection:
    return value if isinstance(value, Collection) else Collection(_SET, (value,))


def _same_in_any_order(a: tuple[Value, ...], b: tuple[Value, ...]) -> bool:
    rest = list(b)
    for x in a:
        match = next((i for i, y in enumerate(rest) if same_value(x, y)), None)
        if match is None:
            return False
        rest.pop(match)
    return True


def _decimal(value: Scalar) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(value.numerator) / Decimal(value.denominator)


def _tokens(form: str) -> list[str]:
    tokens, position = [], 0
    while position < len(form):
        match = _TOKEN.match(form, position)
        if match is None:
            raise _UnclearError
        tokens.append(match.group().rstrip())
        position = match.end()
    return tokens


_OPENING = {"(": 1, "[": 1, "{": 1, r"\{": 1, ")": -1, "]": -1, "}": -1, r"\}": -1}


def _read(tokens: list[str], depth: int) -> Value:
    """A collection if there are commas or set or square brackets at the top level, else a scalar."""
    if not tokens or depth > _MAX_DEPTH:
        raise _UnclearError
    brackets, inner = _SET, tokens
    if tokens[0] in ("(", "[", r"\{") and tokens[-1] in (")", "]", r"\}") and _spans(tokens):
        brackets, inner = tokens[0] + tokens[-1], tokens[1:-1]
    parts = _split_commas(inner)
    if len(parts) == 1 and (inner is tokens or brackets == "()"):
        return _Reader(tokens).scalar()
    return Collection(brackets, tuple(_read(part, depth + 1) for part in parts))


def _spans(tokens: list[str]) -> bool:
    """Whether the first bracket closes with the last token."""
    level = 0
    for index, token in enumerate(tokens):
        level += _OPENING.get(token, 0)
        if level == 0:
            return index == len(tokens) - 1
    return False


def _split_commas(tokens: list[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    level = 0
    for token in tokens:
        level += _OPENING.get(token, 0)
        if token == "," and level == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


class _Reader:
    """Recursive descent over the tokens of one scalar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0

    def scalar(self) -> Scalar:
        value = self._sum()
        if self._peek():
            raise _UnclearError
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _sum(self) -> Scalar:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnclearError
        negative = self._take() == "-" if self._peek() in ("+", "-") else False
        total = -self._product() if negative else self._product()
        while self._peek() in ("+", "-"):
            sign = self._take()
            term = self._product()
            total = _add(total, term if sign == "+" else -term)
        self._depth -= 1
        return total

    def _product(self) -> Scalar:
        value = self._power()
        divided = False
        while token := self._peek():
            if token in _TIMES or token in _OVER:
                self._take()
                divided = token in _OVER
                factor = self._power()
                value = _divide(value, factor) if divided else _multiply(value, factor)
            elif token[0].isalnum() or token in _FACTORS:
                # 1/2x has two readings, 1\frac{1}{2} is a mixed number and 2 3 is no product.
                number_before = self._tokens[self._next - 1][-1].isdigit()
                if divided or token[0].isdigit() or (number_before and token == r"\frac"):
                    raise _UnclearError
                value = _multiply(value, self._power())
            else:
                break
        return value

    def _power(self) -> Scalar:
        base = self._atom()
        if self._peek() != "^":
            return base
        self._take()
        return _raise(base, self._argument())

    def _argument(self) -> Scalar:
        """What a command or ^ applies to: a group, or one character."""
        token = self._peek()
        if token != "{" and not (len(token) == 1 and token.isalnum()):
            raise _UnclearError
        return self._atom()

    def _atom(self) -> Scalar:
        token = self._take()
        if token in ("(", "{"):
            value = self._sum()
            if self._take() != {"(": ")", "{": "}"}[token]:
                raise _UnclearError
            return value
        if token == r"\frac":
            return _divide(self._argument(), self._argument())
        if token == r"\sqrt":
            return self._root()
        if token in (r"\pi", r"\infty", "e"):
            return {r"\pi": PI, r"\infty": Decimal("Infinity"), "e": E}[token]
        if token[:1].isdigit() or token.startswith("."):
            return Fraction(token)
        # i is imaginary, and f(x) may be a function's value
        if not token.isalpha() or token == "i" or (token in "fghpqFGHPQ" and self._peek() == "("):
            raise _UnclearError
        return letter_value(token)

    def _root(self) -> Scalar:
        index: Scalar = Fraction(2)
        if self._peek() == "[":
            self._take()
            index = self._sum()
            if self._take() != "]":
                raise _UnclearError
        return _raise(self._argument(), _divide(Fraction(1), index))


def _add(a: Scalar, b: Scalar) -> Scalar:
    return a + b if isinstance(a, Fraction) and isinstance(b, Fraction) else _decimal(a) + _decimal(b)


def _multiply(a: Scalar, b: Scalar) -> Scalar:
    return a * b if isinstance(a, Fraction) and isinstance(b, Fraction) else _decimal(a) * _decimal(b)


def _divide(a: Scalar, b: Scalar) -> Scalar:
    return a / b if isinstance(a, Fraction) and isinstance(b, Fraction) else _decimal(a) / _decimal(b)


def _raise(base: Scalar, exponent: Scalar) -> Scalar:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        bits = base.numerator.bit_length() + base.denominator.bit_length()
        if bits * abs(exponent.numerator) > _MAX_BITS:
            raise _UnclearError
        return base**exponent.numerator
    if base <= 0:  # a complex number, or zero to a power that need not be positive
        raise _UnclearError
    return _decimal(base) ** _decimal(exponent)
