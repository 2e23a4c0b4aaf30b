"""What a row of the suite leaves behind: times of every repeat, by way, with machine, versions and settings.

A row measures several ways of doing the same work in turns (`paired`), so that what slows the machine down
slows all of them. Figures are medians over the repeats, with lower and upper quartile as the spread; a ratio
is taken within each repeat first.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from megatron_coreward.utils.folders import publish_file, temporary_name
from megatron_coreward.utils.versions import installed, processor, versions

Series = dict[str, list[float]]
"""Measure -> its value in each repeat. Names end in the unit: wall_s, cpu_s, peak_gb."""


class Spread(NamedTuple):
    """Lower quartile, median, upper quartile."""

    low: float
    median: float
    high: float


@dataclass
class Curve:
    """A row's ways as points: seconds over `points[way]`, named `axis`; `expected` is what `formula` says."""

    axis: str
    points: dict[str, float]
    expected: dict[str, float]
    formula: str


@dataclass
class Record:
    """One row. `ratios` is what it shows: title -> (numerator, denominator), names of `ways`.

    `goals` says for a title what the project wants it to be; `notes` are figures beside the times.
    """

    row: str
    settings: dict[str, Any]
    ways: dict[str, Series]
    ratios: dict[str, tuple[str, str]]
    goals: dict[str, str] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    curve: "Curve | None" = None
    command: str = ""
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions() | {"numpy": str(installed("numpy"))})

    def ratio(self, title: str, measure: str) -> Spread:
        over, under = self.ratios[title]
        pairs = zip(self.ways[over][measure], self.ways[under][measure], strict=True)
        return spread([a / b for a, b in pairs])

    def write(self, path: Path) -> None:
        """The file appears only when it is complete, so that a row that was cut off is measured again."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = temporary_name(path)
        unfinished.write_text(json.dumps(asdict(self), indent=1) + "\n")
        publish_file(unfinished, path)

    @classmethod
    def read(cls, path: Path) -> "Record":
        content = json.loads(path.read_text())
        content["ratios"] = {title: tuple(names) for title, names in content["ratios"].items()}
        content["curve"] = Curve(**content["curve"]) if content["curve"] else None
        return cls(**content)


def paired(ways: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Series]:
    """Each way once to warm up and then `repeats` times, in an order that rotates."""
    found: dict[str, Series] = {name: {"wall_s": [], "cpu_s": []} for name in ways}
    names = list(ways)
    for repeat in range(repeats + 1):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            cpu, wall = time.process_time(), time.perf_counter()
            ways[name]()
            if repeat:
                found[name]["wall_s"].append(time.perf_counter() - wall)
                found[name]["cpu_s"].append(time.process_time() - cpu)
    return found


def spread(values: Sequence[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    return Spread(*statistics.quantiles(values, n=4, method="inclusive"))


def slower(old: Record, new: Record) -> list[str]:
    """What has become slower or larger beyond the spread: its lower quartile is above the old upper one.

    Raises:
        ValueError: the two do not measure the same thing on the same machine.
    """
    for name in ("row", "settings", "machine"):
        before, after = asdict(old)[name], asdict(new)[name]
        if before != after:
            raise ValueError(f"the files differ in {name}, compare two of the same: {before} and {after}")
    if old.ways.keys() != new.ways.keys():
        raise ValueError(f"the files differ in ways: {sorted(old.ways)} and {sorted(new.ways)}")
    found = []
    for way, series in old.ways.items():
        for measure, values in series.items():
            before, after = spread(values), spread(new.ways[way][measure])
            if after.low > before.high:
                change = after.median / before.median - 1
                found.append(
                    f"{old.row}, {way}, {measure}: {before.median:.4g} "
                    f"({before.low:.4g} to {before.high:.4g}) has become {after.median:.4g} "
                    f"({after.low:.4g} to {after.high:.4g}), {change:+.0%}"
                )
    return found


def machine() -> dict[str, Any]:
    """The processor and how much of it and of the memory there is."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"processor": processor(), "cores": os.cpu_count(), "memory_gb": round(memory / 1e9)}
