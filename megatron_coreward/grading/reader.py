r"""Reads the value of an answer from a strict subset of LaTeX.

A tree is made of the form by operator precedence, and a value (values.py) of the tree: numbers and expressions in
letters with + - * / ^ !, fractions, roots, binomials; tuples, intervals, sets, lists, unions, \setminus, \pm,
matrices, ratios, equations and inequalities; `f(3)` counts as a letter. Functions, |..|, rounding and \max are read,
too, but not computed: such a term is left to math-verify (math_worker.py), in LaTeX written anew from the tree, so
that it sees nothing but this grammar. What has two readings (`1/2x`, `\sin x/2`, `x^12`, `x2`) is refused.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from megatron_coreward.grading.numbers import (
    CONSTANTS,
    FUNCTIONS,
    POINTS,
    Number,
    UndefinedError,
    less,
    letter_at,
)
from megatron_coreward.grading.values import MIN_DEFINED, SET, Collection, Scalar, Value, same_value, union

Node = Any
"""A Fraction, the name of a letter or constant, or a tuple of the name of an operation and its operands."""
Term = tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]
"""What math-verify is to compute: LaTeX, and what the letters in it stand for at every point."""
Ask = Callable[[Term], Sequence[Number | None] | None]
"""The numbers that a term is at every point (at one if it has no letters); None: not known yet."""
MAX_DEPTH = 25
_GREEK = (
    "alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi"
    "|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega"
)
_REAL = ("sin", "cos", "tan", "cot", "sec", "csc", "exp", "arcsin", "arccos", "arctan", "ln", "log")
_MANY = ("max", "min", "gcd")
_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\.\d+|\^\\circ(?![a-zA-Z])"
    rf"|(?:[a-zA-Z]|\\(?:{_GREEK})(?![a-zA-Z]))(?:_\w|_\{{\w+\}}| ?)"
    r"|\\(?:frac|sqrt|binom|pi|infty|emptyset|cdot|times|div|pm|cup|setminus|approx|[lgn]eq|[lr]floor|[lr]ceil"
    rf"|{'|'.join(_REAL + _MANY)})(?![a-zA-Z]) ?"
    r"|\\(?:begin|end)\{[pb]matrix\}|\\\\|_(?:\w ?|(?=\{))|\\[{}]|[-+*/^(){}\[\],;:=<>|!&]",
    re.ASCII,
)
_INFIX = {
    **{",": (1, "list"), ";": (1, "list"), r"\\": (1, "rows"), "&": (2, "list")},
    **{sign: (3, "relation") for sign in ("=", r"\neq", r"\approx", "<", r"\leq", ">", r"\geq")},
    **{r"\cup": (4, "union"), r"\setminus": (4, "without"), ":": (5, "ratio")},
    **{"+": (6, "add"), "-": (6, "sub"), r"\pm": (6, "pm")},
    **{"*": (7, "mul"), r"\cdot": (7, "mul"), r"\times": (7, "mul"), "/": (7, "div"), r"\div": (7, "div")},
}
_CHAINED = ("list", "rows", "union", "without", "ratio")
_SUM, _PRODUCT = 6, 7
_CLOSES = {
    "(": ")]",
    "[": ")]",
    "{": "}",
    r"\{": r"\}",
    "|": "|",
    r"\lfloor": r"\rfloor",
    r"\lceil": r"\rceil",
}
_CLOSES |= {rf"\begin{{{kind}matrix}}": rf"\end{{{kind}matrix}}" for kind in "pb"}
_MIRRORED = {">": "<", r"\geq": r"\leq"}
_MAYBE_FUNCTIONS = frozenset("fghpqFGHPQ")
_NO_FACTORS = {*_INFIX, r"\infty", r"\emptyset", *_CLOSES.values(), r"\{", "[", "|"}


class UnclearError(Exception):
    """The text is outside the subset, or could be read in two ways."""


def read_value(form: str, ask: Ask) -> Value | None:
    """The value of a normal form, or None where it is outside the subset or not known well enough."""
    try:
        parser = _Parser(form)
        node = parser.expression(0)
        return _Valuer(ask).value(node) if parser.token == "" else None
    except (UnclearError, UndefinedError):
        return None


class _Parser:
    """Operator precedence over the tokens of a form."""

    def __init__(self, form: str) -> None:
        self._tokens: list[str] = []
        position = 0
        while position < len(form):
            match = _TOKEN.match(form, position)
            if match is None:
                raise UnclearError
            self._tokens.append(match.group().rstrip())
            if re.match(r"0\d", self._tokens[-1]):  # part of a date
                raise UnclearError
            position = match.end()
        self._next = self._depth = self._bars = 0

    @property
    def token(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        self._next += 1
        return self._tokens[self._next - 1] if self._next <= len(self._tokens) else ""

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise UnclearError

    def expression(self, level: int) -> Node:
        """What binds more strongly than `level`."""
        self._depth += 1
        if self._depth > 8 * MAX_DEPTH:
            raise UnclearError
        begin, divided = self._next, False
        left = self._signed() if level <= _SUM and self.token in ("+", "-", r"\pm") else self._power()
        while token := self.token:
            if token in _INFIX:
                binding, name = _INFIX[token]
                if binding <= level:
                    break
                self._take()
                if divided and name == "div":  # 1/2/2024
                    raise UnclearError
                left = _joined(name, left, self.expression(binding), token)
                divided = name == "div"
            elif level < _PRODUCT and self._begins_factor(begin):
                # 1/2x has two readings, 2 3 is no product, nor is x2, and 1\frac{3}{2} is no mixed number.
                after_digit = self._tokens[self._next - 1][-1].isdigit()
                if divided or token[0].isdigit() or (after_digit and self._plain_fraction(self._next)):
                    raise UnclearError
                left = ("mul", left, self._power())
            else:
                break
        self._depth -= 1
        return left

    def _signed(self) -> Node:
        sign, term = self._take(), self.expression(_SUM)
        return {"+": term, "-": ("neg", term), r"\pm": ("pm", Fraction(0), term)}[sign]

    def _begins_factor(self, begin: int) -> bool:
        """Whether a factor comes next; a bar, if it can only open, in a product that begins at `begin`."""
        if self.token == "|":
            return not self._bars and "|" not in self._tokens[begin : self._next]
        return self.token not in _NO_FACTORS and self.token[:1] not in "_^!>)]}" and self.token != r"^\circ"

    def _plain_fraction(self, at: int) -> tuple[str, ...]:
        r"""Numerator and denominator, if `\frac{1}{2}` of two whole numbers comes next."""
        tokens = self._tokens[at : at + 7]
        plain = tokens[:2] + tokens[3:5] + tokens[6:] == [r"\frac", "{", "}", "{", "}"]
        return (tokens[2], tokens[5]) if plain and tokens[2].isdigit() and tokens[5].isdigit() else ()

    def _power(self) -> Node:
        base = self._atom()
        if self.token == "!":
            self._take()
            base = ("fact", base)
        elif self.token == r"^\circ":
            self._take()
            base = ("mul", base, ("frac", "pi", Fraction(180)))
        if self.token != "^":
            return base
        self._take()
        return ("pow", base, self._argument())

    def _argument(self) -> Node:
        """What a command or ^ applies to: a group, or one character."""
        token = self.token
        if token not in ("{", r"\pi") and not (token.isdigit() and len(token) == 1) and not _is_letter(token):
            raise UnclearError
        return self._atom()

    def _atom(self) -> Node:
        fraction = self._plain_fraction(self._next + 1)
        token = self._take()
        if token.isdigit() and fraction and 0 < int(fraction[0]) < int(fraction[1]):
            self._next += 7
            return int(token) + Fraction(int(fraction[0]), int(fraction[1]))
        if token in _CLOSES:
            return self._group(token)
        if token in (r"\frac", r"\binom"):
            return (token[1:], self._argument(), self._argument())
        if token == r"\sqrt":
            return self._root()
        if token[1:] in _REAL:
            return self._function(token[1:])
        if token[1:] in _MANY or (token in _MAYBE_FUNCTIONS and self.token == "("):
            return self._call(token)
        if token in (r"\pi", r"\infty", r"\emptyset"):
            return {r"\pi": "pi", r"\infty": "oo"}.get(token, (r"\{\}",))
        if token[:1].isdigit() or token.startswith("."):
            return Fraction(token)
        return token if _is_letter(token) else _unclear()

    def _group(self, opening: str) -> Node:
        self._bars += opening == "|"
        node = self.expression(0)
        closing = self._take()
        if not closing or closing not in _CLOSES[opening]:
            raise UnclearError
        self._bars -= opening == "|"
        items = node[1:] if _is(node, "list") else (node,)
        if opening in ("(", "[") and len(items) > 1:
            return (opening + closing, *items)
        if opening in ("|", r"\lfloor", r"\lceil"):
            return ({"|": "bars"}.get(opening, opening[2:]), node)
        if "matrix" in opening:
            rows = node[1:] if _is(node, "rows") else (node,)
            return ("matrix", *(("row", *(row[1:] if _is(row, "list") else (row,))) for row in rows))
        return (
            (r"\{\}", *items)
            if opening == r"\{"
            else node
            if opening + closing in ("()", "{}")
            else _unclear()
        )

    def _root(self) -> Node:
        index = Fraction(2)
        if self.token == "[":
            self._take()
            index = Fraction(self._take())
            self._expect("]")
        return ("root", self._argument(), index)

    def _call(self, name: str) -> Node:
        """`f(3)` or `f(x,y)` counts as a letter, where `f(2x)` may be a product; `\\max(x,3)` is of anything."""
        self._expect("(")
        begin, node = self._next, self.expression(0)
        inner = "".join(self._tokens[begin : self._next])
        self._expect(")")
        if self.token in ("^", "!", "("):
            raise UnclearError
        if name in _MAYBE_FUNCTIONS:
            return (
                f"{name}({inner})" if re.fullmatch(r"-?(\d+|[a-z])(,-?(\d+|[a-z]))*", inner) else _unclear()
            )
        return (name[1:], *(node[1:] if _is(node, "list") else (node,)))

    def _function(self, name: str) -> Node:
        base, exponent = Fraction(10), "1"  # a logarithm without a base has base 10, as in math-verify
        if name == "log" and self.token.startswith("_"):
            written = self._take()[1:]
            base = (Fraction(written) if written.isdigit() else written) if written else self._argument()
        inverse = self._tokens[self._next : self._next + 5] == ["^", "{", "-", "1", "}"]
        if inverse:
            self._next += 5
        elif self.token == "^":
            self._take()
            exponent = self._take()
        argument = self._function_argument()
        node = ("log", base, argument) if name == "log" else (name, argument)
        if not re.fullmatch(r"\d", exponent) or (inverse and name not in ("sin", "cos", "tan")):
            raise UnclearError
        return (f"arc{name}", argument) if inverse else node if exponent == "1" else ("pow", node, Fraction(exponent))

    def _function_argument(self) -> Node:
        """In brackets; or a number, a letter or such, or one of each, and nothing that might belong to it."""
        if self.token in ("(", "{", "|"):
            node, ends = self._atom(), ("^", "!")
        else:
            if not self.token[:1].isdigit() and not _is_letter(self.token) and self.token not in _SIMPLE:
                raise UnclearError
            node, ends = self._power(), ("*", r"\cdot", r"\times", "/", r"\div", "!", "|")
            number = isinstance(node, Fraction)
            if number and (_is_letter(self.token) or self.token in _SIMPLE):
                node = ("mul", node, self._power())
            if self.token and self._begins_factor(self._next):
                raise UnclearError
        return _unclear() if self.token in ends else node


_SIMPLE = (r"\pi", r"\frac", r"\sqrt")


def _unclear() -> Node:
    raise UnclearError


def _is(node: Node, name: str) -> bool:
    return isinstance(node, tuple) and node[0] == name


def _is_letter(token: str) -> bool:
    return token[:1].isalpha() or re.fullmatch(_GREEK, token[1:].partition("_")[0]) is not None


def _joined(name: str, left: Node, right: Node, sign: str) -> Node:
    if name == "relation":
        sides, signs = left[1:] if _is(left, "relation") else ((left,), ())
        return ("relation", (*sides, right), (*signs, sign))
    return (*left, right) if name in _CHAINED and _is(left, name) else (name, left, right)


class _Valuer:
    """Makes values of trees."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask

    def value(self, node: Node) -> Value:
        name = node[0] if isinstance(node, tuple) else ""
        signs = _both_signs(node)
        if name in ("list", SET) or len(signs) == 2:
            parts = [part for item in node[1:] for part in _both_signs(item)] if len(signs) == 1 else signs
            items = [self.value(part) for part in parts]
            if name == SET:
                items = [
                    v for i, v in enumerate(items) if not any(same_value(v, other) for other in items[:i])
                ]
            return Collection(SET, tuple(items))
        if name == "relation":
            return self._relation(*node[1:])
        if name in ("()", "[]", "(]", "[)", "matrix", "row"):
            return Collection(name, tuple(self.value(item) for item in node[1:]))
        if name == "union" or (name == "without" and len(node) == 3):
            parts = [self.value(part) for part in node[1:]]
            return union(parts) if name == "union" else union(parts[:1], parts[1:])
        return self._ratio(node[1:]) if name == "ratio" else self.scalar(node)

    def _relation(self, sides: Sequence[Node], signs: Sequence[str]) -> Value:
        """One relation, the two of `1<x<3`, or of a computation such as `6+7=13` the value of its sides."""
        values = [self.scalar(side) for side in sides]
        if {"=", r"\approx"}.issuperset(signs) and all(len(value.at) == 1 for value in values):
            for sign, value, side in zip(signs, values[1:], sides[1:], strict=True):
                if sign == "=" and not same_value(values[0], value):
                    return Collection("=", tuple(values))
                if sign == r"\approx" and not _rounds_to(values[0].at[0], side):
                    raise UnclearError
            return values[0]
        if len(signs) > 1 and not {"<", r"\leq", ">", r"\geq"}.issuperset(signs):
            raise UnclearError
        relations: list[Value] = []
        for left, sign, right in zip(sides, signs, sides[1:], strict=False):
            if sign in _MIRRORED:
                left, right, sign = right, left, _MIRRORED[sign]
            difference = self.scalar(("sub", left, right)).at
            if len(difference) == 1 or not difference[0]:
                raise UnclearError
            factor = (
                difference[0]
                if sign in ("=", r"\neq") or less(Fraction(0), difference[0])
                else -difference[0]
            )
            relations.append(
                Collection(sign, (Scalar(tuple(v and FUNCTIONS["div"](v, factor) for v in difference)),))
            )
        return relations[0] if len(relations) == 1 else Collection(SET, tuple(relations))

    def _ratio(self, nodes: Sequence[Node]) -> Value:
        """`3:5` is a number and `3:6:9` is `1:2:3`; `4:30` may be a time of day, which is neither."""
        values = [self.scalar(node) for node in nodes]
        clock = (
            all(isinstance(n, Fraction) and n.denominator == 1 and n < 60 for n in nodes) and nodes[0] < 25
        )
        if (
            clock
            and nodes[1] > 9
            and (len(nodes) > 2 or Fraction(nodes[0], nodes[1]).denominator != nodes[1])
        ):
            return Collection("clock", tuple(values))
        if any(len(value.at) != 1 or not value.at[0] for value in values):
            raise UnclearError
        scaled = tuple(Scalar((FUNCTIONS["div"](value.at[0], values[-1].at[0]),)) for value in values)
        return scaled[0] if len(scaled) == 2 else Collection("ratio", scaled)

    def scalar(self, node: Node) -> Scalar:
        letters: dict[str, str] = {}
        foreign = _scan(node, letters)
        if foreign:
            values = tuple((short, tuple(map(str, letter_at(name)))) for name, short in letters.items())
            at = self._ask((_latex(node, letters), values))
        else:
            at = [_number(node, point) for point in range(len(POINTS) if letters else 1)]
        if at is None or sum(value is not None for value in at) < min(MIN_DEFINED, len(at)):
            raise UnclearError
        return Scalar(tuple(at))


