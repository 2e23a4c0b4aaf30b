r"""Reads the value of an answer from a strict subset of LaTeX.

A tree is made of the form by operator precedence, and a value (values.py) of the tree: numbers and
expressions in letters with + - * / ^ !, fractions, roots, binomials, |..| and real functions; tuples,
intervals, sets, lists, unions, \setminus, \pm, matrices, ratios, equations and inequalities; `f(3)` counts
as a letter. Inverse functions, rounding and \max are read, too, but not computed: a term with one is left to
math-verify (math_worker.py), in LaTeX written anew from the tree, so that it sees nothing but this grammar.
What has two readings (`1/2x`, `\sin x/2`, `x^12`) is refused.
"""

import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from megatron_coreward.grading import values
from megatron_coreward.grading.values import (
    CONSTANTS,
    FUNCTIONS,
    SET,
    Collection,
    Number,
    Scalar,
    Value,
    refuse,
)

Node = Any
"""A Fraction, the name of a letter or constant, or a tuple of the name of an operation and its operands."""
Term = tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]
"""What math-verify is to compute: LaTeX, and what the letters in it stand for at every point."""
Ask = Callable[[Term], Sequence[Number | None] | None]
"""The numbers that a term is at every point (at one if it has no letters); None: not known yet."""

# fmt: off
_GREEK = (
    "alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi"
    "|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega"
)
_REAL = (*values.REAL_FUNCTIONS, "arcsin", "arccos", "arctan", "log")
_MANY = ("max", "min")
_TOKEN = re.compile(
    r"\d+(?:\.\d+)?|\.\d+|\^\\circ(?![a-zA-Z])"
    rf"|(?:[a-zA-Z]|\\(?:{_GREEK})(?![a-zA-Z]))(?:_\w|_\{{\w+\}}| ?)"
    r"|\\(?:frac|sqrt|binom|pi|infty|emptyset|cdot|times|div|pm|cup|setminus|approx|[lgn]eq|[lr]floor|[lr]ceil"
    rf"|{'|'.join(_REAL + _MANY)})(?![a-zA-Z]) ?"
    r"|\\(?:begin|end)\{[pb]matrix\}|\\\\|_(?:\w ?|(?=\{))|\\[{}]|[-+*/^(){}\[\],;:=<>|!&]",
    re.ASCII,
)
_INFIX = {
    ",": (1, "list"), ";": (1, "list"), r"\\": (1, "rows"), "&": (2, "list"),
    **dict.fromkeys(("=", r"\neq", r"\approx", "<", r"\leq", ">", r"\geq"), (3, "relation")),
    r"\cup": (4, "union"), r"\setminus": (4, "without"), ":": (5, "ratio"),
    "+": (6, "add"), "-": (6, "sub"), r"\pm": (6, "pm"),
    **dict.fromkeys(("*", r"\cdot", r"\times"), (7, "mul")), "/": (7, "div"), r"\div": (7, "div"),
}
_CLOSES = {
    "(": ")]", "[": ")]", "{": "}", r"\{": r"\}", "|": "|", r"\lfloor": r"\rfloor", r"\lceil": r"\rceil",
    **{rf"\begin{{{kind}matrix}}": rf"\end{{{kind}matrix}}" for kind in "pb"},
}
_FOREIGN = {
    **{name: (rf"\{name}({{}})", 4, (0,)) for name in ("arcsin", "arccos", "arctan", *_MANY)},
    "floor": (r"\lfloor {}\rfloor ", 4, (0,)), "ceil": (r"\lceil {}\rceil ", 4, (0,)),
}
"""What math-verify must compute: how it is told so, how strongly that binds, and its operands must."""
_WRITTEN = _FOREIGN | {
    **{name: (rf"\{name}({{}})", 4, (0,)) for name in values.REAL_FUNCTIONS},
    "log": (r"\log_{{{}}}({})", 4, (0, 0)), "bars": ("|{}|", 4, (0,)),
    "add": ("{}+{}", 1, (1, 2)), "sub": ("{}-{}", 1, (1, 2)), "neg": ("-{}", 1, (2,)),
    "mul": (r"{}\cdot {}", 2, (2, 3)), "pow": ("{{{}}}^{{{}}}", 3, (4, 0)), "fact": ("{}!", 3, (4,)),
    "root": (r"\sqrt[{1}]{{{0}}}", 4, (0, 0)), "binom": (r"\binom{{{}}}{{{}}}", 4, (0, 0)),
    **dict.fromkeys(("frac", "div"), (r"\frac{{{}}}{{{}}}", 4, (0, 0))),
}
"""The whole grammar that math-verify gets."""
# fmt: on
_SUM, _PRODUCT, _MAX_DEPTH = 6, 7, 60
_MIRRORED = {">": "<", r"\geq": r"\leq"}
_MAYBE_FUNCTIONS = frozenset("fghpqFGHPQ")
_NO_FACTORS = {*_INFIX, r"\infty", r"\emptyset", *_CLOSES.values(), r"\{", "[", "|", r"^\circ", *"_^!)]}", ""}
_SIMPLE = (r"\pi", r"\frac", r"\sqrt")
_SAFE = "abckmnrstuvwxyz"
"""Letters that math-verify takes for nothing else."""


