r"""One spelling for each answer: what cannot change a value is removed, and the same thing is written alike.

    $\textbf{(C)}\ \dfrac12\text{ centimeters}$  -->  (C)\frac{1}{2}\text{cm}

In this order, since each step relies on those before: characters; layout; fonts, colours, text; words and
labels; the unit (split off before digits are joined); numbers; commands. Meanwhile the words of \text{..}
stand between the marks OPEN and SHUT, so that they are no product of letters.
"""

import re
import unicodedata
from collections.abc import Callable
from decimal import Context, Decimal
from functools import partial

from megatron_coreward.grading.units import changes_value, is_unit, take_scale, unit_of

OPEN, SHUT = "\x02", "\x03"
_TEXT = f"{OPEN}[^{OPEN}{SHUT}]*{SHUT}"
Rules = list[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]]]


def _rules(*rules: tuple[str, str | Callable[[re.Match[str]], str]]) -> Rules:
    return [(re.compile(pattern), replacement) for pattern, replacement in rules]


def _apply(rules: Rules, form: str) -> str:
    for pattern, replacement in rules:
        form = pattern.sub(replacement, form)
    return form


_NAMES = r"""
\leq ≤ \le \leqslant; \geq ≥ \ge \geqslant; \neq ≠ \ne; \approx ≈; \equiv ≡; \to →; \in ∈; \cup ∪; \cap ∩
\setminus ∖ \backslash; \emptyset ∅ \varnothing \O; (-\infty,\infty) ℝ \R \reals \Reals; \infty ∞; ^\circ °
\cdot · ⋅; \div ÷; \times ×; \pm ±; \frac \dfrac \tfrac \cfrac; \binom \dbinom \tbinom; \therefore ∴; \phi ϕ
\ldots … \dots \ddots \cdots \dotsb \dotsc \dotsm \dotsi \dotso; \lfloor ⌊; \rfloor ⌋; \lceil ⌈; \rceil ⌉
- − – —; / ⁄; ' ′ ‘ ’; " “ ”; , 、; | ∣; < \lt \textless; > \gt \textgreater; \$ \Dollar \textdollar; \mu μ
\Delta ∆; \Omega Ω; ~ \quad \qquad \thinspace \enspace \space
"""
_GROUPS = [group.split() for group in _NAMES.replace("\n", ";").split(";") if group.strip()]
_SAME = {
    other: first + " " * (first[-1].isalpha() and not other.isascii())
    for first, *others in _GROUPS
    for other in others
}
"""Characters and commands that have another name here."""
_compatible = partial(unicodedata.normalize, "NFKC")
_UNICODE = _rules(
    ("[⁰¹²³⁴-⁹⁺⁻ⁿ]+", lambda m: "^{" + _compatible(m[0]).replace("−", "-") + "}"),
    ("[₀-₉]+", lambda m: "_{" + _compatible(m[0]) + "}"),
    (r"√\s*(\d+(?:\.\d+)?|\([^()]*\)|[a-zA-Z]|(?=\{))", lambda m: rf"\sqrt{{{m[1].strip('()')}}}"),
    ("[¼-¾⅐-⅞]", lambda m: r"\frac{" + _compatible(m[0]).replace("⁄", "}{") + "}"),
    (r"\\[a-zA-Z]+|[^\x00-\x7f]", lambda m: _named(m[0])),
)
"""`x²` as x^{2}, `½` as \\frac{1}{2}, `５` as 5, `θ` as \\theta, `√2` as \\sqrt{2}."""


def _named(text: str) -> str:
    """A character or a command as it is called here."""
    if text in _SAME or text.isascii():
        return _SAME.get(text, text)
    name = unicodedata.name(text, "").split()
    if name[:1] == ["GREEK"] and name[2:3] == ["LETTER"] and len(name) == 4:
        return f"\\{name[3].lower() if name[1] == 'SMALL' else name[3].capitalize()} "
    plain = _compatible(text) if unicodedata.category(text) != "Cf" else ""
    return "".join(_SAME.get(character, character) for character in plain)


