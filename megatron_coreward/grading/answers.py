r"""From a response's text to the normal form of its answer.

    text --extract_answer--> "\dfrac12" --normal_form--> "\frac{1}{2}"

The normal form is what crosses ranks and what a log shows; the text never leaves the rank that drew it.
Two answers with one normal form are equal; whether two different normal forms are equal is decided by
grader.py. Normalisation is therefore cheap and safe: it removes what cannot change the value (layout,
currency and percent signs, a leading `x=`) and leaves everything else, units included, to the grader.

Departures from the authors' code: it compares the raw string in the last box, and takes `\boxed 5` for the
last box even where `\boxed{7}` follows. equality="exact" keeps the first, never the second.
"""

import re
from hashlib import blake2b

MAX_FORM_BYTES = 256
"""Longer forms cross ranks as a hash."""

MAX_ANSWER_CHARS = 2000
"""A longer answer is not normalised, only stripped: it is no answer, and it is hashed anyway."""

_BRACE = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*\{?|\\.|[{}]", re.DOTALL)
_BARE = re.compile(r"[^\s${}]+(?:\{[^\s${}]*\}[^\s${}]*)*")
_HASH = re.compile(r"#[0-9a-f]{64}")


def extract_answer(text: str) -> str:
    r"""The content of the last complete `\boxed{...}`, `\fbox{...}` or bare `\boxed 5`; "" if there is none.

    A box that never closes (a truncated response) is no answer; an earlier complete one then counts.
    """
    last = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    if last < 0:
        return ""
    answer = _last_box(text, last)
    return answer if answer is not None else _last_box(text, 0) or ""


def _last_box(text: str, begin: int) -> str | None:
    """Content of the last complete box at or after `begin`, in one pass; None if there is none."""
    open_boxes: list[int | None] = []  # where the content starts of each brace still open; None: no box
    start, answer = -1, None
    for match in _BRACE.finditer(text, begin):
        token, end = match.group(), match.end()
        if token == "{" or (len(token) > 2 and token.endswith("{")):
            open_boxes.append(end if len(token) > 2 else None)
        elif token == "}" and open_boxes:
            opened = open_boxes.pop()
            if opened is not None and opened > start:
                start, answer = opened, text[opened : match.start()]
        elif len(token) > 2 and (bare := _BARE.match(text, end)):
            start, answer = end, bare.group().rstrip(".,;:")
    return answer


def normal_form(answer: str, equality: str) -> str:
    """The form under which an answer is compared, sent and logged; "" if there is no answer.

    Args:
        answer: what extract_answer returned, or a ground truth.
        equality: "math" normalises; "exact" keeps the raw string, as the authors' code does.

    Returns:
        At most MAX_FORM_BYTES bytes of UTF-8. A longer form becomes "#" and its blake2b hash, and is equal
        only to itself.
    """
    assert equality in ("math", "exact"), f"unknown equality {equality!r}"
    if not answer.strip():
        return ""
    form = answer
    if equality == "math":
        form = _normalise(answer) if len(answer) <= MAX_ANSWER_CHARS else answer.strip()
    encoded = form.encode("utf-8", errors="surrogatepass")
    return form if len(encoded) <= MAX_FORM_BYTES else "#" + blake2b(encoded, digest_size=32).hexdigest()


def is_hashed(form: str) -> bool:
    """Whether `form` stands for an answer that was too long to send."""
    return _HASH.fullmatch(form) is not None


_IN_BASE = re.compile(r"(-?\d[\dA-F]*(?:\.\d+)?|-?[A-F]+\d[\dA-F]*(?=_\{))(_\d|_\{\d\d\})")


def split_unit(form: str) -> tuple[str, str]:
    r"""Body and unit of a normal form: `5\text{cm}` is ("5", "cm"), `101_2` is ("101", "_2").

    A unit is text after a value, or the base of a number. Whoever leaves it out means the same answer, but
    two different units never do.
    """
    if match := re.fullmatch(r"(.+)\\text\{([^{}]*)\}", form):
        return match[1], match[2]
    if match := _IN_BASE.fullmatch(form):
        return match[1], match[2]
    return form, ""


_LITERALS = str.maketrans(
    {"−": "-", "–": "-", "π": r"\pi ", "∞": r"\infty ", "°": r"^\circ ", "×": r"\times ", "·": r"\cdot "}
)
_WRAPPER = r"\\(?:text(?:bf|it|rm|normal|sf)?|math(?:rm|bf|it|sf|bb)|mbox|operatorname)\s*"
_WRAPPED = re.compile(_WRAPPER + r"\{([^{}]*)\}")
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)"
_LAYOUT = [  # cannot change a value
    (re.compile(r"\\[()\[\]]|\\?\$"), ""),  # math delimiters and dollars
    (re.compile(r"(?:,\\!|\{,\})(?=\d{3})|\\!"), ""),  # 1,\!000 and 1{,}000
    (re.compile(r"\\(?:left|right)\s*\."), ""),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|displaystyle|textstyle|limits)(?![a-zA-Z])"), ""),
    (re.compile(r"^\s*\\approx(?![a-zA-Z])"), ""),
    (re.compile(r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~"), " "),
    (re.compile(r"\\[dtc]frac(?![a-zA-Z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![a-zA-Z])"), r"\\binom"),
    (re.compile(r"\\le(?![a-zA-Z])"), r"\\leq"),
    (re.compile(r"\\ge(?![a-zA-Z])"), r"\\geq"),
    (re.compile(r"\\ne(?![a-zA-Z])"), r"\\neq"),
    (re.compile(r"(?:,\s*)?" + _WRAPPER + r"\{\s*,?\s*(?:and|or)\s*\}|,?\s+(?:and|or)\s+"), ","),
]
_COMPACT = [  # one spelling per construct; assumes no spaces
    (re.compile(r"(?<![\\a-zA-Z])sqrt\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\a-zA-Z])pi(?![a-zA-Z])"), r"\\pi"),
    (re.compile(r"(?<![\\a-zA-Z])((?:arc)?(?:sin|cos|tan)|cot|sec|csc|ln|log|exp)(?=[({\d])"), r"\\\1"),
    (re.compile(r"\\frac(\d) ?(\d)(?!\d)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\frac(\d)(?=\{)"), r"\\frac{\1}"),
    (re.compile(r"(\\frac\{[^{}]*\})(\w)"), r"\1{\2}"),
    (re.compile(r"\\sqrt(\w)"), r"\\sqrt{\1}"),
    (re.compile(r"([\^_])\{(\w)\}"), r"\1\2"),
    (re.compile(r"(\d:\d\d)(?:AM|am|a\.m\.?)$"), r"\1\\text{am}"),
    (re.compile(r"(\d:\d\d)(?:PM|pm|p\.m\.?)$"), r"\1\\text{pm}"),
]
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_GROUPED = re.compile(r"(?<=[^\\]\{)\d{1,3}(?:,\d{3})+(?=\})")
_UNIT = re.compile(rf"(.*(?:[\d}})]|\\pi))\s*{_WRAPPER}\{{([^{{}}]*)\}}\s*(?:\^\{{?(\d)\}}?)?")
_PLAIN_UNIT = re.compile(rf"({_NUMBER})\s+(?!pi\b)([a-zA-Z]{{2,}}(?:\s+[a-zA-Z]+)*)\s*(?:\^\{{?(\d)\}}?)?")
_NO_UNIT = {"", "percent", "degree", "dollar"}
_TRIGONOMETRY = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_RELATION = re.compile(r"[=<>]|\\(?:leq|geq|neq|approx|in|equiv|lt|gt)(?![a-zA-Z])")
_ASSIGNED = re.compile(
    r"((?:[a-zA-Z]|[A-Z]{2,3}|\\[a-z]+)(?:_\w)?(?:\([a-z]\))?|\([a-z](?:,[a-z])+\)|[a-z](?:,[a-z])+)(?:=|\\in(?![a-zA-Z]))"
)


def _normalise(answer: str) -> str:
    form = answer.translate(_LITERALS).strip()
    for pattern, replacement in _LAYOUT:
        form = pattern.sub(replacement, form)
    form = re.sub(r"\\?%$", "", form.strip().rstrip(".,;:")).strip()
    if _THOUSANDS.fullmatch(form):
        form = form.replace(",", "")
    form = _GROUPED.sub(lambda number: number.group().replace(",", ""), form)
    form, unit = _take_unit(form)
    while (unwrapped := _WRAPPED.sub(r"\1", form)) != form:
        form = unwrapped
    if not _TRIGONOMETRY.search(form):
        form = re.sub(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![a-zA-Z]))", "", form)
    # A space between digits is kept ("2 3" is not 23), as is one that ends a command ("\pi r").
    form = re.sub(r"(?<!\d)\s+|\s+(?!\d)", _squeeze, form.strip())
    for pattern, replacement in _COMPACT:
        form = pattern.sub(replacement, form)
    form = _drop_assignment(_drop_outer_braces(form))
    if choice := re.fullmatch(r"\(([A-Z])\)", form):
        form = choice[1]
    if re.fullmatch(r"[a-zA-Z]{3,}", form):
        form = form.lower()
    return _plain_number(form) + (rf"\text{{{unit}}}" if unit else "")


