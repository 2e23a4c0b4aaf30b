r"""What models put around a rephrasing, and the text without it: fences, JSON, quotes, labels, comments.

    unwrap('Here is the question in other words:\n```\n**Question:** How many are 3 pens?\n```')
    -> 'How many are 3 pens?'

A layer is only taken off where it encloses the whole text or stands before or after all of it. A placeholder
stays as it is, so that it can be recognised.
"""

import ast
import json
import re
from contextlib import suppress
from functools import partial

_PLACEHOLDER = re.compile(
    r"(?i)\W*(?:(?:the|your|a|insert|put|write|new|rephrased|rewritten|reworded|original|same)\s+)*"
    r"(?:question|problem|text|version|wording|rephrasing|rewrite)(?:\s+(?:goes|comes|here|only))*\W*"
    r"|<[^<>]{0,60}>|\[[a-z_ ]{0,60}\]|\{[a-z_ ]{0,60}\}|n/?a"
)


_MOST_LAYERS = 20


def is_placeholder(text: str) -> bool:
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def unwrap(text: str) -> str:
    """The text without the layers around it."""
    text = text.strip()
    for _ in range(_MOST_LAYERS):
        if is_placeholder(text):
            break
        inner = next((inner for layer in _LAYERS if (inner := layer(text).strip()) != text), "")
        if not any(char.isalnum() for char in inner):
            break
        text = inner
    return text


def left_over(text: str) -> str:
    """A fence or the start of a JSON object that `unwrap` could not take off; empty if there is none."""
    match = _LEFT_OVER.search(text)
    return match[0].strip() if match else ""


_LEFT_OVER = re.compile(
    r"\A\s*(?:```|~~~)(?!asy|tikz)\w*|```[^`]*\?[^`]*```|\A\s*[\[{]\s*[{\"']\s*[\"']?\w+[\"']\s*:"
)


def _rules(*patterns: str) -> list[re.Pattern[str]]:
    return [re.compile(pattern, re.DOTALL | re.IGNORECASE) for pattern in patterns]


_KEYS = re.compile(
    r"question|problem|rephras|rewrit|reword|paraphras|restat|text|wording|version", re.IGNORECASE
)
_UNESCAPED_TEX = re.compile(r"(?<!\\)(?:\\\\)*\\(?!n|u[0-9a-fA-F]{4})[a-zA-Z]{2,}")
_TEX_BACKSLASH = re.compile(r'\\(?!"|n(?![a-z]))')


def _without_json(text: str) -> str:
    """The question in a JSON object or a Python literal of one; TeX's backslashes may be unescaped."""
    if re.match(r"\"\w+\"\s*:\s*\"", text):
        text = f"{{{text}}}"
    if not re.match(r"[{\[]\s*[{\[\"']", text):
        return text
    escaped = _TEX_BACKSLASH.sub(r"\\\\", text) if _UNESCAPED_TEX.search(text) else text
    return _question_in(_parsed(escaped)) or text


def _parsed(text: str) -> object:
    for parse in (partial(json.loads, strict=False), ast.literal_eval):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            return parse(text)
    return None


def _question_in(value: object) -> str:
    """The text of the first key that names a question, or the only text."""
    if isinstance(value, list) and len(value) == 1:
        return value[0] if isinstance(value[0], str) else _question_in(value[0])
    if not isinstance(value, dict):
        return ""
    texts = {str(key): item for key, item in value.items() if isinstance(item, str)}
    named = [item for key, item in texts.items() if _KEYS.search(key) and "original" not in key.lower()]
    candidates = named or (list(texts.values()) if len(value) == 1 else [])
    return candidates[0] if candidates else ""


_QUOTES = {pair[0]: pair[1:] for pair in ['""', "“”", "„“”", "«»", "»«", "‘’", "''", "「」", "『』", "””"]}


def _without_quotes(text: str) -> str:
    """The text without quotation marks around all of it: not `"A" or "B"`, not `'Tom's`."""
    if len(text) < 2 or text[-1] not in _QUOTES.get(text[0], ""):
        return text
    inner = text[1:-1]
    marks = re.findall(rf"(?<!\w){re.escape(text[0])}|{re.escape(text[-1])}(?!\w)", inner)
    first = re.search(rf"{re.escape(text[-1])}(?!\w)", inner)
    opened = re.search(rf"(?<![\w.,?!]){re.escape(text[0])}", inner)
    if marks and (first is None or opened is None or opened.start() > first.start() or len(marks) % 2):
        return text
    return inner