_FUNCTION = "(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|ln|log|exp"
_LAYOUT = _rules(
    (r"\\\\(?=(?:frac|sqrt|pi|text|cdot|times|infty|left|right|pm)(?![a-zA-Z]))(?!.*\\end)", r"\\"),
    (r"^\s*([*_`\"']{1,3})(.*?)\1\s*$", r"\2"),
    (r"^\s*\$+([^$]*[^$\\])\$+\s*$", r"\1"),
    (r"\\[()\[\]](?!\d*(?:em|ex|pt|cm)\])|(?<!\\)\$(?!\d)|(?<=\d)\$|(?<=[^\s\\])\$", ""),
    (r"(?:,\s*\\!|\\!\s*,)\s*(?=\d{3})", ""),
    (r"(?<=\d)\{,\}(?=\d{3}(?!\d))(?<![^\d]0\{,\})(?<!^0\{,\})", ""),
    (r"(?<=\d)\{,\}(?=\d)", "."),
    (r"\\(?:left|right)\s*\.|\\!|\\(?:tag|[hv]space)\*?\{[^{}]*\}|\\[hv]?phantom\s*(?:\{[^{}]*\}|\\?.)", ""),
    (r"\\(?:left|right|middle|[bB]igg?[lr]?|(?:display|text|script)style|(?:no)?limits|boxed|tiny|small|[lL]arge"
     r"|LARGE|[hH]uge|normalsize|rm|bf|it|sf|tt|(?:math)?strut)(?![a-zA-Z])", ""),
    (r"(?<!\\)\\[,;:> ]|~|\\+\s*$", " "),
    (r"\{\s*([^{}]*)\\choose(?![a-zA-Z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"\\mathbb\s*\{?\s*R\s*\}?(?![a-zA-Z])", r"(-\\infty,\\infty)"),
    (r"\\\{\s*\\\}", r"\\emptyset "),
    (r"\.\.\.+", r"\\ldots "),
)  # fmt: skip
_COLOURS = "red|blue|green|orange|purple|pink|teal|gray|grey|brown|black|maroon|goldD|magenta|cyan|violet"
_COLOUR = re.compile(
    rf"\\(?:(?:text|page|f)?color(?:box)?\s*\{{[^{{}}]*\}}|(?:{_COLOURS})[A-E]?(?![a-zA-Z]))\s*(\{{)?"
)
_BRACED = r"(?:[^{}\\]|\\.)*+"
for _ in range(5):
    _BRACED = rf"(?:[^{{}}\\]|\\.|\{{{_BRACED}\}})*+"
_FONT = re.compile(
    r"\\(text(?!color|degree)[a-z]*|[mh]box|operatorname\*?|math(?!bb|ring)[a-z]+|boldsymbol|p?bm|underline|emph|fbox)"
    rf"(?![a-zA-Z])\s*\{{({_BRACED})\}}",
    re.DOTALL,
)
_WORDS = re.compile(r"[a-zA-Z\s.,:'\-/&?!]+(?:(?<=[a-z])[23])?")


def _unwrap(form: str) -> str:
    r"""Without fonts and colours; words of \text{..} between OPEN and SHUT, letters and mathematics bare."""
    return _FONT.sub(_without_font, _COLOUR.sub(lambda m: r"\bm{" if m[1] else "", form))


def _without_font(match: re.Match[str]) -> str:
    inner = _FONT.sub(_without_font, match[2])
    before, after = match.string[: match.start()], match.string[match.end() :]
    words = inner.replace("\\", "") if re.search(r"\\[a-zA-Z]", inner) is None else inner
    is_text = match[1].startswith(("text", "mbox", "hbox"))
    applied = re.match(r"\s*[({\\\da-zA-Z|^_]", after) is not None
    if applied and re.fullmatch(rf"{_FUNCTION}|max|min|gcd|lcm", inner.strip()):
        return f"\\{inner.strip()} "
    if is_text and re.fullmatch(r"\s*[mshgL]\.?\s*", inner) and re.search(r"[\d}\s]$", before):
        return f"{OPEN}{inner}{SHUT}"
    if _WORDS.fullmatch(words) and re.search("[a-zA-Z].*[a-zA-Z]", words) and "," not in words.strip(" ,"):
        return f"{OPEN}{words}{SHUT}"
    if inner[:1].isalpha() and re.search(r"\\[a-zA-Z]+$", before):
        return " " + inner
    return f" {inner} " if is_text and _WORDS.fullmatch(inner) else inner


_MORE = r"(?!\s*(?:more|less|fewer|greater|higher|lower|over|above|below|under|equal)\b)"
_LABELLED = re.compile(
    rf"\s*{OPEN}\s*([a-zA-Z ]+?)\s*(?:{SHUT}\s*[:=]|[:=]\s*{SHUT})\s*(?=[^{OPEN}{SHUT},]+(?:{_TEXT}[^,]*)?$)"
)
_CHOICE = re.compile(
    rf"{OPEN}?\s*(?:(?i:option|choice|answer)\s+(?=\(?[A-J]\W*$))?(?:\(([A-J])\)[.:]?"
    rf"|([A-J])(?:\)|[.:](?=\s)|(?<=\s[A-J])$))\s*(?:{SHUT})?\s*(.*)",
    re.DOTALL,
)
_JOINED = _rules(
    (rf"\s*(?:,\s*)?{OPEN}\s*,?\s*(?:and|or)\s*{_MORE},?\s*{SHUT}(?!\s*{OPEN}\s*(?:more|less))\s*", ", "),
    (rf"\s*,?\s+(?:and|or)\s+{_MORE}", ", "),
)
_SPOKEN = re.compile(
    "NO|YES|TRUE|FALSE|NONE|EVEN|ODD|BOTH|DNE|(?!.*(?:ABC|BCD|CDE|DEF|EFG|FGH|PQR))(?=.*[AEIOUY]).{5,}"
)
_BEFORE = _rules(
    (rf"\s*{OPEN}?\s*(?i:(?:so |thus |hence |therefore,? )?(?:the )?(?:final |correct )?"
     rf"(?:answer|ans|result|solution|value)(?: is)?\.?)\s*(?:{SHUT}\s*[:=]?|[:=]\s*{SHUT}?)\s*(?=\S)", ""),
    (r"^\s*(?:=|\\(?:approx|therefore|implies|Rightarrow)(?![a-zA-Z])|\\quad)\s*", ""),
    (rf"(?<=\d)\s*(?:\^\s*)?\{{?\s*{OPEN}?\s*(?:st|nd|rd|th)(?![a-zA-Z])\s*{SHUT}?\s*\}}?", " "),
    (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
)  # fmt: skip


def _words_alone(form: str) -> str | None:
    """The form of an answer that is words only, as `No solution`; None where it is anything else."""
    bare = re.sub(f"[{OPEN}{SHUT}]", " ", form).replace("(s)", "").strip()
    names = re.split(r",|\band\b|\bor\b", bare)
    listed = re.fullmatch(r"[a-zA-Z\s,.]*\b(?:and|or)\b[a-zA-Z\s,.]*", bare) is not None
    if listed and not changes_value(" ".join(names).lower()):
        return ",".join(sorted(filter(None, map(_folded, names))))
    if not re.fullmatch(r"[a-zA-Z][a-zA-Z\s.'()!?-]*", bare) or re.search(r"\(.?\)", bare):
        return None
    word = _folded(bare)
    return word if len(word) > 1 else None


def _folded(words: str) -> str:
    """Letters alone. Capitals stay where they may be points or Roman numbers, as in `ABC` and `IV`."""
    word = re.sub(r"[^a-zA-Z-]", "", words)
    if len(word) < 2 or (word.isupper() and not _SPOKEN.fullmatch(word)):
        return word
    return re.sub(r"(?<=solution)s$|(?<=root)s$", "", word.lower())


_MONEY = re.compile(r"([+-]?)\s*\\?([$€£¥₹])\s*([+-]?)(?=[\d.\\(])")
_TAIL = re.compile(
    rf"(.*?(?:[\d)}}\]!]|\\pi ?|\\infty ?|[a-zA-Z](?=\s*{OPEN})))(\s*+)((?:{_TEXT}|[A-Za-z€£¥₹])"
    rf"(?:[A-Za-z\s.,\-/&*()]|\\cdot(?![a-zA-Z])|\^\s*(?:-?\d|\{{\s*-?\d\s*\}})|{_TEXT})*+)",
    re.DOTALL,
)
_SIGNS = _rules(
    (rf"\s*(?:{OPEN}\s*)?\\?%\s*{SHUT}?$", f"{OPEN}percent{SHUT}"),
    (rf"^(?!.*\\(?:{_FUNCTION}))(.*[\d}})])\s*\^?\s*\{{?\s*(?:\\circ(?![a-zA-Z])|\\degree|\\textdegree)\s*\}}?\s*"
     rf"(?:{OPEN}?\s*([CF])\s*{SHUT}?)?$", rf"\1{OPEN}degree\2{SHUT}"),
)  # fmt: skip
_BASE = re.compile(
    rf"(?:_\s*(?=\d\s*$|\{{|{OPEN}|[a-z]{{3}})\{{?\s*{OPEN}?\s*(?:base\s*{SHUT}?\s*)?"
    rf"|\s*{OPEN}?\s*\(?\s*(?:in\s+)?base[-\s]*{SHUT}?\s*)(\d+|[a-z]+)\)?\s*{SHUT}?\s*\}}?"
)
_BASES = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_BASE_NUMBER = {**{word: n for n, word in enumerate(_BASES, 2)}, "sixteen": 16, "binary": 2, "octal": 8}
_DIGITS = r"\(?\s*(-?[\dA-F]*\d[\dA-F]*(?:\.\d+)?|-?[A-F]+)\s*\)?"
_NOT_WORDS = re.compile(rf"(?<![a-zA-Z])(?:{_FUNCTION}|sqrt|(?:max|min|gcd|lcm)(?=\())(?![a-zA-Z])")


def _take_unit(form: str) -> tuple[str, str]:
    r"""Value and unit of `5\text{ cm}^2`, `45km`, `\$5`, `20\%`, `90^\circ`, `101_{\text{two}}`."""
    if based := re.fullmatch(_DIGITS + _BASE.pattern, form.strip()):
        base = int(based[2]) if based[2].isdigit() else _BASE_NUMBER.get(based[2].lower(), 0)
        if base > 1:
            return based[1], f"_{base}" if base < 10 else f"_{{{base}}}"
    unit = ""
    if money := _MONEY.match(form):
        unit, form = money[2], money[1] + money[3] + form[money.end() :]
    form = form.replace(r"\$", "").strip()
    if "," not in re.sub(r"\d,\d{3}(?!\d)", "", form):
        form = _apply(_SIGNS, form)
    if (tail := _TAIL.fullmatch(form)) and _is_tail(*tail.groups()):
        form, unit = tail[1], re.sub(f"[{OPEN}{SHUT}]", " ", tail[3])
    factor, words = take_scale(unit)
    unit = unit_of(words) if words.strip() else ""
    return form.strip() + factor, unit and rf"\text{{{unit}}}"


def _is_tail(value: str, space: str, words: str) -> bool:
    """Whether words after a value are its unit, and no product as in `\pi hr^2`."""
    plain, bare = re.sub(f"[{OPEN}{SHUT}]", " ", words), re.sub(_TEXT, "", words)
    product = value.endswith(r"\pi ") and re.match(r"(?!cm|mm|km|ft|in)[a-zA-Z]{1,3}(?![a-zA-Z])", words)
    if product or _NOT_WORDS.search(bare) or not words.strip(" .\n"):
        return False
    number = re.search(r"\d|\\pi|\\sqrt|\\infty|[a-zA-Z)]$", value) is not None
    return number and (words[0] in f"{OPEN}€£¥₹" or is_unit(plain, (value + space)[-1] == " "))


_GROUP = r"(?<![\d.,])(?<!\d[ '])[1-9]\d{0,2}"
_DIGIT_GROUPS = _rules(
    (rf"{_GROUP}(?:[ ']\d{{3}})+(?![\d/]|[ ']\d|\s*\\frac)", lambda m: re.sub("[ ']", "", m[0])),
    (rf"{_GROUP}(?:\.\d{{3}})+,\d\d?(?!\d|,)", lambda m: m[0].replace(".", "").replace(",", ".")),
    (rf"{_GROUP}(?:\.\d{{3}}){{2,}}(?![\d.,])", lambda m: m[0].replace(".", "")),
    (r"(?<=[^\\]\{)\d{1,3}(?:,\d{3})+(?=\})", lambda m: m[0].replace(",", "")),
)
_BRACKETS = r"(\\?[(\[{][^()\[\]{}]*[)\]}])"
_THOUSANDS = re.compile(rf"{_GROUP}(?:,\d{{3}})+(?!\d|,\S)")
_CENTS = re.compile(_BRACKETS + r"|(?<![\d.,])(\d+),(0\d)(?![\d,])")
_NUMBERS = _rules(
    (r"(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{?(\d+)\}?", lambda m: _repeating(m)),
    (r"(?<![\w\\.}])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d+)(?![\w.])", r"\1\\cdot10^{\2}"),
    (r"(?<![\w.}/^])(\d+) (\d+) ?/ ?(\d+)(?![\w.(])", r"\1\\frac{\2}{\3}"),
)


def _plain_digits(form: str, has_unit: bool = False) -> str:
    """Without separators of thousands (in brackets only where a list would be spaced) and decimal commas."""
    form = _apply(_DIGIT_GROUPS, form)
    thousands = _THOUSANDS.pattern if ", " in form else f"{_BRACKETS}|{_THOUSANDS.pattern}"
    form = re.sub(thousands, lambda m: m[0] if m[0][-1] in ")]}" else m[0].replace(",", ""), form)
    form = _CENTS.sub(lambda m: m[1] or f"{m[2]}.{m[3]}", form)
    return re.sub(r"^([+-]?\d+),(\d\d?)$", r"\1.\2", form) if has_unit else form


def _repeating(decimal: re.Match[str]) -> str:
    r"""0.1\overline{6} as \frac{16-1}{90}."""
    whole, start, period = decimal.groups()
    before = whole + start or "0"
    return rf"\frac{{{int(before + period)}-{int(before)}}}{{{'9' * len(period)}{'0' * len(start)}}}"


_SPACE = re.compile(r"(\\[a-zA-Z]+)\s+(?=[a-zA-Z])|(?<!\d)\s+|\s+(?!\d)")
_COMPACT = _rules(
    (rf"(?<![\\a-zA-Z])(sqrt(?=[({{])|(?:{_FUNCTION})(?=[({{\d\\]|[a-zA-Z]$))", r"\\\1"),
    (r"\\sqrt\(([^()]*)\)(?!\^)", r"\\sqrt{\1}"),
    (r"\\(sin|cos|tan)\^\{-1\}", r"\\arc\1"),
    (rf"\\({_FUNCTION})(?=[a-zA-Z](?![a-zA-Z]))(?<!\\(?:sin|cos|tan))", r"\\\1 "),
    (r"\\frac(\d|\\pi|[a-zA-Z]) ?(?=[a-zA-Z{]|\d(?!\d))", r"\\frac{\1}"),
    (r"(\\frac\{[^{}]*\}) ?(\d|[a-zA-Z])", r"\1{\2}"),
    (r"\\sqrt ?(\d+(?![\d.])|\w)", lambda m: rf"\sqrt{{{m[1][0]}}}{m[1][1:]}"),
    (r"([\^_])\{(\w|\\circ)\}", r"\1\2"),
    (r"^(?!.*\\(?:sin|cos|tan|cot|sec|csc)).*$",
     lambda m: re.sub(r"\^\\circ(?=\d)", " ", m[0]).replace(r"^\circ", "")),
    (r"\\?%", ""),
    (r"^([\[\]])([^][(){}]*[,;][^][(){}]*)([\[\]])$", lambda m: "[("[m[1] > "["] + m[2] + ")]"[m[3] > "["]),
    (r"^([^a-zA-Z=]+)=([a-zA-Z])$", r"\2=\1"),
    (r"\\\\(?!.*\\end\{)", ","),
    (r"^,|,$", ""),
)  # fmt: skip


_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)", re.ASCII)
_EXACT = Context(prec=3000)


def normalise(answer: str) -> str:
    """The normal form; see the module's header."""
    if _NUMBER.fullmatch(answer):
        return _plain_number(answer)
    form = re.sub(f"[{OPEN}{SHUT}]", "", answer)
    form = _unwrap(_apply(_LAYOUT, _apply(_UNICODE, form))).strip()
    form = _apply(_BEFORE, form).strip()
    form = re.sub(r"(?<!\\ldots)[.,;:\s]+$", "", form) if not form.endswith(r"\ldots") else form
    choice = ""
    if (chosen := _CHOICE.fullmatch(form)) and not re.match(r"[-+*/^=(]|\\cdot|\\times", chosen[3]):
        choice, form = chosen[1] or chosen[2], chosen[3].strip()
        if not form or (words := _words_alone(form)) is not None:
            return choice if not form else f"({choice}){words}"
    if (words := _words_alone(form)) is not None:
        return words
    form = _LABELLED.sub(lambda m: re.sub(r"\s", "", m[1]).lower() + "=", form, count=1)
    form, unit = _take_unit(_apply(_JOINED, form))
    form = _apply(_NUMBERS, _plain_digits(form.strip(), bool(unit)))
    # A space between digits is kept ("2 3" is not 23), as is one that ends a command ("\pi r").
    form = _SPACE.sub(lambda m: m[1] + " " if m[1] else "", form.strip())
    form = _apply(_COMPACT, form)
    while re.fullmatch(r"\{(?:[^{}]|\{[^{}]*\})*\}", form):
        form = form[1:-1]
    form = re.sub(_TEXT, lambda m: r"\text{" + re.sub(r"\s+", " ", m[0][1:-1]).strip().lower() + "}", form)
    return (f"({choice})" if choice and form else "") + _plain_number(form) + unit


def _plain_number(form: str) -> str:
    """142.0 -> 142, 070 -> 70, .5 -> 0.5, +3 -> 3, -0 -> 0; anything else unchanged."""
    return f"{_EXACT.plus(Decimal(form)).normalize(_EXACT):f}" if _NUMBER.fullmatch(form) else form
