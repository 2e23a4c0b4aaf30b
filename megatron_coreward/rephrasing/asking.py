r"""Whether a text asks something, and whether it tells a result: "The answer is 7.5", \boxed{7.5}, 3/2 = 1.5.

Texts are given without the code of their figures.
"""

import re
from collections.abc import Iterator

from megatron_coreward.rephrasing.quantities import Mention, Values, quantities

_MARKS = "?？؟"
_TASKS = (
    "find|compute|determine|evaluate|calculate|simplify|solve|prove|identify|factor|factorize|expand"
    "|show|give|state|list|write|name|count|work|add|subtract|multiply|divide|sum|take|put|rewrite|round"
    "|convert|reduce|graph|draw|sketch|compare|choose|select|order|arrange|rank|estimate|approximate"
    "|enter|fill|complete|tell|explain|describe|provide|figure|obtain|report|specify|derive|verify|check"
    "|combine|rationalize|perform|substitute|minimize|maximize|help|deduce|represent|apply|answer|match"
    "|place|change|transform|decide|discover|locate|measure|search|look|seek|get|recover|return|present"
    "|submit|supply|cancel|remove|double|square|raise|express|use|construct|demonstrate|establish"
    "|justify|detail|ascertain|assess|break|decompose|turn|produce|pick|guess|uncover|infer|mark|label"
    "|read|isolate|plot|differentiate|integrate|classify|categorize|characterize"
)
"""Verbs that begin what is to be done."""
_SURE_TASKS = "find|compute|determine|evaluate|calculate|simplify|solve|identify|ascertain|deduce"
_ASKS = re.compile(
    rf"(?i)[{_MARKS}]|_{{2,}}|\\(?:underline|rule)\b|\\square\b|[=:]\W*\Z|\([A-E]\)|\b[A-E]\)|\bwhat\b"
    rf"|\bhow (?:many|much|long|far|old|tall|often|large|big|fast|high|deep|wide|likely|quickly|soon|far|are"
    rf"|is|do|does|can)\b|(?:\A|[.,;:!]\s+|\n\s*)(?:and |then )?(?:which|who|whose|where|when|why|is|are|does"
    rf"|do|did|can|could|will)\b|\b(?:want(?:s|ed)?|ask(?:s|ed)?|need(?:s|ed)?|wish(?:es)?|like|task|job|goal"
    rf"|aim|try|tries|trying|is|are|you|please|and|then|must|should|let's)\s+(?:is )?(?:to |us |you |now "
    rf"|next |also |first )*(?:{_TASKS})\b|(?:\A|[.,;:!)\]}}$\n\\])\W{{0,8}}(?:(?:then|and|now|next|so|also"
    rf"|first|finally|use [^.\n]{{0,40}}? to|help \w+(?: to)?|\w+ly)\s+)?(?:{_TASKS})\b|\b(?:{_SURE_TASKS})\b"
    rf"|\b(?:wonders?|(?:needs?|wants?|likes?|wish(?:es)?) to (?:know|learn|see)|is (?:sought|unknown"
    rf"|required|needed|wanted)|to be (?:found|determined))\b"
)


def asks(text: str) -> bool:
    """Whether the text asks or tells to do something. In doubt it does: "we find 5" counts as well."""
    return _ASKS.search(text) is not None


