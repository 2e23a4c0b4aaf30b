"""Steps of a run as a key gives them: numbers and ranges, as in 2,10-12."""

import re

_PART = re.compile(r"([1-9]\d*)(?:-([1-9]\d*))?")


def step_ranges(key: str, text: str) -> tuple[range, ...]:
    """The steps that `text`, the value of `key`, names; none for "".

    Raises:
        ValueError: not such numbers and ranges, or a range that ends before it begins.
    """
    matches = [_PART.fullmatch(part.strip()) for part in text.split(",")] if text else []
    ranges = [range(int(m[1]), int(m[2] or m[1]) + 1) for m in matches if m is not None]
    if len(ranges) < len(matches) or not all(ranges):
        raise ValueError(
            f"{key} is {text!r}, but must be steps from 1 on and ranges of them, as in 2,10-12, or empty for "
            "none."
        )
    return tuple(ranges)
