r"""Reads one number or expression in letters from a strict subset of LaTeX, for reader.py.

    sum      := [+-] product ([+-] product)*
    product  := power ([*/ \cdot \times \div] power | power)*
    power    := (atom | mixed number) [! | ^\circ] [^ argument]
    atom     := number | letter | \pi | (sum) | {sum} | |sum| | \frac argument argument | \sqrt[n] argument
              | \binom argument argument | function [^n] argument

Whatever could be read in two ways (`1/2x`, `x^12`, `f(x)`, `\sin x/2`, `|a|b|c|`) is refused with
UnclearError.
"""

import re
from fractions import Fraction
from functools import partial, reduce

from megatron_coreward.grading import arithmetic
from megatron_coreward.grading.arithmetic import FUNCTION_NAMES, PI, Number
from megatron_coreward.grading.values import Scalar, apply, changes_sign, is_defined, letter, number

MAX_DEPTH = 25
_GREEK = (
    *("alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "kappa", "lambda"),
    *("mu", "nu", "xi", "rho", "sigma", "tau", "phi", "varphi", "chi", "psi", "omega"),
    *("Gamma", "Delta", "Theta", "Lambda", "Sigma", "Phi", "Psi", "Omega"),
)
_COMMANDS = r"frac|sqrt|binom|pi|infty|cdot|times|div|pm|cup|setminus|approx|leq|geq|neq|lt|gt|log"
_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\.\d+"
    r"|\^\\circ(?![a-zA-Z])|\^\{\\circ\}"
    rf"|(?:[a-zA-Z]|\\(?:{'|'.join(_GREEK)})(?![a-zA-Z]))(?:_\w|_\{{\w+\}}| ?)"
    rf"|\\(?:{_COMMANDS}|{'|'.join(FUNCTION_NAMES)})(?![a-zA-Z]) ?"
    r"|\\(?:begin|end)\{[pb]matrix\}|\\\\"
    r"|_(?:\w ?|(?=\{))"
    r"|\\[{}]|[-+*/^(){}\[\],;:=<>|!&]",
    re.ASCII,
)
_SPELLINGS = {
    ";": ",",
    r"\lt": "<",
    r"\gt": ">",
    r"\begin{bmatrix}": r"\begin{pmatrix}",
    r"\end{bmatrix}": r"\end{pmatrix}",
}
_DEGREE = (r"^\circ", r"^{\circ}")
_FUNCTIONS = (r"\log", *("\\" + name for name in FUNCTION_NAMES))
_TIMES = ("*", r"\cdot", r"\times")
_OVER = ("/", r"\div")
_GROUPS = ("(", "{", "|")
_ALONE = (r"\frac", r"\sqrt", r"\pi", r"\binom")
_FACTORS = (*_ALONE, "(", "{", *_FUNCTIONS)
"""What may follow a factor without a sign between, besides letters."""
_CONSTANTS: dict[str, Number] = {r"\pi": PI, "e": arithmetic.E, "i": arithmetic.I}
_MAYBE_FUNCTIONS = "fghpqFGHPQ"


class UnclearError(Exception):
    """The text is outside the subset, or could be read in two ways."""


def tokens_of(form: str) -> list[str]:
    """The tokens of a normal form. Letters keep their index, as `x_1`; the layout of commands is gone."""
    tokens, position = [], 0
    while position < len(form):
        match = _TOKEN.match(form, position)
        if match is None:
            raise UnclearError
        token = match.group().rstrip()
        tokens.append(_SPELLINGS.get(token, token))
        position = match.end()
    return tokens


def is_letter(token: str) -> bool:
    return token[:1].isalpha() or (token[:1] == "\\" and token[1:].partition("_")[0] in _GREEK)


def read_scalar(tokens: list[str]) -> Scalar:
    """The value of all the tokens. Raises UnclearError, also where too little is known of it."""
    return known(_Reader(tokens).scalar())


def known(scalar: Scalar) -> Scalar:
    """The scalar, or UnclearError if it is defined at too few points."""
    if not is_defined(scalar):
        raise UnclearError
    return scalar


