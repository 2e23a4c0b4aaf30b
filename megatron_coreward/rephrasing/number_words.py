"""Numbers spelled out in English, and numbers that words imply: twenty-one, two thirds, a right angle.

Tables and one reader. `implied` is generous on purpose: it only excuses a number that a rephrasing has put
into words, and never counts as a fault.
"""

import re
from collections.abc import Iterable, Iterator
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
_ONES += " sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
CARDINALS = {word: value for value, word in enumerate(_ONES.split())}
CARDINALS |= {word: 10 * value for value, word in enumerate(_TENS.split(), start=2)}
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
ORDINALS = {"first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12}
ORDINALS |= {f"{word}th": value for word, value in (CARDINALS | SCALES).items() if not word.endswith("ty")}
ORDINALS |= {f"{word[:-1]}ieth": value for word, value in CARDINALS.items() if word.endswith("ty")}
PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
PARTS |= {word + end: value for word, value in ORDINALS.items() if value > 2 for end in ("", "s")}

_IMPLIED: list[tuple[str, tuple[int | Fraction, ...]]] = [
    ("none|nothing|origin|(?:non)?(?:negative|positive)", (0,)),
    ("once|singles?|units?|alone|reciprocals?|inverse|unique|uniquely", (1,)),
    (r"twice|doubl\w*|both|pairs?|couples?|squar\w*|quadratic\w*|hal(?:f|ve\w*)|bisect\w*|halfway|midpoints?"
     r"|binary", (2,)),
    (r"thrice|tripl\w*|cub(?:e|es|ed|ic)|triang\w*|ternary|trisect\w*", (3,)),
    (r"quadrupl\w*|quartic|quadrilateral\w*|squares?|quarter\w*|quaternary", (4,)),
    (r"quintupl\w*|quintic|pentagon\w*|nickels?", (5,)),
    (r"hexagon\w*|dice|die|cubes?", (6,)),
    (r"heptagon\w*|weeks?|weekly|septenary", (7,)),
    (r"octagon\w*|octal", (8,)),
    (r"nonagon\w*", (9,)),
    (r"decagon\w*|decades?|dimes?|digits?|decimals?", (10,)),
    (r"dodecagon\w*|dozens?|years?|yearly|annual\w*|months?|foot|feet|inch\w*|clocks?", (12,)),
    ("hexadecimal", (16,)),
    (r"days?|daily|quarters?", (24, 25)),
    (r"alphabet\w*|letters?", (26,)),
    (r"hours?|hourly|minutes?|equilateral\w*", (60,)),
    (r"cents?|percent\w*|centur\w*|dollars?|meters?", (100,)),
    (r"right|perpendicular\w*|orthogonal\w*|squares?|rectang\w*|complementary", (90,)),
    (r"straight|supplementary", (180,)),
    (r"full|revolutions?|circles?|rotations?", (360,)),
    (r"kilo\w*|thousandths?", (1000,)),
    (r"cards?|decks?", (52,)),
    (r"leap|years?|yearly|annual\w*", (365, 366)),
    ("half", (50,)),
    ("quarters?", (15, 25)),
    ("roots?|sqrt", (Fraction(1, 2), Fraction(1, 3), Fraction(1, 4))),
    ("equally", (Fraction(1, 2),)),
]  # fmt: skip
_IMPLIED_BY = [(re.compile(words), frozenset(map(Fraction, values))) for words, values in _IMPLIED]
MULTIPLES = {"dozen": 12, "decade": 10, "centur": 100, "pair": 2, "couple": 2, "week": 7, "hundred": 100}
MULTIPLES |= {"thousand": 1000, "million": 10**6, "billion": 10**9}

_WORD, _GAP, _END = re.compile("[A-Za-z]+"), r"[\s-]+", "(?![a-z])"


def _any(words: Iterable[str]) -> str:
    return f"(?:{'|'.join(sorted(words, key=len, reverse=True))}){_END}"


_ATOM = rf"(?:{_any(_TENS.split())}{_GAP}{_any(_ONES.split()[1:10])}|{_any(CARDINALS)})"
_SCALED = rf"(?:{_ATOM}{_GAP})?{_any(SCALES)}(?:{_GAP}{_any(SCALES)})*"
_BEFORE = rf"(?:{_SCALED}{_GAP}(?:and{_GAP})?)*"
_SPELLED = re.compile(
    rf"(?<![a-z])(?:(?P<ordinal>{_BEFORE}(?:{_any(_TENS.split())}{_GAP})?{_any(ORDINALS)})"
    rf"|(?P<cardinal>{_BEFORE}(?:{_SCALED}|{_ATOM}))(?:{_GAP}(?P<under>{_any(PARTS)}))?)",
    re.IGNORECASE,
)


class Spelled(NamedTuple):
    """A number in words: its place in the text, its value, and whether it is a cardinal or a fraction."""

    start: int
    end: int
    value: Fraction
    is_cardinal: bool
    parts: tuple[int, ...]
    """Numerator and denominator of a fraction."""


def implied(text: str) -> frozenset[Fraction]:
    """Numbers that words of `text` imply: a right angle 90, a dozen 12, twice 2."""
    return frozenset().union(*map(_implied_by, {word.lower() for word in _WORD.findall(text)}))


@lru_cache(maxsize=1 << 16)
def _implied_by(word: str) -> frozenset[Fraction]:
    return frozenset().union(*(values for pattern, values in _IMPLIED_BY if pattern.fullmatch(word)))


def spelled_numbers(text: str) -> Iterator[Spelled]:
    """Cardinals, ordinals and fractions in words, the longest reading: "one hundred and five"."""
    for match in _SPELLED.finditer(text):
        total = group = 0
        for word in _WORD.findall((match["cardinal"] or match["ordinal"]).lower()):
            if word in SCALES:
                group = (group or 1) * SCALES[word]
            else:
                group += CARDINALS.get(word, ORDINALS.get(word, 0))
            if SCALES.get(word, 0) > 100:
                total, group = total + group, 0
        value, under = total + group, PARTS.get((match["under"] or "").lower(), 0)
        parts = (value, under) if under else ()
        yield Spelled(*match.span(), Fraction(value, under or 1), match["ordinal"] is None, parts)