_AROUND = _rules(
    r"(?P<mark>`{3,}|~{3,})(?!asy|tikz)(?:[ \t]*[\w+-]*[ \t]*\n)?(?P<text>(?:(?!(?P=mark)).)*)(?P=mark)?",
    r"`(?P<text>[^`]+)`",
    r'"""(?P<text>.*)"""',
    r"(?P<mark>\*{1,3}|_{2,3})(?=\S)(?P<text>(?:(?!(?P=mark)).)+)(?<=\S)(?P=mark)",
    r"<(?P<name>[a-z][\w-]*)>(?P<text>(?:(?!</?(?P=name)>).)*)</(?P=name)>",
    r"(?!.*</?[\w-]+/?>\Z)[<⟨](?![\w-]+(?:\s+[\w-]+=[^<>]*)?/?>|[/|!])(?P<text>.*)(?<!<br)(?<!/)[>⟩]",
    r"\((?P<text>[^()]*\?[^()]*)\)",
    r"\[(?P<text>[^\[\]]*\?[^\[\]]*)\]",
    r"(?:\\text)?\{(?P<text>[^{}]*\?[^{}]*)\}",
    r"[-*_=]{3,}\s*\n(?P<text>.*)",
    r"(?P<text>.*)\n\s*[-*_=]{3,}",
)
"""A fence, whether or not its end is there; emphasis; a pair of tags; the template's brackets; rules."""


def _without_markup(text: str) -> str:
    """The text without what stands around all of it, or at the beginning of every line."""
    if all(line.startswith(">") for line in text.splitlines()):
        return re.sub(r"^>[ \t]?", "", text, flags=re.MULTILINE)
    matches = (pattern.fullmatch(text) for pattern in _AROUND)
    return next((match["text"] for match in matches if match), text)


_KIND = (
    r"(?:question|problem|version|wording|rephrasing|rewording|paraphrase|rewrite|rephrase|task|prompt"
    r"|exercise|query|text|statement|formulation)"
)
_DONE = (
    r"(?:rephrased|rewritten|reworded|paraphrased|restated|reformulated|revised|modified|updated|reformatted)"
)
_NAME = (
    rf"(?:(?:the|your|my|a|new|math|mathematics|mathematical|word|final|alternative|other|different"
    rf"|{_DONE})[ \t]+)*(?:{_KIND}|{_DONE}|output|response|translation|(?:answer|result)(?!\W*\d)"
    rf"|Q)(?:[ \t]+(?:\d{{1,2}}|statement|text|in[ \t]+(?:other|different|new)[ \t]+words|\({_DONE}\)))?"
)
_MARK = r"[*_#>\s]*"
_SPEAKS_OF_TASK = (
    r"(?:question|problem|wording|rephras\w*|reword\w*|rewrit\w*|rewrote|version"
    r"|paraphras\w*|original|in \w+ words|you go|it is|put it)"
)
_STARTS = _rules(
    rf"{_MARK}(?:\(?{_NAME}\)?|\[{_NAME}\]){_MARK}(?::|[ \t][-–—][ \t]){_MARK}"
    rf"|\#+[ \t]*{_NAME}[*_ \t]*\n|\*\*{_NAME}\*\*\s*|{_NAME}[ \t]*\n",
    r"[*_]*note[*_]*:[*_]*\s*(?=[^\n]*\?\W*\Z)",
    r"(?:sure(?:[ \t]+thing)?|certainly|of course|absolutely|okay|ok|alright|all right|great|yes|no problem"
    r"|got it|gladly)[ \t]*(?:[!.:]|,(?=[ \t]*(?:here|I|let|below)\b|\s*(?-i:[A-Z])))\s*",
    rf"(?=[^\n:]*(?:\b{_SPEAKS_OF_TASK}\b|words|\bask|follows))(?![^\n:]*(?:\bnot\b|cannot|n['’]t\b|\bunable"
    rf"|\bsorry))(?:(?:sure|certainly|of course|okay|ok)\W+)?(?:(?:(?:so|now|well|and)\W+)?(?:here(?:['’]s"
    rf"| is| are| you go| it is| goes)?|below(?: is| you)?|this is|the following|(?:one|another) (?:way"
    rf"|possib)|I(?:['’](?:ve|ll|d|m)| have| will| would| am| can| re\w+| put| wrote)?|my\b|let me|let['’]s"
    rf"|the (?:{_DONE}|new)|a (?:{_DONE}|new|possible)|{_DONE}|rephrasing|rewording|put)\b[^\n:?$\d]{{0,120}}"
    rf"|[^\n:?$\d]{{0,80}}\b(?:rephras|reword|rewrit|paraphras|restat|wording|(?:other|different"
    rf"|another) (?:words?|ways?)\b|(?:ask|put|say|phrase) (?:this|it|that)\b|(?:question"
    rf"|problem)\b[^\n:?$\d]{{0,60}} as follows|(?:could|can|might|may) ask)[^\n:?$\d]{{0,60}}|(?:put |said "
    rf"|stated )?(?:in|using|with) (?:other|different|new) (?:words|wording)[ \t]*):[*_]*\s*|in (?:other"
    rf"|different) words[ \t]*,\s*",
    r"(?:[-•*]|1[.)])[ \t]+(?!.*\n\s*(?:[-•*]|2[.)])\s)",
    rf".*?\n{_MARK}(?:{_DONE}(?:[ \t]+{_KIND})?|rewrite|rephrase|rephrasing){_MARK}:{_MARK}",
)
"""Labels, notes, courtesies, lead-ins, an only item of a list, and all before a later label."""


