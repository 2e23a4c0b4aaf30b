r"""Whether a rephrasing can stand in for its question: pure functions, each with a named reason.

    check(original, rephrased) -> [Finding("numbers_changed", "7 -> 5, 3"), ...]

Co-Reward relies on both wordings having the same answer. The authors parsed their rephrasings but never
checked them: placeholders, unchanged questions, lost figures and other numbers were trained on. No check here
knows the answer; what they miss is a changed sense without a changed number. What each
reason finds: docs/data.md; how often it is wrong: docs/evidence/rephrasing_checks.md.
"""

import re
import unicodedata
from dataclasses import dataclass

from megatron_coreward.rephrasing.asking import asks, told_result
from megatron_coreward.rephrasing.quantities import Mention, Quantities, quantities
from megatron_coreward.rephrasing.refusals import refusal
from megatron_coreward.rephrasing.wrapping import is_placeholder, left_over, unwrap

REASONS = {
    "empty": "no letters or digits",
    "placeholder": "a template's placeholder in place of a question",
    "echo": "speaks of the task, refuses it or repeats its instruction",
    "wrapping": "a fence, JSON, quotes, a label, a comment or the template's brackets around the text",
    "answer_told": "tells a result that the question does not tell",
    "no_question": "states something where the original asks",
    "identical": "the same but for layout, case and punctuation",
    "language": "another script or language",
    "figure_lost": "the figure's code is gone, and labels are missing or the text refers to it",
    "figure_dropped": "the figure's code is gone, but its labels are in the text, which refers to no figure",
    "numbers_changed": "numbers of the question are missing and others are new",
    "numbers_lost": "numbers of the question are missing",
    "length": "much longer or shorter",
}
"""Every reason of `check` and what it means."""


@dataclass(frozen=True)
class Finding:
    """One fault. `reason` is a key of REASONS, `detail` quotes the text."""

    reason: str
    detail: str = ""


def check(original: str, rephrased: str, instruction: str = "") -> list[Finding]:
    """All faults of `rephrased`, none if it may stand in for `original`.

    Args:
        instruction: what the model was told to do; repeating eight of its words in a row is an echo.
    """
    if not any(char.isalnum() for char in rephrased):
        return [Finding("empty")]
    if useless := find_placeholder(rephrased) or find_identical(original, rephrased):
        return [useless]
    told = told_result(_prose(original), _prose(rephrased))
    findings = [
        find_echo(original, rephrased, instruction) or find_wrapping(original, rephrased),
        Finding("answer_told", told) if told else None,
        find_no_question(original, rephrased),
        find_language(original, rephrased),
        find_lost_figure(original, rephrased),
        find_changed_numbers(original, rephrased),
        find_length(original, rephrased),
    ]
    return [finding for finding in findings if finding is not None]


def find_placeholder(rephrased: str) -> Finding | None:
    return Finding("placeholder", rephrased.strip()) if is_placeholder(rephrased) else None


def find_identical(original: str, rephrased: str) -> Finding | None:
    return Finding("identical") if _letters(original) == _letters(rephrased) else None


def _letters(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.replace(r"\dfrac", r"\frac")).lower()


_TASK = re.compile(
    r"(?i)\b(?:rephrased|rewritten|reworded|rephrase|rewrite|reword|original)\s+(?:question|problem|version"
    r"|text)\b|\bRESULT_(?:START|END)\b|\b(?:ORIGINAL|REWRITE|REPHRASED|REWRITTEN)\s*:|<\|\w+\|>|</?think\w*>"
    r"|</?rephrased>"
)
_LEAD_IN = re.compile(
    r"\W*(?:sure|certainly|of course|here(?:'s| is) (?:a|the|one) (?:re|new|possible))\b", re.IGNORECASE
)
_ECHO_WORDS = 8


def find_echo(original: str, rephrased: str, instruction: str = "") -> Finding | None:
    for match in (_TASK.search(rephrased), _LEAD_IN.match(rephrased)):
        if match and match[0].lower() not in original.lower():
            return Finding("echo", match[0].strip())
    if refused := refusal(_prose(original), _prose(rephrased)):
        return Finding("echo", refused)
    repeated = (_runs(instruction) & _runs(rephrased)) - _runs(original)
    return Finding("echo", " ".join(min(repeated))) if repeated else None


def _runs(text: str) -> set[tuple[str, ...]]:
    """All runs of _ECHO_WORDS words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + _ECHO_WORDS]) for i in range(len(words) - _ECHO_WORDS + 1)}


def find_wrapping(original: str, rephrased: str) -> Finding | None:
    """Something around the whole text that is not around the original."""
    if unwrap(original) != original.strip():
        return None
    inner, text = unwrap(rephrased), rephrased.strip()
    if inner == text:
        rest = left_over(text)
        return Finding("wrapping", rest) if rest and not left_over(original) else None
    before, _, after = text.partition(inner)
    return Finding("wrapping", " ... ".join(part.strip()[:40] for part in (before, after) if part.strip()))


def find_no_question(original: str, rephrased: str) -> Finding | None:
    """A statement in place of a question. Only English is known well enough for this."""
    before, after = _prose(original), _prose(rephrased)
    if not asks(before) or asks(after) or scripts(after) - {"LATIN"}:
        return None
    share = _english_share(rephrased)
    return None if share is not None and share < _LEAST_ENGLISH else Finding("no_question")


_MATHEMATICAL = {"GREEK", "MATHEMATICAL", "SCRIPT", "DOUBLE-STRUCK", "BLACK-LETTER", "ANGSTROM"}
_COMMON_WORDS = (
    "the of a an in is to and for that are be if with what how find many each on as by at from which it its "
    "value this when where there has have can than then let all"
)
_ENGLISH = frozenset(_COMMON_WORDS.split())
_ENOUGH_WORDS, _LEAST_ENGLISH, _SURELY_ENGLISH = 8, 0.1, 0.2


def find_language(original: str, rephrased: str) -> Finding | None:
    """A script that the original does not have, or another language in place of English.

    A question without letters is put into words of Latin letters.
    """
    foreign = scripts(rephrased) - (scripts(original) or {"LATIN"})
    if foreign:
        return Finding("language", f"{', '.join(sorted(foreign)).lower()} script")
    before, after = _english_share(original), _english_share(rephrased)
    if before is not None and after is not None and before >= _SURELY_ENGLISH and after < _LEAST_ENGLISH:
        return Finding("language", f"{after:.0%} of its words are common English ones, {before:.0%} before")
    return None


def scripts(text: str) -> set[str]:
    """Unicode's names of the scripts in `text`, LATIN or CJK, without those of mathematical letters."""
    letters = {char for char in text if char.isalpha()}
    return {unicodedata.name(char, "UNKNOWN").split()[0] for char in letters} - _MATHEMATICAL


