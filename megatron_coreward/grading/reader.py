r"""Reads the value of an answer from a strict subset of LaTeX.

Operator precedence over the tokens of a form gives a value (values.py): numbers and expressions in letters
with + - * / ^ !, fractions, roots, binomials, |..| and real functions; tuples, intervals, sets, lists,
unions, \setminus, \pm, matrices, ratios, equations and inequalities; `f(3)` counts as a letter. Inverse
functions, rounding, \max and \min are left to math-verify (math_worker.py), which sees nothing else, and of
those only what _ASKED lists. What has two readings (`1/2x`, `\sin x/2`, `x^12`) is refused.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

from megatron_coreward.grading import values
from megatron_coreward.grading.values import SET, Collection, Number, Scalar, Value, apply, refuse

Term = tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]
"""What math-verify is to compute: LaTeX, and what the letters in it stand for at every point."""
Known = Mapping[Term, Sequence[Number]]  # the numbers that a term is at every point

# fmt: off
_GREEK = (
    "alpha|beta|gamma|delta|(?:var)?epsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|rho|sigma|tau|(?:var)?phi|chi|psi"
    "|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega"
)
_REAL = "|".join(values.REAL_FUNCTIONS)
_SAFE = "abckmnrstuvwxyz"  # letters that math-verify takes for nothing else
_PLAIN = (
    rf"\d+(?:\.\d+)?(?!\d|\\frac)|[{_SAFE}]|[-+^{{}},]"
    r"|\\(?:frac|sqrt(?:\[\d\])?|pi|cdot|times|(?:sin|cos|tan|ln|log_\d)(?=\())(?![a-zA-Z]) ?"
)
_CALLED = rf"\((?:{_PLAIN}|\((?:{_PLAIN})*\))*\)"
_ASKED = (
    rf"\\lfloor ?(?:{_PLAIN}|[()])*\\rfloor ?|\\lceil ?(?:{_PLAIN}|[()])*\\rceil ?"
    rf"|\\(?:max|min|arc(?:sin|cos|tan)){_CALLED}(?![!^(])"
    r"|\\arc(?:sin|cos|tan)(?: ?\d+|\\frac\{\d+\}\{\d+\})(?![\w\\({^!.*/])"
)
_NAMES = r"\\(?:[lr]floor|[lr]ceil|max|min|arc(?:sin|cos|tan)) ?"
_TOKEN = re.compile(
    rf"(?:{_ASKED})|\d+(?:\.\d+)?|\.\d+|\^\\circ(?![a-zA-Z])|\\log_(?:\w|\{{\w+\}}) ?"
    r"|[fghpqFGHPQ]\(-?(?:\d+|[a-z])(?:,-?(?:\d+|[a-z]))*\)(?![!^(])"  # f(3); but f(2x) may be a product
    rf"|(?:(?![fghpqFGHPQ]\()[a-zA-Z]|\\(?:{_GREEK})(?![a-zA-Z]))(?:_\w|_\{{\w+\}}| ?)"
    rf"|\\(?:frac|sqrt|binom|pi|infty|emptyset|cdot|times|div|cup|setminus|approx|{_REAL}"
    r"|[lgn]eq)(?![a-zA-Z]) ?|\\(?:begin|end)\{[pb]matrix\}|\\[\\{}]|[-+*/^(){}\[\],;:=<>|!&]", re.ASCII
)
_MIXED = re.compile(r"(?<![\w.}^])(\d+)\\frac\{(\d+)\}\{(\d+)\}")
_INFIX = {
    **dict.fromkeys((",", ";"), (1, ",")), r"\\": (1, "rows"), "&": (2, ","),
    **{sign: (3, sign) for sign in ("=", r"\neq", r"\approx", "<", r"\leq", ">", r"\geq")},
    **{kind: (4, kind) for kind in values.UNIONS}, ":": (5, ":"), "+": (6, "add"), "-": (6, "sub"),
    **dict.fromkeys(("*", r"\cdot", r"\times"), (7, "mul")), **dict.fromkeys(("/", r"\div"), (7, "div")),
}
_CLOSES = {
    "(": ")]", "[": ")]", "{": "}", r"\{": r"\}", "|": "|",
    **{rf"\begin{{{kind}matrix}}": rf"\end{{{kind}matrix}}" for kind in "pb"},
}
_INNER = r"\{(?:[^{}]|\{[^{}]*\})*\}"
_BARE = re.compile(
    rf"(\\(?:{_REAL})(?![a-zA-Z])(?:_\w|_\{{\w+\}})?(?:\^\d)?) ?"
    rf"(\d*\.?\d*(?:(?:[a-zA-Z]|\\(?:pi|{_GREEK})(?![a-zA-Z]) ?)(?:\^\w|\^{_INNER})?|\\frac{_INNER * 2}"
    rf"|\\sqrt{_INNER}|\^\\circ)?)(?=$|[-+,;=<>)}}&]|\\(?:pm|cup|[lgn]eq|\\|end|{_REAL})(?![a-zA-Z]))"
)
r"""\sin2x or \ln\frac{1}{2}, and nothing that might belong to the argument."""
# fmt: on
_RELATION, _SUM, _PRODUCT, _MAX_DEPTH = 3, 6, 7, 40
_MIRRORED = {">": "<", r"\geq": r"\leq"}
_NO_FACTORS = {*_INFIX, r"\infty", r"\emptyset", *_CLOSES.values(), r"\{", "[", "|", r"^\circ", *"^!)]}", ""}


def terms_of(form: str) -> list[Term]:
    """What math-verify must compute before a normal form can be read."""
    texts = [match[0].rstrip() for match in re.finditer(_ASKED, form)]
    return [_term(text) for text in texts if read_value(re.sub(_NAMES, "", text), {}) is not None]


def _term(text: str) -> Term:
    letters = sorted(set(re.sub(r"\\[a-zA-Z]+", "", text)).intersection(_SAFE))
    return text, tuple((letter, tuple(map(str, values.letter_at(letter)))) for letter in letters)


def read_value(form: str, known: Known) -> Value | None:
    r"""The value of a normal form, whose terms are in `known`; None outside the subset or not known well.

    A form with a single \pm is the list of its two readings.
    """
    try:
        form = _BARE.sub(r"\1(\2)", _MIXED.sub(_improper, form))
        texts = [re.sub(r"\\pm ?", sign, form) for sign in "+-"] if form.count(r"\pm") == 1 else [form]
        read = [_Parser(text, known).whole() for text in texts]
    except values.UndefinedError:
        return None
    if len(read) == 1:
        return read[0]
    return Collection(SET, _distinct([item for value in read for item in _items(value, SET)]))


def _improper(mixed: re.Match[str]) -> str:
    r"""2\frac{1}{3} as \frac{7}{3}; 1\frac{3}{2} is no mixed number, nor a product."""
    whole, numerator, denominator = map(int, mixed.groups())
    proper = 0 < numerator < denominator
    return rf"\frac{{{whole * denominator + numerator}}}{{{denominator}}}" if proper else refuse()


class _Parser:
    """Operator precedence over the tokens of a form."""

    def __init__(self, form: str, known: Known) -> None:
        tokens = _TOKEN.findall(form)
        self._tokens = [token.rstrip() for token in tokens]
        if "".join(tokens) != form or (len(tokens) > 1 and any(re.match(r"0\d", t) for t in tokens)):
            refuse()  # something else is in it, or a date
        self._known = known
        self._next = self._depth = self._bars = 0

    @property
    def token(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self, expected: str = "") -> str:
        token = self.token
        self._next += 1
        return token if expected in ("", token) else refuse()

    def whole(self) -> Value:
        value = self._expression(0)
        if self.token or _items(value, "rows") != (value,):
            refuse()
        return value if _items(value, ",") == (value,) else Collection(SET, _items(value, ","))

    def _expression(self, level: int) -> Value:
        """What binds more strongly than `level`."""
        self._depth += 1
        begin, divided = self._next, False
        sign = self._take() if level < _SUM and self.token in ("+", "-") else ""
        value = self._expression(_SUM) if sign else self._power()
        value = apply("neg", value) if sign == "-" else value
        while token := self.token:
            if token in _INFIX:
                binding, name = _INFIX[token]
                if binding <= level:
                    break
                if divided and name == "div":  # 1/2/2024
                    refuse()
                if binding < _SUM:
                    value = self._chain(value, binding)
                else:
                    self._take()
                    value = apply(name, value, self._expression(binding))
                divided = name == "div"
            elif level < _PRODUCT and self._begins_factor(begin):
                if divided or token[0].isdigit():  # 1/2x has two readings, 2 3 is no product, nor is x2
                    refuse()
                value = apply("mul", value, self._power())
            else:
                break
        self._depth -= 1
        return value

    def _chain(self, first: Value, binding: int) -> Value:
        """What operators of one level join: a list, the rows of a matrix, relations, a union, a ratio."""
        items, signs = [first], list[str]()
        while _INFIX.get(self.token, (0, ""))[0] == binding:
            signs.append(_INFIX[self._take()][1])
            items.append(self._expression(binding))
        if signs[0] in values.UNIONS:
            for sign, item in zip(signs, items[1:], strict=True):
                first = Collection(sign, (first, item))
            values.ends_of(first)  # refuses what is no set of reals
            return first
        if binding == _RELATION:
            return _relation(items, signs)
        if signs[0] == ":":
            return _ratio(items)
        return Collection(signs[0], tuple(items)) if len(set(signs)) == 1 else refuse()

    def _begins_factor(self, begin: int) -> bool:
        """Whether a factor comes next; a bar, if it can only open, in a product that begins at `begin`."""
        if self.token == "|":
            return not self._bars and "|" not in self._tokens[begin : self._next]
        return self.token not in _NO_FACTORS

    def _power(self) -> Value:
        base = self._atom()
        if self.token == "!" and self._take():
            base = apply("fact", base)
        elif self.token == r"^\circ" and self._take():
            base = apply("mul", base, Scalar((values.CONSTANTS[r"\pi"] / 180,)))
        return apply("pow", base, self._argument()) if self.token == "^" and self._take() else base

    def _argument(self) -> Value:
        """What a command or ^ applies to: a group, or one character."""
        token = self.token
        single = token in ("{", r"\pi") or (token.isdigit() and len(token) == 1) or _is_letter(token)
        return self._atom() if single else refuse()

    def _atom(self) -> Value:
        token = self._take()
        name, _, base = token[1:].partition("_")
        if self._depth > _MAX_DEPTH:
            refuse()
        if token in _CLOSES:
            return self._group(token)
        if token in (r"\frac", r"\binom"):
            return apply(name, self._argument(), self._argument())
        if token == r"\sqrt":
            index = "2" if self.token != "[" else (self._take(), self._take(), self._take("]"))[1]
            return apply("root", self._argument(), _scalar(index) if index.isdigit() else refuse())
        if name in values.REAL_FUNCTIONS:
            return self._function(name, base.strip("{}") or "10")  # as in math-verify
        if token == r"\emptyset":
            return Collection(SET, ())
        if token in values.CONSTANTS or _is_letter(token) or token.lstrip(".")[:1].isdigit():
            return _scalar(token)
        return Scalar(tuple(self._known.get(_term(token)) or refuse()))

    def _group(self, opening: str) -> Value:
        self._bars += opening == "|"
        value, closing = self._expression(0), self._take()
        self._bars -= opening == "|"
        if not closing or closing not in _CLOSES[opening]:
            refuse()
        items = _items(value, ",")
        if opening == r"\{" or (opening in ("(", "[") and len(items) > 1):
            return Collection(opening + closing, _distinct(items) if opening == r"\{" else items)
        if "matrix" in opening:
            return Collection(
                "matrix", tuple(Collection("row", _items(r, ",")) for r in _items(value, "rows"))
            )
        if opening == "|":
            return apply("bars", value)
        return value if opening + closing in ("()", "{}") else refuse()

    def _function(self, name: str, base: str) -> Value:
        power = self._argument() if self.token == "^" and self._take() else _scalar("1")
        bracketed = self.token in ("(", "{", "|")
        value = apply(name, self._atom() if bracketed else refuse())
        if self.token in ("^", "!") or power not in [_scalar(digit) for digit in "123456789"]:
            refuse()
        if name == "log":
            value = apply("div", value, apply(name, _scalar(base)))
        return apply("pow", value, power)


def _is_letter(token: str) -> bool:
    return token[:1].isalpha() or re.fullmatch(_GREEK, token[1:].partition("_")[0]) is not None


def _scalar(token: str) -> Scalar:
    if token in values.CONSTANTS:
        return Scalar((values.CONSTANTS[token],))
    return Scalar(values.letter_at(token) if _is_letter(token) else (Fraction(token),))


def _items(value: Value, kind: str) -> tuple[Value, ...]:
    return value.items if isinstance(value, Collection) and value.kind == kind else (value,)


def _distinct(items: Sequence[Value]) -> tuple[Value, ...]:
    return tuple(x for i, x in enumerate(items) if not any(values.same_value(x, y) for y in items[:i]))


def _relation(sides: Sequence[Value], signs: Sequence[str]) -> Value:
    """One relation, the two of `1<x<3`, or of a computation such as `6+7=13` the value of its sides."""
    at = [side.at if isinstance(side, Scalar) else refuse() for side in sides]
    if {"=", r"\approx"}.issuperset(signs) and all(len(numbers) == 1 for numbers in at):
        for sign, side, numbers in zip(signs, sides[1:], at[1:], strict=True):
            if sign == r"\approx" and not values.less(abs(at[0][0] - numbers[0]), abs(at[0][0]) / 100):
                refuse()  # it is not rounded, but something else
            if sign == "=" and not values.same_value(sides[0], side):
                return Collection("=", tuple(sides))
        return sides[0]
    if r"\approx" in signs or (len(signs) > 1 and not {"<", r"\leq", ">", r"\geq"}.issuperset(signs)):
        refuse()
    relations: list[Value] = []
    for left, sign, right in zip(sides, signs, sides[1:], strict=False):
        difference = apply("sub", *((right, left) if sign in _MIRRORED else (left, right)))
        first = Scalar(difference.at[:1]) if len(difference.at) > 1 and difference.at[0] else refuse()
        scale = first if sign in ("=", r"\neq") else apply("bars", first)
        relations.append(Collection(_MIRRORED.get(sign, sign), (apply("div", difference, scale),)))
    return relations[0] if len(relations) == 1 else Collection(SET, tuple(relations))


def _ratio(parts: Sequence[Value]) -> Value:
    """`3:5` is a number and `3:6:9` is `1:2:3`; `4:30` may be a time of day, which is neither."""
    first, second, *others = [
        x.at[0] if isinstance(x, Scalar) and len(x.at) == 1 else refuse() for x in parts
    ]
    whole = all(isinstance(n, Fraction) and n.denominator == 1 and n < 60 for n in (first, second, *others))
    if whole and first < 25 and second > 9 and (others or Fraction(first, second).denominator != second):
        refuse()
    scaled = tuple(apply("div", part, parts[-1]) for part in parts)
    return scaled[0] if len(scaled) == 2 else Collection("ratio", scaled)
