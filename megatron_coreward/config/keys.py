"""What the fields of schema.py say about each key, in words: for error messages and for docs/config.md."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from typing import Any

from pydantic import TypeAdapter

from megatron_coreward.config.aliases import find_alias
from megatron_coreward.config.schema import Config

_SLIP = 0.75
"""Least likeness of a key to a mistyped one."""
_TYPES = {"boolean": bool, "integer": int, "number": float, "string": str, "object": dict}
_LIMITS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
}


@dataclass(frozen=True)
class Key:
    """One configuration key."""

    name: str
    """With its section, as in optimizer.lr."""
    type: type
    choices: tuple[str, ...]
    """The allowed texts; empty if a text key takes any. A key of another type takes them, too."""
    limits: str
    """The allowed numbers in words, as in "at least 0 and below 1"; or what else a text or mapping is."""
    default: bool | int | float | str | dict[str, Any]
    meaning: str


@cache
def all_keys() -> dict[str, Key]:
    """Name -> key, in the order of schema.py."""
    return {
        f"{section}.{name}": _key(f"{section}.{name}", described)
        for section, content in _sections().items()
        for name, described in content["properties"].items()
    }


def section_meanings() -> dict[str, str]:
    """Name -> meaning of each section, in the order of schema.py."""
    return {section: content["description"] for section, content in _sections().items()}


def find_key(name: str) -> Key:
    """Raises ValueError for an unknown key, naming the key that was probably meant."""
    if name in all_keys():
        return all_keys()[name]
    raise ValueError(f"Unknown configuration key {name!r}{_hint(name)}")


def _hint(name: str) -> str:
    """The rest of the error: another trainer's name for a key of ours, a likely slip, or what there is."""
    if alias := find_alias(name):
        return f": {alias}."
    if guess := _slip(name):
        return f". Did you mean {guess}?"
    section = name.partition(".")[0]
    if section in _sections():
        return f". The keys of {section} are {', '.join(_sections()[section]['properties'])}."
    return f". The sections are {', '.join(_sections())}."


def _slip(name: str) -> str | None:
    """The key of the same name in another section, or one that differs in a letter or two.

    A long section must not make up for another key: optimizer.min_lr is no slip of optimizer.max_rate.
    """

    def likeness(known: str) -> float:
        return difflib.SequenceMatcher(None, name, known).ratio()

    def ending(known: str) -> str:
        return known.rpartition(".")[2]

    same = [known for known in all_keys() if ending(known) == ending(name)]
    near = difflib.get_close_matches(ending(name), map(ending, all_keys()), n=3, cutoff=_SLIP)
    guesses = same or [known for known in all_keys() if ending(known) in near]
    guesses = guesses or [known for known in all_keys() if name.startswith(f"{known}.")]
    return max(guesses, key=likeness, default=None)


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The one of `allowed` that `word` was most likely meant to be; None when nothing is near."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


@cache
def _sections() -> dict[str, dict[str, Any]]:
    """Section -> its JSON schema, the form in which pydantic gives descriptions and limits of fields."""
    classes = TypeAdapter(Config).json_schema()["$defs"]
    sections = {}
    for section in fields(Config):
        assert isinstance(section.type, type), f"{section.name}: schema.py must not postpone its annotations"
        sections[section.name] = classes[section.type.__name__]
    return sections


def _key(name: str, described: dict[str, Any]) -> Key:
    ranges = described.get("anyOf", [described])
    assert "description" in described, f"{name} has no string after it in schema.py"
    return Key(
        name=name,
        type=_TYPES[ranges[0]["type"]],
        choices=tuple(text for allowed in ranges for text in _texts(allowed)),
        limits=" or ".join(filter(None, map(_limits, ranges))),
        default=described.get("default", {}),  # a mapping has a factory
        meaning=" ".join(described["description"].split()),
    )


def _texts(allowed: dict[str, Any]) -> list[str]:
    return allowed.get("enum", [allowed["const"]] if "const" in allowed else [])


def _limits(allowed: dict[str, Any]) -> str:
    if "minimum" in allowed and allowed["minimum"] == allowed.get("maximum"):
        return _number(allowed["minimum"])
    if "pattern" in allowed:
        return allowed["description"]
    if allowed["type"] == "object":
        return "names, each with a text, a number, true or false"
    return " and ".join(
        f"{words} {_number(allowed[limit])}" for limit, words in _LIMITS.items() if limit in allowed
    )


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"