def read_value(form: str, ask: Ask) -> Value | None:
    """The value of a normal form, or None where it is outside the subset or not known well enough."""
    try:
        parser = _Parser(form)
        node = parser.expression(0)
        return _value(node, ask) if parser.token == "" else None
    except values.UndefinedError:
        return None


class _Parser:
    """Operator precedence over the tokens of a form."""

    def __init__(self, form: str) -> None:
        tokens = _TOKEN.findall(form)
        self._tokens = [token.rstrip() for token in tokens]
        if "".join(tokens) != form or (len(tokens) > 1 and any(re.match(r"0\d", t) for t in tokens)):
            refuse()  # something else is in it, or a date
        self._next = self._depth = self._bars = 0

    @property
    def token(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        token = self.token
        self._next += 1
        return token if expected in ("", token) else refuse()

    def expression(self, level: int) -> Node:
        """What binds more strongly than `level`."""
        self._depth += 1
        begin, divided = self._next, False
        left = self._signed() if level < _SUM and self.token in ("+", "-", r"\pm") else self._power()
        while token := self.token:
            if token in _INFIX:
                binding, name = _INFIX[token]
                if binding <= level:
                    break
                if divided and name == "div":  # 1/2/2024
                    refuse()
                self._take()
                left = _joined(name, left, self.expression(binding), token)
                divided = name == "div"
            elif level < _PRODUCT and self._begins_factor(begin):
                # 1/2x has two readings, 2 3 is no product, nor is x2, and 1\frac{3}{2} is no mixed number.
                after_digit = self._tokens[self._next - 1][-1].isdigit()
                if divided or token[0].isdigit() or (after_digit and self._plain_fraction(self._next)):
                    refuse()
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
        return self.token not in _NO_FACTORS and not self.token.startswith("_")

    def _plain_fraction(self, at: int) -> tuple[str, ...]:
        r"""Numerator and denominator, if `\frac{1}{2}` of two whole numbers comes next."""
        tokens = self._tokens[at : at + 7]
        plain = tokens[:2] + tokens[3:5] + tokens[6:] == [r"\frac", "{", "}", "{", "}"]
        return (tokens[2], tokens[5]) if plain and tokens[2].isdigit() and tokens[5].isdigit() else ()

    def _power(self) -> Node:
        base = self._atom()
        if self.token == "!":
            base = (self._take() and "fact", base)
        elif self.token == r"^\circ":
            base = (self._take() and "mul", base, ("frac", "pi", Fraction(180)))
        return ("pow", base, self._take() and self._argument()) if self.token == "^" else base

    def _argument(self) -> Node:
        """What a command or ^ applies to: a group, or one character."""
        token = self.token
        single = token in ("{", r"\pi") or (token.isdigit() and len(token) == 1) or _is_letter(token)
        return self._atom() if single else refuse()

    def _atom(self) -> Node:
        fraction = self._plain_fraction(self._next + 1)
        token = self._take()
        if self._depth > _MAX_DEPTH:
            refuse()
        if token.isdigit() and fraction and 0 < int(fraction[0]) < int(fraction[1]):
            self._next += 7
            return int(token) + Fraction(int(fraction[0]), int(fraction[1]))
        if token in _CLOSES:
            return self._group(token)
        if token in (r"\frac", r"\binom"):
            return (token[1:], self._argument(), self._argument())
        if token == r"\sqrt":
            index = "2" if self.token != "[" else (self._take(), self._take(), self._take("]"))[1]
            return ("root", self._argument(), Fraction(index) if index.isdigit() else refuse())
        if token[1:] in _REAL:
            return self._function(token[1:])
        if token[1:] in _MANY or (token in _MAYBE_FUNCTIONS and self.token == "("):
            return self._call(token)
        if token in (r"\pi", r"\infty", r"\emptyset"):
            return {r"\pi": "pi", r"\infty": "oo"}.get(token, (SET,))
        if token[:1].isdigit() or token.startswith("."):
            return Fraction(token)
        return token if _is_letter(token) else refuse()

    def _group(self, opening: str) -> Node:
        self._bars += opening == "|"
        node, closing = self.expression(0), self._take()
        self._bars -= opening == "|"
        if not closing or closing not in _CLOSES[opening]:
            refuse()
        items = _items(node, "list")
        if opening == r"\{" or (opening in ("(", "[") and len(items) > 1):
            return (opening + closing, *items)
        if opening in ("|", r"\lfloor", r"\lceil"):
            return ({"|": "bars"}.get(opening, opening[2:]), node)
        if "matrix" in opening:
            return ("matrix", *(("row", *_items(row, "list")) for row in _items(node, "rows")))
        return node if opening + closing in ("()", "{}") else refuse()

    def _call(self, name: str) -> Node:
        """`f(3)` or `f(x,y)` counts as a letter, where `f(2x)` may be a product; `\\max` is of anything."""
        begin, node = self._next, self._take("(") and self.expression(0)
        self._take(")")
        inner = "".join(self._tokens[begin : self._next])
        plain = re.fullmatch(r"\(-?(\d+|[a-z])(,-?(\d+|[a-z]))*\)", inner) is not None
        if self.token in ("^", "!", "(") or (name in _MAYBE_FUNCTIONS and not plain):
            refuse()
        return name + inner if name in _MAYBE_FUNCTIONS else (name[1:], *_items(node, "list"))

    def _function(self, name: str) -> Node:
        base: Node = Fraction(10)  # a logarithm without a base has base 10, as in math-verify
        if name == "log" and self.token.startswith("_"):
            written = self._take()[1:]
            base = (Fraction(written) if written.isdigit() else written) if written else self._argument()
        if self._tokens[self._next : self._next + 5] == ["^", "{", "-", "1", "}"]:
            self._next += 5
            return (f"arc{name}" if name in ("sin", "cos", "tan") else refuse(), self._function_argument())
        exponent = (self._take() and self._take()) if self.token == "^" else "1"
        argument = self._function_argument()
        node = ("log", base, argument) if name == "log" else (name, argument)
        return (
            node if exponent == "1" else ("pow", node, Fraction(exponent) if exponent.isdigit() else refuse())
        )

    def _function_argument(self) -> Node:
        """In brackets; or a number, a letter or such, or one of each, and nothing that might belong to it."""
        ends: tuple[str, ...]
        if self.token in ("(", "{", "|"):
            node, ends = self._atom(), ("^", "!")
        else:
            simple = self.token[:1].isdigit() or _is_letter(self.token) or self.token in _SIMPLE
            node, ends = (
                self._power() if simple else refuse(),
                ("*", r"\cdot", r"\times", "/", r"\div", "!", "|"),
            )
            if isinstance(node, Fraction) and (_is_letter(self.token) or self.token in _SIMPLE):
                node = ("mul", node, self._power())
            if self._begins_factor(self._next) and self.token[1:] not in _REAL:
                refuse()
        return refuse() if self.token in ends else node


def _is_letter(token: str) -> bool:
    return token[:1].isalpha() or re.fullmatch(_GREEK, token[1:].partition("_")[0]) is not None


def _items(node: Node, name: str) -> tuple[Node, ...]:
    return node[1:] if isinstance(node, tuple) and node[0] == name else (node,)


def _joined(name: str, left: Node, right: Node, sign: str) -> Node:
    chained = isinstance(left, tuple) and left[0] == name and name not in ("add", "sub", "mul", "div", "pm")
    if name == "relation":
        sides, signs = left[1:] if chained else ((left,), ())
        return ("relation", (*sides, right), (*signs, sign))
    return (*left, right) if chained else (name, left, right)


def _value(node: Node, ask: Ask) -> Value:
    name = node[0] if isinstance(node, tuple) else ""
    both = _both_signs(node)
    if name in ("list", SET) or len(both) == 2:
        parts = [part for item in node[1:] for part in _both_signs(item)] if len(both) == 1 else both
        items, same = [_value(part, ask) for part in parts], values.same_value
        if name == SET:
            items = [
                item for i, item in enumerate(items) if not any(same(item, other) for other in items[:i])
            ]
        return Collection(SET, tuple(items))
    if name == "relation":
        return _relation(node[1], node[2], ask)
    if name == "ratio":
        return _ratio(node[1:], ask)
    if name in ("()", "[]", "(]", "[)", "matrix", "row"):
        return Collection(name, tuple(_value(item, ask) for item in node[1:]))
    if name == "union" or (name == "without" and len(node) == 3):
        parts = [_value(part, ask) for part in node[1:]]
        return values.union(parts) if name == "union" else values.union(parts[:1], parts[1:])
    return _scalar(node, ask)


def _both_signs(node: Node) -> list[Node]:
    r"""The node, or the two that one with a single \pm outside of lists stands for."""
    if not isinstance(node, tuple) or node[0] in ("list", SET, "relation") or str(node).count("'pm'") != 1:
        return [node]
    if node[0] == "pm":
        return [("add", *node[1:]), ("sub", *node[1:])]
    parts = [_both_signs(part) for part in node[1:]]
    both = [(node[0], *(part[which] for part in parts)) for which in (0, -1)]
    return both if any(len(part) == 2 for part in parts) else [node]


def _relation(sides: Sequence[Node], signs: Sequence[str], ask: Ask) -> Value:
    """One relation, the two of `1<x<3`, or of a computation such as `6+7=13` the value of its sides."""
    at = [_scalar(side, ask) for side in sides]
    if {"=", r"\approx"}.issuperset(signs) and all(len(scalar.at) == 1 for scalar in at):
        for sign, scalar, side in zip(signs, at[1:], sides[1:], strict=True):
            if sign == r"\approx" and not _rounds_to(at[0].at[0], side):
                refuse()
            if sign == "=" and not values.same_value(at[0], scalar):
                return Collection("=", tuple(at))
        return at[0]
    if len(signs) > 1 and not {"<", r"\leq", ">", r"\geq"}.issuperset(signs):
        refuse()
    relations: list[Value] = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        if sign in _MIRRORED:
            left, right, sign = right, left, _MIRRORED[sign]
        difference = _scalar(("sub", left, right), ask).at
        first, divide = difference[0] or refuse(), FUNCTIONS["div"]
        if len(difference) == 1 or sign == r"\approx":
            refuse()
        scale = first if sign in ("=", r"\neq") or values.less(Fraction(0), first) else -first
        scaled = Scalar(tuple(None if x is None else divide(x, scale) for x in difference))
        relations.append(Collection(sign, (scaled,)))
    return relations[0] if len(relations) == 1 else Collection(SET, tuple(relations))


def _rounds_to(value: Number, decimal: Node) -> bool:
    digits = next(
        (n for n in range(12) if isinstance(decimal, Fraction) and (decimal * 10**n).denominator == 1), -1
    )
    return digits >= 0 and values.less(abs(FUNCTIONS["sub"](value, decimal)), Fraction(6, 10 ** (digits + 1)))


def _ratio(nodes: Sequence[Node], ask: Ask) -> Value:
    """`3:5` is a number and `3:6:9` is `1:2:3`; `4:30` may be a time of day, which is neither."""
    parts = tuple(_scalar(node, ask) for node in nodes)
    whole = all(isinstance(n, Fraction) and n.denominator == 1 and n < 60 for n in nodes)
    reduced = whole and len(nodes) == 2 and Fraction(nodes[0], nodes[1] or 1).denominator == nodes[1]
    if whole and nodes[0] < 25 and nodes[1] > 9 and not reduced:
        return Collection("clock", parts)
    if any(len(part.at) != 1 or not part.at[0] for part in parts):
        refuse()
    scaled = tuple(Scalar((FUNCTIONS["div"](part.at[0], parts[-1].at[0]),)) for part in parts)
    return scaled[0] if len(scaled) == 2 else Collection("ratio", scaled)


def _scalar(node: Node, ask: Ask) -> Scalar:
    letters: dict[str, str] = {}
    if _scan(node, letters):
        meant = tuple((short, tuple(map(str, values.letter_at(name)))) for name, short in letters.items())
        at = ask((_latex(node, letters), meant)) or refuse()
    else:
        at = [_number(node, point, bool(letters)) for point in range(len(values.POINTS) if letters else 1)]
    known = sum(number is not None for number in at) >= min(values.MIN_DEFINED, len(at))
    return Scalar(tuple(at)) if known else refuse()


def _scan(node: Node, letters: dict[str, str]) -> bool:
    """Whether math-verify must compute a term; adds its letters to `letters`, each with a name for there."""
    if isinstance(node, str) and node not in CONSTANTS and node not in letters:
        letters[node] = _SAFE[len(letters)] if len(letters) < len(_SAFE) else refuse()
    if not isinstance(node, tuple):
        return False
    if node[0] not in FUNCTIONS and node[0] not in _FOREIGN:
        refuse()
    return any([node[0] in _FOREIGN, *(_scan(operand, letters) for operand in node[1:])])


def _number(node: Node, point: int, lettered: bool) -> Number | None:
    if isinstance(node, str):
        return CONSTANTS[node] if node in CONSTANTS else values.letter_at(node)[point]
    if not isinstance(node, tuple):
        return node
    operands = [_number(operand, point, lettered) for operand in node[1:]]
    try:
        if None in operands or (lettered and node[0] == "root" and values.less(operands[0], Fraction(0))):
            return None  # letters stand for numbers of which there is a root
        return FUNCTIONS[node[0]](*operands)
    except (values.UndefinedError, ZeroDivisionError):
        return None


def _latex(node: Node, letters: dict[str, str], level: int = 0) -> str:
    if isinstance(node, Fraction):
        return str(node) if node.denominator == 1 else rf"\frac{{{node.numerator}}}{{{node.denominator}}}"
    if isinstance(node, str):
        return letters.get(node) or {"pi": r"\pi ", "e": "e"}.get(node) or refuse()
    template, binds, needs = _WRITTEN[node[0]]
    operands = [_latex(x, letters, need) for x, need in zip(node[1:], needs * len(node), strict=False)]
    text = template.format(*([",".join(operands)] if node[0] in _MANY else operands)).replace(
        r"\sqrt[2]", r"\sqrt"
    )
    return text if binds >= level else f"({text})"