def _squeeze(space: re.Match[str]) -> str:
    """One space where a command would otherwise swallow the letter that follows, else nothing."""
    before, after = space.string[: space.start()], space.string[space.end() : space.end() + 1]
    return " " if after.isalpha() and re.search(r"\\[a-zA-Z]+$", before) else ""


def _take_unit(form: str) -> tuple[str, str]:
    r"""Splits `5\text{ cm}^2` or `5 cm` into value and unit; the unit in one spelling."""
    match = _UNIT.fullmatch(form) or _PLAIN_UNIT.fullmatch(form)
    if match is None:
        return form, ""
    unit = re.sub(r"[\s.,\\]+", "", match[2]).lower()
    if len(unit) > 3:
        unit = unit.removesuffix("s")
    return match[1], "" if unit in _NO_UNIT else unit + (match[3] or "")


def _drop_outer_braces(form: str) -> str:
    while re.fullmatch(r"\{(?:[^{}]|\{[^{}]*\})*\}", form):
        form = form[1:-1]
    return form


def _drop_assignment(form: str) -> str:
    r"""`x=5`, `x\in[0,1]`, `f(x)=2x` and `(x,y)=(1,2)` without what is left of the sign.

    Equations proper (`x=5,y=3`, `y=2y+1`) stay whole.
    """
    match = _ASSIGNED.match(form)
    if match is None:
        return form
    rest = form[match.end() :]
    name = re.sub(r"\([a-z]\)$", "", match[1])
    letters = re.sub(r"\\[a-zA-Z]+", "", rest)
    return form if not rest or _RELATION.search(rest) or name in letters else rest


def _plain_number(form: str) -> str:
    """142.0 -> 142, 070 -> 70, .5 -> 0.5, +3 -> 3, -0 -> 0; anything else unchanged."""
    if not re.fullmatch(_NUMBER, form, re.ASCII):
        return form
    whole, _, decimals = form.lstrip("+-").partition(".")
    whole, decimals = whole.lstrip("0") or "0", decimals.rstrip("0")
    digits = f"{whole}.{decimals}" if decimals else whole
    return "-" + digits if form.startswith("-") and digits != "0" else digits
