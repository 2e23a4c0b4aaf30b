r"""The numbers a question states, in whatever form: 1,000, \frac{1}{2}, 0.5, 50\%, 5^2, three dozen.

For comparing two wordings of one question. A number can be read in more than one way (\frac{1}{2} is one
half, or 1 and 2; 50% is 50, or one half), and words imply numbers that nobody writes (a right angle has 90
degrees). A number of one wording is *kept* if one of its readings is found among all that the other states
or implies.

Not looked at: signs, order, repetition, and what layout and language leave open: 0, 1 and 2, numbers in an
example ("such as 3003"), the inner terms of a listing (1, 2, 3, ..., 24), single digits that index a letter.
"""

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

from megatron_coreward.rephrasing.number_words import MULTIPLES, implied, spelled_numbers

Values = frozenset[Fraction]


@dataclass(frozen=True)
class Mention:
    """A number as written. Each of `readings` is a set of values that says the same.

    `is_telling` means that another wording of the question has to keep it.
    """

    start: int
    text: str
    readings: tuple[Values, ...]
    is_spelled: bool = False
    is_telling: bool = True

    def is_in(self, values: Values) -> bool:
        return any(reading <= values for reading in self.readings)


@dataclass(frozen=True)
class Quantities:
    """`mentions` are the numbers a text states; `values` adds every reading and what its words imply."""

    mentions: tuple[Mention, ...]
    values: Values

    def missing_in(self, other: "Quantities") -> list[Mention]:
        """Telling numbers stated here that `other` neither states nor implies, without repetition."""
        lost = {
            mention.readings: mention
            for mention in self.mentions
            if mention.is_telling and not mention.is_in(other.values)
        }
        return list(lost.values())


_LARGEST_UNTOLD = 2
_BOUND = 100
r"""From here on a bound may be restated: "less than 10,000" as "up to 9999"."""
_MOST_DIGITS = 9
_LARGEST_FACTORIAL = 12
_LEAST_SQUARE = 25

_JOINED = re.compile(r"(?<=\d)(?:\\!|\{,\}|\\,|,\\!|\\;)+(?=\d{3})")
_ONE_TOKEN = re.compile(r"([_^]\d)(?=\d)")  # TeX takes one digit: \log_432 is the logarithm of 32 to base 4
_INDEX = re.compile(r"(?<![A-Za-z])[A-Za-z]_\{?$")
_INTEGER = r"\d{1,40}"  # a longer one is read in pieces
_NUMBER = rf"\d{{1,3}}(?:,\d{{3}})+(?!\d)(?:\.{_INTEGER})?|{_INTEGER}(?:\.{_INTEGER})?|(?<![\d.])\.{_INTEGER}"
_MENTION = re.compile(
    rf"(?:(?P<whole>{_INTEGER})\s*)?\\[dtc]?frac\s*(?:\{{\s*(?P<over>{_INTEGER})?\s*(?P<pi>\\pi)?\s*\}}"
    rf"|(?P<over1>\d))\s*(?:\{{\s*(?P<under>{_INTEGER})\s*\}}|(?P<under1>\d))"
    rf"|(?:(?P<whole2>{_INTEGER})\s+)?(?P<over2>{_INTEGER})\s*/\s*(?P<under2>{_INTEGER})"
    rf"|(?P<number>{_NUMBER})(?:(?P<factorial>!)|\s*(?P<percent>\\?%|percent\b)"
    rf"|\s*\^\s*(?:\{{\s*(?P<power>\d{{1,2}})\s*\}}|(?P<power1>\d)))?"
)
_DOTS = r"\\(?:ldots|cdots|dots|dotsb|dotsc|dotsm)(?![a-z])|\.{2,}|…"
_SEPARATOR = r"(?:[\s,+\-*$(){}]|\\(?:cdot|times|left|right|quad|[,;! ()\[\]])(?![a-z])|\band\b|\bor\b)+"
_TERM = (
    rf"(?:\\[dtc]?frac\s*\{{?{_INTEGER}\}}?\s*\{{?{_INTEGER}\}}?"
    rf"|{_INTEGER}(?:\.{_INTEGER})?(?:\^\{{?{_INTEGER}\}}?)?!?)"
)
_LISTING = re.compile(rf"{_TERM}(?:{_SEPARATOR}(?:{_TERM}|{_DOTS})){{2,}}")
_EXAMPLE = re.compile(
    r"(?i)(?:\b(?:for example|for instance|such as|like(?=\W*\d)|e\.g\.|note that|namely)|\((?=since|note))"
    r"(?:[^.?!;]|\.(?=\d))*"
)
_MULTIPLE = re.compile(rf"[\s$\\-]*({'|'.join(MULTIPLES)})", re.IGNORECASE)
_DIGITS = re.compile(r"[\s$-]*digit", re.IGNORECASE)