class _Reader:
    """Recursive descent over the tokens of one scalar."""

    def __init__(self, tokens: list[str]) -> None:
        self._tokens = tokens
        self._next = 0
        self._depth = 0
        self._bars = 0

    def scalar(self) -> Scalar:
        value = self._sum()
        if self._peek():
            raise UnclearError
        return value

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise UnclearError

    def _sum(self) -> Scalar:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise UnclearError
        total = self._signed(self._take()) if self._peek() in ("+", "-") else self._product()
        while self._peek() in ("+", "-"):
            total = apply(arithmetic.add, total, self._signed(self._take()))
        self._depth -= 1
        return total

    def _signed(self, sign: str) -> Scalar:
        term = self._product()
        return apply(arithmetic.negate, term) if sign == "-" else term

    def _product(self) -> Scalar:
        begin = self._next
        value = self._power()
        divided = False
        while token := self._peek():
            if token in _TIMES or token in _OVER:
                self._take()
                divided = token in _OVER
                operation = arithmetic.divide if divided else arithmetic.multiply
                value = apply(operation, value, self._power())
            elif token[0].isdigit() or is_letter(token) or token in _FACTORS or self._opens(begin):
                # 1/2x has two readings, 2 3 is no product, and 1\frac{3}{2} no mixed number.
                number_before = self._tokens[self._next - 1][-1].isdigit()
                if divided or token[0].isdigit() or (number_before and self._plain_fraction(self._next)):
                    raise UnclearError
                value = apply(arithmetic.multiply, value, self._power())
            else:
                break
        return value

    def _opens(self, begin: int) -> bool:
        """Whether a bar comes next that can only open, in a product that begins there."""
        return self._peek() == "|" and not self._bars and "|" not in self._tokens[begin : self._next]

    def _plain_fraction(self, at: int) -> tuple[str, ...]:
        r"""Numerator and denominator, if `\frac{1}{2}` of two whole numbers comes next."""
        tokens = self._tokens[at : at + 7]
        if tokens[:2] + tokens[3:5] + tokens[6:] != [r"\frac", "{", "}", "{", "}"]:
            return ()
        return (tokens[2], tokens[5]) if tokens[2].isdigit() and tokens[5].isdigit() else ()

    def _power(self) -> Scalar:
        base = self._mixed_number() or self._atom()
        if self._peek() == "!":
            self._take()
            base = apply(arithmetic.factorial_of, base)
        elif self._peek() in _DEGREE:
            self._take()
            base = apply(arithmetic.multiply, base, number(PI / 180))
        if self._peek() != "^":
            return base
        self._take()
        return apply(arithmetic.power, base, self._argument())

    def _mixed_number(self) -> Scalar | None:
        r"""`1\frac{1}{2}` is three halves; the fraction must be a proper one."""
        fraction = self._plain_fraction(self._next + 1)
        if not self._peek().isdigit() or not fraction or not 0 < int(fraction[0]) < int(fraction[1]):
            return None
        whole = int(self._take())
        self._next += 7
        return number(whole + Fraction(int(fraction[0]), int(fraction[1])))

    def _argument(self) -> Scalar:
        """What a command or ^ applies to: a group, or one character."""
        token = self._peek()
        if token not in ("{", r"\pi") and not (token.isdigit() and len(token) == 1) and not is_letter(token):
            raise UnclearError
        return self._atom()

    def _atom(self) -> Scalar:
        token = self._take()
        if token in ("(", "{"):
            value = self._sum()
            self._expect({"(": ")", "{": "}"}[token])
            return value
        if token == "|":
            return self._absolute()
        if token == r"\frac":
            return apply(arithmetic.divide, self._argument(), self._argument())
        if token == r"\binom":
            return apply(arithmetic.binomial, self._argument(), self._argument())
        if token == r"\sqrt":
            return self._root()
        if token in _FUNCTIONS:
            return self._function(token[1:])
        if token in _CONSTANTS:
            return number(_CONSTANTS[token])
        if token[:1].isdigit() or token.startswith("."):
            return number(Fraction(token))
        if not is_letter(token) or (token in _MAYBE_FUNCTIONS and self._peek() == "("):
            raise UnclearError
        return letter(token.lstrip("\\"))

    def _absolute(self) -> Scalar:
        self._bars += 1
        value = self._sum()
        self._expect("|")
        self._bars -= 1
        if len(value.at) > 1 and not changes_sign(value):  # |x-9000| and 9000-x agree at all points
            raise UnclearError
        return apply(arithmetic.absolute, value)

    def _root(self) -> Scalar:
        index = 2
        if self._peek() == "[":
            self._take()
            written = self._take()
            self._expect("]")
            if not written.isdigit() or len(written) > 2:
                raise UnclearError
            index = int(written)
        value = self._argument()
        if index == 2 and len(value.at) == 1:
            return apply(arithmetic.square_root, value)
        return apply(partial(arithmetic.root, index=index), value)

    def _function(self, name: str) -> Scalar:
        if name == "log":
            base = self._base()
            return apply(arithmetic.log, self._function_argument(), base)
        exponent = Fraction(1)
        if self._peek() == "^":
            self._take()
            written = self._take()
            if not written.isdigit() or len(written) > 1:  # \sin^{-1} is no power
                raise UnclearError
            exponent = Fraction(written)
        value = apply(partial(arithmetic.function, name), self._function_argument())
        return apply(arithmetic.power, value, number(exponent))

    def _base(self) -> Scalar:
        r"""Of a logarithm: `_2` or `_{12}`; 10 if none is given, as math-verify has it."""
        if not self._peek().startswith("_"):
            return number(Fraction(10))
        base = self._take()[1:]
        return _Reader([base]).scalar() if base else self._argument()

    def _function_argument(self) -> Scalar:
        """In brackets; or a number, a letter or such, or one of each, and nothing that might belong to it."""
        if self._peek() in _GROUPS:
            value = self._atom()
            unclear = self._peek() in ("^", "!")
        else:
            factors = [self._power()] if self._peek().isdigit() else []
            if is_letter(self._peek()) or self._peek() in _ALONE:
                factors.append(self._power())
            if not factors:
                raise UnclearError
            value = reduce(partial(apply, arithmetic.multiply), factors)
            token = self._peek()
            unclear = (
                token in (*_TIMES, *_OVER, *_ALONE, *_GROUPS, "!") or token.isdigit() or is_letter(token)
            )
        if unclear:
            raise UnclearError
        return value