_BOX = re.compile(
    r"\\f?boxed\s*(?:\{(?=[^{}]*\w)|\d)(?!\s*\\(?:phantom|text\{\s*\}|quad"
    r"|ldots))[^{}]*(?:\{[^{}]*\}[^{}]*)*\}?|#{4}[ \t]*\S+"
)
_NUMBER = r"\$?\d[\d,]{0,20}(?:\.\d{1,20})?|\\[dt]?frac\s*\{\d+\}\s*\{\d+\}"
_OPERATOR = r"\s*(?:[+*/×÷·−]|-|\\(?:times|cdot|div)\b)\s*"
_COMPUTED = re.compile(
    rf"(?<![\w.^}}])(?:(?:{_NUMBER})(?:{_OPERATOR}(?:{_NUMBER})){{1,12}}|\\[dt]?frac\s*\{{\d+\}}\s*\{{\d+\}})"
    rf"\s*(?:=|\\approx|≈)\s*(?P<value>{_NUMBER})(?![\w({{\\^]|\s*[-+*/^=×·]|\s*[a-zA-Z]\b|\.\d)"
)
_VALUE = (
    r"(?:(?:about|exactly|approximately|simply|just|therefore|thus|then|hence|clearly|equal to"
    r"|now)\s+)*[\s*$\\({\[]*(?:[a-z]\s*=\s*)?[\s$\\({-]*(?P<value>\d|\.\d|[dt]?frac|sqrt|pi\b|boxed"
    r"|[A-E]\)?[\s.*)}]*(?:\Z|[.,;])|(?:minus |negative )?(?:zero|one|two|three|four|five|six|seven|eight"
    r"|nine|ten|eleven|twelve|\w+teen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand"
    r"|half)\b(?! (?:of|or|decimal|digit|form)))"
)
_IS = r"(?:is|are|equals?|comes (?:out )?to|turns out to be|will be|would be|works out to)\b\s*:?"
_CLAIM = re.compile(
    r"(?i)\b(?:answers?|solutions?|results?)\b[*_]*"
    rf"(?:(?:\s+(?:to|of|for|here)\b[^.?!:=$]{{0,60}}?)?\s+{_IS}|\s*[:=]|['’]s\b)[*_]*\s*{_VALUE}"
)
_SOLUTION = re.compile(
    r"(?i)(?:\A|\n|[.?!]\s+)[*_#\s(]*(?:solution|worked solution|final answer|working|step 1)[*_]*\s*:"
)
_CONDITION = re.compile(
    r"(?i)\b(?:if|suppose|supposing|when|whenever|whose|assum\w+|given|such that|so that|where|let|provided"
    r"|until|unless|because|says?|said|claims?|thinks?|got|gets|should|must|may|need)\b"
)
_CONCLUDES = re.compile(
    r"(?i)(?:\A\W*(?:so|therefore|thus|hence|consequently)|[,;]\s+(?:therefore|thus|hence|consequently"
    r"|which (?:means|gives|makes)))\b"
)
_FORM = re.compile(
    rf"(?i)\W*(?:please|note|recall|remember|assume|consider|here|where|for|with|in|as|by|on|this|these|you|your"
    rf"|each|every|all|any|both|no|there|also|since|an?|options?|choices?|\(?[A-E]\)|{_TASKS})\b"
)
_SHORT = re.compile(
    rf"(?i)[\s*_(\[=$\\]*(?:(?:it|they|that|this|he|she|we|you|a|answer|ans|result|total)\b[\s:]*)?(?:(?:is|are"
    rf"|equals?|=|'s|costs?|has|have|gets?|makes|gives)\s*)?(?:{_NUMBER})[^\w&]*(?:[a-z]+[^\w&]*)?"
)
_OPTION = re.compile(r"(?<![A-Za-z])[A-F][.)]")
_HAS_EXAMPLE = re.compile(r"\b(?:for example|for instance|such as|e\.g\.)", re.IGNORECASE)


def told_result(original: str, rephrased: str) -> str:
    """The words with which the rephrasing tells a result that the original does not; empty without them."""
    known = quantities(original).values
    if (box := _BOX.search(rephrased)) and not _BOX.search(original):
        return box[0]
    if (solution := _SOLUTION.search(rephrased)) and not _SOLUTION.search(original):
        return solution[0].strip()
    if computed := _computed(rephrased, known) if not _HAS_EXAMPLE.search(original) else "":
        return computed
    sentences = list(_sentences(rephrased))
    last_asked = max((i for i, sentence in enumerate(sentences) if asks(sentence)), default=-1)
    has_mark = any(mark in rephrased for mark in _MARKS) and len(_OPTION.findall(rephrased)) < 3
    for place, sentence in enumerate(sentences):
        if not any(mark in sentence for mark in _MARKS) and _tells(
            sentence,
            original,
            known,
            after_all=place >= last_asked,
            after_mark=has_mark and place > last_asked,
        ):
            return sentence.strip()
    return ""


def _tells(sentence: str, original: str, known: Values, *, after_all: bool, after_mark: bool) -> bool:
    """Whether a sentence tells a result. What stands after the question needs fewer words for it."""
    claim = _CLAIM.search(sentence)
    is_free = claim and not _CONDITION.search(sentence[: claim.start()]) and not _CLAIM.search(original)
    if claim and is_free and (after_all or _new(sentence[claim.start("value") :], known)):
        return True
    if _CONDITION.search(sentence) or not (new := _new(sentence, known)):
        return after_mark and _SHORT.fullmatch(sentence) is not None and sentence.strip() not in original
    if _SHORT.fullmatch(sentence) and re.search(r"[A-Za-z(\[*=]", sentence):
        return True
    telling = [mention for mention in new if mention.is_telling or "." in mention.text]
    if "&" in sentence:  # a row of a table
        return False
    if after_mark and telling and not _FORM.match(sentence):
        return True
    return _CONCLUDES.search(sentence) is not None and not all(mention.is_spelled for mention in telling)


def _computed(text: str, known: Values) -> str:
    """A calculation with numbers alone whose value is new."""
    for match in _COMPUTED.finditer(text):
        continues_formula = re.search(r"[-+*/^=(\\_<>]\s*\Z", text[: match.start()])
        if not continues_formula and _new(match["value"], known):
            return match[0]
    return ""


def _new(text: str, known: Values) -> list[Mention]:
    return [mention for mention in quantities(text).mentions if not mention.is_in(known)]


def _sentences(text: str) -> Iterator[str]:
    yield from (
        part for part in re.split(rf"(?<=[.!])\s+|(?<=[{_MARKS}])|\n+", text) if re.search(r"\w", part)
    )