def _both_signs(node: Node) -> list[Node]:
    r"""The node, or the two that one with a single \pm outside of brackets with commas stands for."""
    if not isinstance(node, tuple) or node[0] in ("list", SET, "relation") or str(node).count("'pm'") != 1:
        return [node]
    if node[0] == "pm":
        return [("add", *node[1:]), ("sub", *node[1:])]
    parts = [_both_signs(part) for part in node[1:]]
    return [(node[0], *(part[-1 if second else 0] for part in parts)) for second in (False, True)]


def _rounds_to(value: Number, decimal: Node) -> bool:
    if not isinstance(decimal, Fraction):
        return False
    digits = next((n for n in range(12) if (decimal * 10**n).denominator == 1), 12)
    return less(abs(FUNCTIONS["sub"](value, decimal)), Fraction(6, 10 ** (digits + 1)))


def _scan(node: Node, letters: dict[str, str]) -> bool:
    """Whether math-verify must compute a term; adds its letters to `letters`, with a name that is safe there."""
    if isinstance(node, str) and node not in CONSTANTS and node not in letters:
        if len(letters) == len(_SAFE):
            raise UnclearError
        letters[node] = _SAFE[len(letters)]
    if not isinstance(node, tuple):
        return False
    if node[0] not in FUNCTIONS and node[0] not in _SPELLED:
        raise UnclearError
    return any([node[0] in _SPELLED, *(_scan(operand, letters) for operand in node[1:])])