_FORMULA = re.compile(r"\$[^$]*\$|\\\[.*?\\\]|\\[a-zA-Z]+", re.DOTALL)


def _english_share(text: str) -> float | None:
    """Share of common English words among the words outside figures and formulas; None if there are few."""
    words = re.findall(r"[^\W\d_]+", _FORMULA.sub(" ", without_figures(text)).lower())
    return sum(word in _ENGLISH for word in words) / len(words) if len(words) >= _ENOUGH_WORDS else None


_FIGURE = re.compile(
    r"(?s)(?:\\text\{)?\\?\[asy\\?\]\}?.*?(?:(?:\\text\{)?\\?\[/asy\\?\]\}?|$)|```(?:asy|tikz)\w*\n.*?(?:```"
    r"|$)|\\begin\{(?P<env>tikzpicture|asy|picture)\}.*?(?:\\end\{(?P=env)\}|$)"
    r"|\\includegraphics\b(?:\[[^\]]*\])?\{[^}]*\}|!\[[^\]]*\]\([^)]*\)|<(?:img|svg)\b.*?>"
)


def without_figures(text: str) -> str:
    return _FIGURE.sub(" ", text)


def _prose(text: str) -> str:
    """The text without its figures, with one line break or space in place of several."""
    return re.sub(r"\s+", lambda gap: "\n" if "\n" in gap[0] else " ", without_figures(text))


_LABEL = re.compile(r'"([^"]*)"')
_POINTS_TO_FIGURE = re.compile(
    r"(?i)\b(?:diagrams?|drawings?|pictures?|pictured|charts?|images?|illustrat\w+|depict\w+|displayed|shown"
    r"|below|(?<!-sided )(?<!-dimensional )figure|graphs?|sketch\w*|shaded)\b"
)


def find_lost_figure(original: str, rephrased: str) -> Finding | None:
    """The rephrasing has fewer figures (Asymptote, TikZ, images) than the original."""
    figures = [match[0] for match in _FIGURE.finditer(original)]
    if len(_FIGURE.findall(rephrased)) >= len(figures):
        return None
    shown = quantities("; ".join(_LABEL.findall("".join(figures)))).mentions
    known = quantities(rephrased).values
    missing = sorted({label.text for label in shown if label.is_telling and not label.is_in(known)})
    pointer = _POINTS_TO_FIGURE.search(rephrased)
    if missing:
        return Finding("figure_lost", f"labels missing: {', '.join(missing)}")
    if pointer:
        return Finding("figure_lost", f"points to it: {pointer[0]}")
    return Finding("figure_dropped")


def find_changed_numbers(original: str, rephrased: str) -> Finding | None:
    """Numbers that are missing, with or without new ones; numbers inside figures may be missing."""
    before, before_with_figures = _quantities(original)
    after, after_with_figures = _quantities(rephrased)
    lost, new = before.missing_in(after_with_figures), after.missing_in(before_with_figures)
    if not lost or _is_calculation(lost, new):
        return None
    if new:
        return Finding("numbers_changed", f"{_listed(lost)} -> {_listed(new)}")
    written = [mention for mention in lost if not mention.is_spelled]  # "three friends": often left unsaid
    return Finding("numbers_lost", _listed(written)) if written else None


def _quantities(text: str) -> tuple[Quantities, Quantities]:
    """The quantities of the text without its figures, and with them."""
    words = without_figures(text)
    in_words = quantities(words)
    return in_words, in_words if words == text else quantities(text)


def _listed(mentions: list[Mention]) -> str:
    return ", ".join(mention.text for mention in mentions)


def _is_calculation(lost: list[Mention], new: list[Mention]) -> bool:
    """Whether two numbers were replaced by their sum or difference: x + 30 = 7 restated as x + 23 = 0."""
    if len(lost) != 2 or len(new) != 1:
        return False
    first, second = (next(iter(mention.readings[0])) for mention in lost)
    return next(iter(new[0].readings[0])) in (first + second, abs(first - second))


_EXTRA_CHARACTERS, _LARGEST_RATIO = 60, 3.0
"""A short question may become a story: the ratio is that of the lengths plus 60 characters."""


def find_length(original: str, rephrased: str) -> Finding | None:
    before, after = len(_FIGURE.sub("", original).strip()), len(_FIGURE.sub("", rephrased).strip())
    ratio = (after + _EXTRA_CHARACTERS) / (before + _EXTRA_CHARACTERS)
    if 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO:
        return None
    return Finding("length", f"{before} -> {after} characters")
