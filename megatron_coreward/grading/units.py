r"""Units of answers: which words are one, and one spelling for those that are spelled in several ways.

A unit is text after a value. Whoever leaves it out means the same answer, but two different units never do.
Words that change the value are no unit: `5 million` is 5000000, and `3 or more` equals only itself.
"""

import re

_SYNONYMS = """
mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre; in inch inche
ft foot feet; yd yard; mi mile; mg milligram; g gram gramme; kg kilogram kilogramme kilo; lb lbs pound
oz ounce; t ton tonne; ml milliliter millilitre; l liter litre L; gal gallon; qt quart; pt pint; cup; acre
sec s second; min minute; h hr hour; day; wk week; month mo; yr year; percent pct; degree deg; radian rad
dollar usd us-dollar $; euro eur €; sterling £; yen ¥; rupee ₹; cent; mph mi/h; kph kmh km/h; unit; am; pm
person people; child children; man men; woman women; mouse mice; hectare
"""
_GROUPS = [group.split() for group in _SYNONYMS.replace("\n", ";").split(";") if group.strip()]
_SPELLING = {word: group[0] for group in _GROUPS for word in group}
_ONE_LETTER = frozenset("mgshLlJNWV")
_LONGEST_FIRST = sorted(map(re.escape, _SPELLING), key=len, reverse=True)
_GLUED = re.compile(f"(?:{'|'.join(_LONGEST_FIRST)})e?s?")
_SCALES = dict(dozen=12, hundred=100, thousand=1000, million=10**6, billion=10**9, trillion=10**12)
_SCALE = re.compile(rf"\s*({'|'.join(_SCALES)})s?\b(?:\s+of\b)?", re.IGNORECASE)
_CHANGES = re.compile(
    r"\b(?:or|and|more|less|fewer|greater|most|least|over|under|above|below|minus|negative|plus|not|non|no|half|halves"
    r"|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|million|billion)ths?"
    r"|squared|cubed|pairs?|tens|dozens?|score|gross|couples?|twice|double|triple|remainder|mod|modulo|factorial|power|root"
    r"|base|if|for|when|where|while|unless|except|until|(?:hundred|thousand|million|billion|trillion|lakh|crore)s?|ago"
    r"|short|bc|bce|ad|ce|mille|times ten)\b"
)


def changes_value(unit: str) -> bool:
    """Whether words after a number say another value, or a condition, rather than what is counted."""
    return _CHANGES.search(unit) is not None


def take_scale(words: str) -> tuple[str, str]:
    """The factors that the first words are, as in "million dollars" or "dozen", and the rest of the words."""
    factors = ""
    while match := _SCALE.match(words):
        factors, words = rf"{factors}\cdot {_SCALES[match[1].lower()]}", words[match.end() :]
    return factors, words


def is_unit(words: str, spaced: bool) -> bool:
    """Whether plain letters after a number are words, not a product. `5 m` is one if a space comes before."""
    first, *others = re.findall("us-dollars?|[a-z]+", words.replace(".", ""), re.IGNORECASE) or [""]
    known = len(first) > 1 and _GLUED.fullmatch(first.lower()) is not None
    if not spaced:
        return known and first[-1].islower()
    if len(first) == 1:
        return "-" not in words and all(len(word) > 1 or word in _ONE_LETTER for word in (first, *others))
    short_word = re.fullmatch("[^aeiou][aeiou][a-z]", first) is not None
    return known or short_word or len(first) > 3 or changes_value(words.lower())


def unit_of(words: str) -> str:
    r"""One spelling of a unit: "square feet", "ft^2" and "foot^{2}" are `ft2`, "miles per hour" is `mph`."""
    text = re.sub(r"\s*\^\s*\{?\s*(-?\d)\s*\}?", r"\1", words)
    text = re.sub(r"\\cdot|[*&,;:()]", " ", text.replace(".", "")).strip()
    text = text.lower() if len(text) > 1 else text
    if changes_value(text):
        return " ".join(text.split())
    text = re.sub(r"\s*(?:/|\bper\b|\ban?\b(?=\s+(?:hour|minute|second|day)))\s*", "/", text)
    unit = "/".join(_one(piece) for piece in text.split("/"))
    return _SPELLING.get(unit, unit)


def _one(text: str) -> str:
    words = text.split()
    power = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(words[0], "") if len(words) > 1 else ""
    *before, last = words[1:] if power else words or [""]
    bare = re.fullmatch(r"(.*?)(-?\d?)", last)
    return " ".join([*before, _singular(bare[1])]) + (power or bare[2]) if bare else text


def _singular(word: str) -> str:
    if known := _SPELLING.get(word) or _SPELLING.get(word.removesuffix("s")):
        return known
    if len(word) > 3:
        word = re.sub(r"(?<=[^aeiou])ies$", "y", word)
        word = re.sub(r"(sh|ch|[sxz])es?$", r"\1", word)  # boxes, cases; and case, to be like them
        word = re.sub(r"(?<![su])s$", "", word)
    return _SPELLING.get(word, word)