def _without_start(text: str) -> str:
    """The text without a courtesy, a lead-in, a label or a comment before it."""
    if start := next(filter(None, (pattern.match(text) for pattern in _STARTS)), None):
        return text[start.end() :]
    first = re.split(r"(?<=[.!:])\s|\n", text, maxsplit=1)[0]
    return text[len(first) :] if first != text and _COMMENT.match(first) else text


_TELLS_OF_CHANGES = (
    r"rephras\w*|reword\w*|rewrit\w*|rewrote|paraphras\w*|restat\w*|wording|original|version|I|I['’]ve"
    r"|story|scenario|keep|all (?:the )?numbers"
    r"|changed|kept|unchanged|preserved|retained|(?:stay|remain)s? the same|instructions?"
)
_COMMENT = re.compile(
    rf"(?i)[*_(\[#>\s-]*(?:(?:note|explanation|comment|remark|rationale|changes(?: made)?|reasoning"
    rf"|clarification|disclaimer|p\.\s?s\.)[*_]*[ \t]*[:–—-](?=.*\b(?:{_TELLS_OF_CHANGES})\b)"
    r"|I(?:['’]ve| have)? (?:only |just |simply )?(?:changed|kept|replaced|preserved|rephrased|reworded"
    rf"|rewrote|rewritten|used|altered|hope this)\b|this (?:new |{_DONE} )?(?:question|version"
    rf"|problem|rephrasing|wording|rewording) (?:keeps|preserves|maintains|has the|retains|uses|asks|is)\b"
    r"|(?:all |the )+(?:numbers|values|quantities|meaning|answer|logic|mathematics|math|calculation)\b"
    r"[^.?]{0,40}\b(?:the same|unchanged|preserved|kept)\b"
    r"|(?:here|below) (?:is|are) .*\b(?:question|problem|version|rephrasing)\b[^?]*\Z"
    r"|hope (?:this|that) helps|let me know if|feel free to"
    r"|(?:would|do) you (?:like|want|need) (?:me|another|any))"
)

_EMPTY_ANSWER = re.compile(r"\s[*_#]*(?:answer|solution|ans|A)[*_]*:[*_\s.]*\Z", re.IGNORECASE)


def _without_comment(text: str) -> str:
    """The text without a comment on the task in its last lines."""
    text = _EMPTY_ANSWER.sub("", text)
    lines = text.splitlines()
    at = next((i for i, line in enumerate(lines) if i and _COMMENT.match(line)), None)
    if at is not None:
        return "\n".join(lines[:at])
    *_, last = re.split(r"(?<=[.?!])\s+(?=[\[(*_]*[A-Z])", text)
    return text[: -len(last)] if last != text and _COMMENT.match(last) else text


_LAYERS = (_without_json, _without_markup, _without_quotes, _without_comment, _without_start)
