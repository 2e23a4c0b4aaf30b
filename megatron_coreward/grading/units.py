r"""Units of answers: which words are one, and one spelling for those that are spelled in several ways.

A unit is text after a value. Whoever leaves it out means the same answer, but two different units never do.
Words that change the value are no unit: `5 million` is 5000000, and `3 or more` equals only itself.
"""

import re

_SYNONYMS = """
mm millimeter millimetre; cm centimeter centimetre; m meter metre; km kilometer kilometre; in inch inche
ft foot feet; yd yard; mi mile; mg milligram; g gram gramme; kg kilogram kilogramme kilo; lb lbs pound
oz ounce; t ton tonne; ml milliliter millilitre; l liter litre L; gal gallon; qt quart; pt pint; cup; sec s second
min minute; h hr hour; day; wk week; month mo; yr year; dollar usd us-dollar usdollar; euro eur; cent; penny pence
mph miles/hour mi/hour; kph kmh kilometers/hour; percent pct; degree deg; radian rad; unit; am; pm; ac acre; ha hectare
hz hertz; kw kilowatt; w watt; v volt; j joule; n newton; pa pascal; person people; child children; man men
woman women; mouse mice; half-hour; degreec degreescelsius celsius; degreef degreesfahrenheit fahrenheit
"""
_SPELLING = {
    word: group.split()[0]
    for line in _SYNONYMS.splitlines()
    for group in line.split(";")
    for word in group.split()
}
ONE_LETTER = frozenset("mgshLlJNWV")
"""Units of one letter, if a space or a \\text sets them apart from a number: `5 m`, but `5m` is five times m."""
_GLUED = re.compile(
    r"(?:" + "|".join(sorted((w for w in _SPELLING if len(w) > 1), key=len, reverse=True)) + r")e?s?"
)
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_CHANGES = re.compile(
    r"\b(?:or|and|more|less|fewer|greater|most|least|over|under|above|below|minus|negative|plus|not|non|no|half|halves"
    r"|thirds?|quarters?|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf|hundred|thousand|million|billion)ths?"
    r"|squared|cubed|pairs?|dozens?|score|gross|couples?|twice|double|triple|remainder|mod|modulo|factorial"
    r"|if|for|when|where|while|unless|except|until|hundreds?|thousands?|millions?|billions?|trillions?|lakhs?|crores?"
    r"|ago|short|bc|bce|ad|ce|mille|power|times ten|root|base)\b"
)


def changes_value(unit: str) -> bool:
    """Whether words after a number say another value, or a condition, rather than what is counted."""
    return _CHANGES.search(unit) is not None


def take_scale(words: str) -> tuple[int, str]:
    """The factor that the first words are, as in "million dollars" or "dozen", and the rest of the words."""
    factor = 1
    while match := re.match(r"\s*(dozen|" + "|".join(_SCALES) + r")s?\b(?:\s+of\b)?", words, re.IGNORECASE):
        scale = match[1].lower()
        factor *= 12 if scale == "dozen" else 10 ** _SCALES[scale]
        words = words[match.end() :]
    return factor, words


def is_unit(words: str, spaced: bool) -> bool:
    """Whether plain letters after a number are words rather than a product; `spaced`: with a space between."""
    first, *others = re.findall(r"[A-Za-z]+", words.replace(".", "")) or [""]
    if (hyphened := re.match(r"[A-Za-z]+(?:-[A-Za-z]+)+", words)) and hyphened[0].lower() in _SPELLING:
        return True
    if not spaced:
        return _GLUED.fullmatch(first.lower()) is not None and first[-1].islower()
    if len(first) == 1:
        return first in ONE_LETTER and all(len(w) > 1 or w in ONE_LETTER for w in others) and "-" not in words
    return (
        len(first) > 3
        or re.fullmatch("[^aeiou][aeiou][a-z]", first) is not None
        or _GLUED.fullmatch(first.lower()) is not None
        or changes_value(words.lower())
    )


def unit_of(words: str) -> str:
    r"""One spelling of a unit: "square feet", "ft^2" and "foot^{2}" are `ft2`, "miles per hour" is `mph`."""
    text = re.sub(r"\s*\^\s*\{?\s*(-?\d)\s*\}?", r"\1", words)
    text = re.sub(r"\\cdot|[*&,;:()]", " ", text.replace(".", "")).strip()
    if re.fullmatch(r"[A-Z]+", text) is None or len(text) > 1:
        text = text.lower()
    text = re.sub(r"\s*(?:/|\bper\b|\ban?\b(?=\s+(?:hour|minute|second|day)))\s*", "/", text)
    if changes_value(text):
        return " ".join(text.split())
    pieces = [_one(piece) for piece in text.split("/")]
    unit = "/".join(pieces)
    return _SPELLING.get(unit, {"mi/h": "mph", "km/h": "kph"}.get(unit, unit))


def _one(text: str) -> str:
    words = text.split()
    power = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}.get(words[0], "") if len(words) > 1 else ""
    words = words[1:] if power else words
    bare = re.fullmatch(r"(.*?)(-?\d?)", words[-1]) if words else None
    if bare is not None:
        words[-1] = _singular(bare[1])
        power = power or bare[2]
    return " ".join(words) + power


def _singular(word: str) -> str:
    if word in _SPELLING or word[:-1] in _SPELLING:
        return _SPELLING.get(word) or _SPELLING[word[:-1]]
    if len(word) > 3:
        word = re.sub(r"(?<=[^aeiou])ies$", "y", word)
        word = re.sub(r"(sh|ch|[sxz])es?$", r"\1", word)  # boxes, cases; and case, to be like them
        word = re.sub(r"(?<![su])s$", "", word)
    return _SPELLING.get(word, word)
