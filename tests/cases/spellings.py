r"""Other spellings of a ground truth and near misses, for the tests and for benchmarks/grader.py.

Each rewriting is a habit of models (`\dfrac`, spaces, a trailing period, 1{,}000, ...) and changes no value.
Each mutation is one slip (a digit, a sign, a bracket, ...). It may leave the value unchanged (`0` is its own
negative), so the caller must confirm the change without the grader.
"""

import re
from collections.abc import Callable

WHOLE = r"-?[1-9]\d*"


def _spaced(truth: str) -> str:
    if r"\text" in truth or re.search(r"\d,(?:\\!)?\d{3}", truth):
        return truth
    return re.sub(r"(?<![\\{,;:!])([-+=,<>])(?=[^!}])", r" \1 ", truth)


def _thousands(separator: str) -> Callable[[str], str]:
    def rewrite(truth: str) -> str:
        return (
            re.sub(r"\B(?=(?:\d{3})+$)", lambda _: separator, truth)
            if re.fullmatch(r"\d{4,}", truth)
            else truth
        )

    return rewrite


def _slashed(truth: str) -> str:
    return re.sub(r"^\\d?frac\{(\d+)\}\{(\d+)\}$", r"\1/\2", truth)


def _decimal(truth: str) -> str:
    match = re.fullmatch(r"(-?)\\d?frac\{(\d+)\}\{(2|4|5|8|10|20|25)\}", truth)
    return f"{match[1]}{int(match[2]) / int(match[3])}" if match else truth


def _named(truth: str) -> str:
    return f"x = {truth}" if re.fullmatch(r"-?(?:\d+|\\d?frac\{\d+\}\{\d+\})", truth) else truth


REWRITINGS: dict[str, Callable[[str], str]] = {
    "itself": lambda truth: truth,
    "dfrac": lambda truth: re.sub(r"\\d?frac(?![a-zA-Z])", r"\\dfrac", truth),
    "bare frac": lambda truth: re.sub(r"\\d?frac\{(\d)\}\{(\d)\}(?!\d)", r"\\frac\1\2", truth),
    "spaces": _spaced,
    "period": lambda truth: truth + ".",
    "dollars": lambda truth: f"${truth}$",
    "displaystyle": lambda truth: rf"\displaystyle {truth}",
    "left, right": lambda truth: re.sub(r"^\((.*)\)$", r"\\left(\1\\right)", truth),
    "trailing zero": lambda truth: truth + ".0" if re.fullmatch(WHOLE, truth) else truth,
    "1,000": _thousands(","),
    r"1,\!000": _thousands(r",\!"),
    "1{,}000": _thousands("{,}"),
    "a/b": _slashed,
    "decimal": _decimal,
    "x =": _named,
    "text": lambda truth: rf"\text{{{truth}}}" if re.fullmatch(r"[A-Z]", truth) else truth,
    "degrees": lambda truth: truth + r"^\circ" if re.fullmatch(WHOLE, truth) else truth,
    "units": lambda truth: truth + r"\text{ cm}" if re.fullmatch(WHOLE, truth) else truth,
}


def rewritten(truth: str) -> dict[str, str]:
    """The rewritings that apply to a ground truth, by name; `itself` is always among them."""
    written = {name: rewrite(truth) for name, rewrite in REWRITINGS.items()}
    return {name: text for name, text in written.items() if name == "itself" or text != truth}


def _bumped(digit: re.Match[str]) -> str:
    return str((int(digit[0]) + 1) % 10)


def _negated(truth: str) -> str:
    return truth.removeprefix("-") if truth.startswith("-") else "-" + truth


def _other_letter(truth: str) -> str:
    return re.sub(r"(?<![\\a-zA-Z])([xyznabt])(?![a-zA-Z])", "k", truth)


def _swapped(truth: str) -> str:
    return re.sub(r"^([\[(])([^,]+),([^,]+)([\])])$", r"\1\3,\2\4", truth)


MUTATIONS: dict[str, Callable[[str], str]] = {
    "first digit": lambda truth: re.sub(r"\d", _bumped, truth, count=1),
    "last digit": lambda truth: re.sub(r"\d(?=\D*$)", _bumped, truth),
    "one more digit": lambda truth: re.sub(r"(\d)(?=\D*$)", r"\g<1>7", truth),
    "sign": _negated,
    "plus, minus": lambda truth: re.sub(r"(?<=[\w}])\+", "-", truth, count=1),
    "no root": lambda truth: re.sub(r"\\sqrt(?=\{)", "", truth, count=1),
    "upside down": lambda truth: re.sub(r"(\\d?frac)(\{\d+\})(\{\d+\})", r"\1\3\2", truth, count=1),
    "no pi": lambda truth: re.sub(r"(?<=[\d}])\\pi", "", truth),
    "another letter": _other_letter,
    "swapped": _swapped,
}


def mutated(truth: str) -> dict[str, str]:
    """The mutations that change the text of a ground truth, by name."""
    written = {name: mutate(truth) for name, mutate in MUTATIONS.items()}
    return {name: text for name, text in written.items() if text != truth}