def quantities(text: str) -> Quantities:
    """The numbers that `text` states and implies."""
    text = _ONE_TOKEN.sub(r"\1 ", _JOINED.sub("", text))
    is_untold = bytearray(len(text))
    for start, end in (*(match.span() for match in _EXAMPLE.finditer(text)), *_inner_terms(text)):
        is_untold[start:end] = b"\1" * (end - start)
    mentions: list[Mention] = []
    values = set(implied(text))
    for bare in (*_written(text), *_in_words(text)):
        mention = _in_context(bare, text)
        values.update(*mention.readings)
        if is_untold[mention.start]:
            mention = replace(mention, is_telling=False)
        mentions.append(mention)
    return Quantities(tuple(mentions), frozenset(values))


def _written(text: str) -> Iterator[Mention]:
    """Numbers in digits."""
    for match in _MENTION.finditer(text):
        readings = tuple(_readings_of_number(match) if match["number"] else _readings_of_fraction(match))
        is_index = len(match[0]) == 1 and _INDEX.search(text, max(0, match.start() - 4), match.start())
        telling = _largest(readings) > _LARGEST_UNTOLD and not is_index
        yield Mention(match.start(), match[0], readings, is_telling=telling)


def _largest(readings: Iterable[Values]) -> Fraction:
    return max(max(reading) for reading in readings)


def _told(*parts: Fraction) -> Values:
    """The parts that another wording has to repeat; all of them if none is large enough."""
    return frozenset(part for part in parts if part > _LARGEST_UNTOLD) or frozenset(parts)


def _readings_of_fraction(match: re.Match[str]) -> Iterator[Values]:
    over = Fraction(match["over"] or match["over1"] or match["over2"] or 1)
    under = Fraction(match["under"] or match["under1"] or match["under2"])
    whole = Fraction(match["whole"] or match["whole2"] or 0)
    yield _told(over, under, whole)
    if under:
        yield frozenset({whole + over / under})
        if match["pi"]:
            yield frozenset({180 * over / under})  # degrees
        if not whole:
            yield frozenset({over / under * 100})  # percent


def _readings_of_number(match: re.Match[str]) -> Iterator[Values]:
    number, power = match["number"], int(match["power"] or match["power1"] or 0)
    value = Fraction(number.replace(",", ""))
    if match["power"] or match["power1"]:
        yield _told(value, Fraction(power))
        if value <= 1000 and power <= 20:
            yield frozenset({value**power})
        return
    yield frozenset({value})
    if match["factorial"] and value <= _LARGEST_FACTORIAL:
        yield frozenset({Fraction(math.factorial(int(value)))})
    if value.denominator == 1 and value >= _LEAST_SQUARE and math.isqrt(int(value)) ** 2 == value:
        yield frozenset({Fraction(math.isqrt(int(value)))})  # x^2 + y^2 = 25: a radius of 5
    if "," in number:  # (1,200) may be a pair
        yield frozenset(Fraction(part) for part in number.split(","))
    if match["percent"]:
        yield frozenset({value / 100})
    if value >= _BOUND and value.denominator == 1:
        yield from (frozenset({value - 1}), frozenset({value + 1}))


def _in_words(text: str) -> Iterator[Mention]:
    """Numbers spelled out. Ordinals are no statement of their own: "the first" need not be kept."""
    for number in spelled_numbers(text):
        readings = [frozenset({number.value})]
        if number.parts:
            readings += [_told(*map(Fraction, number.parts)), frozenset({number.value * 100})]
        telling = number.is_cardinal and _largest(readings) > _LARGEST_UNTOLD
        yield Mention(number.start, text[number.start : number.end], tuple(readings), True, telling)


def _in_context(mention: Mention, text: str) -> Mention:
    """The mention with readings by its next word: five dozen are 60, a four-digit number is 1000 to 9999."""
    single = [reading for reading in mention.readings if len(reading) == 1]
    value = next(iter(single[0])) if single else Fraction(0)
    end = mention.start + len(mention.text)
    said: list[Fraction] = []
    if match := _MULTIPLE.match(text, end):
        said.append(value * MULTIPLES[match[1].lower()])
    if value.denominator == 1 and 0 < value <= _MOST_DIGITS and _DIGITS.match(text, end):
        low, high = Fraction(10) ** (int(value) - 1), Fraction(10) ** int(value)
        said += [low, low - 1, high, high - 1]
    return replace(mention, readings=(*mention.readings, *(frozenset({number}) for number in said)))


def _inner_terms(text: str) -> Iterator[tuple[int, int]]:
    """Spans of the second and later terms of listings whose rule is clear: dots, or equal steps."""
    for match in _LISTING.finditer(text):
        terms = list(re.finditer(_TERM, match[0]))
        if re.search(_DOTS, match[0]) or _has_equal_steps([term[0] for term in terms]):
            yield match.start() + terms[0].end(), match.end()


def _has_equal_steps(terms: list[str]) -> bool:
    if len(terms) < 3 or not all(re.fullmatch(r"\d+(?:\.\d+)?", term) for term in terms):
        return False
    values = [Fraction(term) for term in terms]
    return len({later - earlier for earlier, later in zip(values, values[1:], strict=False)}) == 1