def _number(node: Node, point: int) -> Number | None:
    if isinstance(node, str):
        return CONSTANTS[node] if node in CONSTANTS else letter_at(node)[point]
    if not isinstance(node, tuple):
        return node
    operands = [_number(operand, point) for operand in node[1:]]
    try:
        return None if None in operands else FUNCTIONS[node[0]](*operands)
    except (UndefinedError, ZeroDivisionError):
        return None


_SAFE = "abckmnrstuvwxyz"
_SPELLED = {
    **{name: (rf"\{name}({{}})", 4, (0,)) for name in (*_REAL, *_MANY)},
    **{"log": (r"\log_{{{}}}({})", 4, (0, 0)), "bars": ("|{}|", 4, (0,))},
    **{"floor": (r"\lfloor {}\rfloor ", 4, (0,)), "ceil": (r"\lceil {}\rceil ", 4, (0,))},
}
"""How math-verify is told of what it must compute: template, how strongly it binds, and its operands must."""
_WRITTEN = _SPELLED | {
    **{"add": ("{}+{}", 1, (1, 2)), "sub": ("{}-{}", 1, (1, 2)), "neg": ("-{}", 1, (2,))},
    **{"mul": (r"{}\cdot {}", 2, (2, 3)), "pow": ("{{{}}}^{{{}}}", 3, (4, 0)), "fact": ("{}!", 3, (4,))},
    **{"root": (r"\sqrt[{1}]{{{0}}}", 4, (0, 0)), "binom": (r"\binom{{{}}}{{{}}}", 4, (0, 0))},
    **dict.fromkeys(("frac", "div"), (r"\frac{{{}}}{{{}}}", 4, (0, 0))),
}
"""The whole grammar that math-verify gets."""


def _latex(node: Node, letters: dict[str, str], level: int = 0) -> str:
    if isinstance(node, Fraction):
        return str(node) if node.denominator == 1 else rf"\frac{{{node.numerator}}}{{{node.denominator}}}"
    if isinstance(node, str):
        return letters.get(node) or {"pi": r"\pi "}.get(node, node)
    template, binds, needs = _WRITTEN[node[0]]
    operands = [_latex(x, letters, need) for x, need in zip(node[1:], needs * len(node), strict=False)]
    text = template.format(*([",".join(operands)] if node[0] in _MANY else operands)).replace(r"\sqrt[2]", r"\sqrt")
    return text if binds >= level else f"({text})"
