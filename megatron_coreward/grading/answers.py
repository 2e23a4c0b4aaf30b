r"""From a response's text to the normal form of its answer.

    text --extract_answer--> "x=\dfrac12" --normal_form--> "x=\frac{1}{2}" --take_apart--> Parts

Of several boxes the last one counts that holds an answer. Boxes with nothing but commas and "and" between
them are one list; a sign directly before a box belongs to it. A box that never closes (a truncated response)
is no answer, nor is an empty box, a bare word after `\boxed`, or a box that shows the format. The normal
form is what crosses ranks and what a log shows. equality="exact" is the rule of the authors' code.
"""

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

from megatron_coreward.grading.spelling import normalise
from megatron_coreward.grading.units import changes_value

MAX_FORM_BYTES = 256  # longer forms cross ranks as a hash
MAX_ANSWER_CHARS = 2000  # a longer answer is not normalised: it is none, and it is hashed anyway
_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])\s*\{?|\\.|[{}]", re.DOTALL)
_SPACED = "\\boxed "
_BARE = re.compile(r"[^\s${}]+(?:\{[^\s${}]*\}[^\s${}]*)*")
_BARE_WORD = re.compile(r"[aI]|[^\w\\]*[a-zA-Z]{2,}\W*|\W+")
"""What follows a bare \\boxed in a sentence about boxes."""
_LAYOUT = r"(?:\s|\$|\\[()\[\],;:! ]|\\q?quad(?![a-zA-Z])|~|\*)*"
_AND = r"(?:and(?![a-zA-Z])|\\(?:text|mathrm|mbox)\{\s*,?\s*and\s*\})"
_SIGN = r"(?:[-+−]|\\pm(?![a-zA-Z]))\s*"
_JOINT = re.compile(rf"{_LAYOUT}(?:,{_LAYOUT}(?:{_AND}{_LAYOUT})?|{_AND}{_LAYOUT})(?P<sign>{_SIGN})?")
_SIGNED = re.compile(rf"(?:=|\\approx|\$|\\[(\[])\s*(?P<sign>{_SIGN})$")
_PLACEHOLDER = re.compile(
    r"(?:[\s.,_?\-\[\]<>*'\"]|\\(?:[ld]?dots|cdots?|square|bigcirc|qquad|quad|hspace\{[^{}]*\}|[ ,;:!_])"
    r"|\\(?:text\w*|mathrm|phantom|underline)(?=\{)|[{}]"
    r"|(?i:\b(?:(?:the|your|my|an?|final|correct)\b(?=\s*\w)|answer|ans|result|solution|value|number)\b))*"
)
_EXAMPLE = re.compile(
    r"(?i:for example|for instance|e\.\s?g\.|such as|example:|like this|in the (?:form|format)(?: of)?)"
    r"[\s,:`\"'$*]*(?:\\[(\[])?\s*$"
)


class _Box(NamedTuple):
    begin: int
    start: int
    """Of the content."""
    end: int
    content: str


def extract_answer(text: str, equality: str = "math") -> str:
    r"""The answer in the boxes of a response; "" if there is none.

    Args:
        equality: "exact" takes what the authors' code takes, whatever it is.
    """
    if equality == "exact":
        return _last_box(text)
    boxes, first = _answer_boxes(text)
    distinct: dict[str, str] = {}
    for i, box in enumerate(boxes[first:], first):
        answer = _signed(text, box, boxes[i - 1].end if i else 0)
        distinct.setdefault(normal_form(answer, equality), answer)
    return ", ".join(distinct.values())


def answer_spans(text: str, equality: str = "math") -> list[tuple[int, int]]:
    """Where in a response the boxes' contents stand that `extract_answer` reads: begin and end of each."""
    if equality == "exact":
        content = _last_box(text)
        begin = text.rfind(_SPACED if _SPACED in text else r"\boxed") + len(_SPACED)  # or that of "\boxed{"
        return [(begin, begin + len(content))] if content else []
    boxes, first = _answer_boxes(text)
    return [(box.start, box.start + len(box.content)) for box in boxes[first:]]


def _answer_boxes(text: str) -> tuple[list[_Box], int]:
    """The boxes that may hold an answer, and the index of the first of those that do, the last ones."""
    boxes = [box for box in _boxes(text) if len(box.content) >= 80 or not _PLACEHOLDER.fullmatch(box.content)]
    boxes = [box for box in boxes if not _EXAMPLE.search(text, max(0, box.begin - 60), box.begin)] or boxes
    first = len(boxes) - 1
    while first > 0 and _JOINT.fullmatch(text, boxes[first - 1].end, boxes[first].begin):
        first -= 1
    return boxes, max(first, 0)


def _last_box(text: str) -> str:
    r"""The rule of the authors' code. Where that raises an error (`\fbox{5}`, `\boxed5`) there is no answer.

    What follows the last `\boxed ` with a space, up to a dollar sign; if there is none, what stands in the
    last `\boxed{..}`, where every brace counts.
    """
    if _SPACED in text:
        return text.rpartition(_SPACED)[2].partition("$")[0]
    _, box, content = text.rpartition(r"\boxed")
    level = 0
    for brace in re.finditer("[{}]", content) if box and content.startswith("{") else ():
        level += 1 if brace[0] == "{" else -1
        if level == 0:
            return content[1 : brace.start()]
    return ""


def _boxes(text: str) -> list[_Box]:
    """The complete boxes in order, of nested ones the innermost; in one pass."""
    open_braces: list[tuple[int, int] | None] = []  # of each brace still open: where its box begins, if one
    boxes: list[_Box] = []
    first = re.search(r"\\{1,2}(?:boxed|fbox)", text)  # braces before it close nothing that counts
    for match in _TOKEN.finditer(text, first.start()) if first else ():
        token, end = match.group(), match.end()
        is_box = len(token) > 2
        if token.endswith("{") and (is_box or token == "{"):
            open_braces.append((match.start(), end) if is_box else None)
        elif token == "}" and open_braces:
            opened = open_braces.pop()
            if opened is not None and not (boxes and boxes[-1].begin > opened[0]):
                boxes.append(_Box(*opened, end, text[opened[1] : match.start()]))
        elif is_box and (bare := _BARE.match(text, end)):
            content = bare.group().rstrip(".,;:")
            if not _BARE_WORD.fullmatch(content):
                boxes.append(_Box(match.start(), end, end + len(content), content))
    return boxes


def _signed(text: str, box: _Box, begin: int) -> str:
    """The content of a box with a sign that stands before it and is no subtraction, nor a list's bullet."""
    between = text[max(begin, box.begin - 40) : box.begin]
    match = _SIGNED.search(between) or _JOINT.fullmatch(between)
    sign = (match["sign"] or "").strip().replace("−", "-") if match else ""
    if sign in ("", "+"):
        return box.content
    whole = re.search(r".[-+=]|^[-+]|\\pm", box.content.strip())
    return f"{sign}({box.content})" if whole else f"{sign}{box.content}"


@lru_cache(maxsize=8192)
def normal_form(answer: str, equality: str) -> str:
    """The form under which an answer is compared, sent and logged; "" if there is no answer.

    "math" normalises; "exact" keeps the raw string, as the authors' code does. A form of more than
    MAX_FORM_BYTES bytes of UTF-8 becomes "#" and its blake2b hash, and is equal only to itself.
    """
    assert equality in ("math", "exact"), f"unknown equality {equality!r}"
    if not answer.strip():
        return ""
    form = answer
    if equality == "math":
        form = normalise(answer) if len(answer) <= MAX_ANSWER_CHARS else answer.strip()
    encoded = form.encode("utf-8", errors="surrogatepass")
    return form if len(encoded) <= MAX_FORM_BYTES else "#" + blake2b(encoded, digest_size=32).hexdigest()


class Parts(NamedTuple):
    r"""What a normal form says: `(C)x=5\text{cm}` is choice "C", name "x", body "5" and unit "cm"."""

    body: str
    choice: str = ""
    name: str = ""
    unit: str = ""


_RELATION = re.compile(r"[=<>]|\\(?:leq|geq|neq|approx|in|equiv)(?![a-zA-Z])")
_NAME = (
    r"(?:[a-zA-Z]|[A-Z]{2,3}|\\(?!frac|sqrt|pi|pm|sin|cos|tan|log|ln)[a-zA-Z]+)(?:_\w|_\{\w+\})?(?:\([a-z]\))?"
    "|[a-z]{3,}"
)
_NAMED = re.compile(
    rf"({_NAME}|\([a-z](?:,[a-z])+\)|[a-z](?:,[a-z])+|[a-z](?:\+[a-z])+(?==\d*[a-z]$))(?:=|\\in(?![a-zA-Z]))(.+)"
)
_ONE_NAMED = re.compile(r"([a-zA-Z])(?:_(\w|\{\w+\}))?=([^=,]+)")


def take_apart(form: str) -> Parts:
    """The parts of a normal form."""
    if re.fullmatch("[A-J]", form):
        return Parts("", choice=form)
    chosen = re.fullmatch(r"\(([A-J])\)(.+)", form)
    choice, body = (chosen[1], chosen[2]) if chosen else ("", form)
    unit = ""
    if (worded := re.fullmatch(r"(.+)\\text\{([^{}]*)\}", body)) and not changes_value(worded[2]):
        body, unit = worded[1], worded[2]
    elif based := re.fullmatch(r"(-?[\dA-F]*\d[\dA-F]*(?:\.\d+)?|-?[A-F]+(?=_\{))(_\d|_\{\d\d\})", body):
        body, unit = based[1], based[2]
    name, body = _take_name(body)
    return Parts(body, choice, name, unit)


def _take_name(body: str) -> tuple[str, str]:
    r"""Name and value of `x=5`, `x\in[0,1]`, `f(x)=2x`, `(x,y)=(1,2)`; `x=1,y=2`, `x_1=1,x_2=2`.

    Equations proper (`y=2y+1`, `2x+z=5`) stay whole.
    """
    items = [_ONE_NAMED.fullmatch(item) for item in body.split(",")]
    named = sorted(item.groups("") for item in items if item is not None)
    letters = sorted({letter for letter, _, _ in named})
    if len(items) == len(named) > 1 and not any(
        x in _letters(value) for x in letters for _, _, value in named
    ):
        values = ",".join(value for _, _, value in named)
        if len(letters) in (1, len(named)):
            return ",".join(letters), values if len(letters) == 1 else f"({values})"
    if (match := _NAMED.fullmatch(body)) is None:
        return "", body
    name, value = re.sub(r"^\((.+)\)$", r"\1", match[1]), match[2]
    sides = value.split("=")
    if len(sides) > 1 and "," not in value and not _letters(sides[-1]) and re.search("[a-zA-Z]", value):
        value = sides[-1]  # A=\pi r^2=9\pi
    computed = "=" in value and not _letters(value)
    own_names = re.sub(r"\([a-z]\)$", "", name).split(",")
    own = any(own_name in _letters(value.rpartition("=")[2]) for own_name in own_names)
    return ("", body) if own or (_RELATION.search(value) and not computed) else (name, value)


def _letters(text: str) -> str:
    return "".join(re.findall(r"[a-zA-Z]+(?:_\w|_\{\w+\})?", re.sub(r"\\[a-zA-Z]+", "", text)))
