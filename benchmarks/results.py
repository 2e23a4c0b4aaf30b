"""Writes RESULTS.md from the rows' JSON files; a row that was never measured is said to be so."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.record import Record, Spread, spread
from benchmarks.suite import Row

HEAD = """# Results

Written by `python -m benchmarks --table` from the rows' JSON files; do not edit. Medians over the repeats of
one run, lower and upper quartile in brackets; ratios are taken within each repeat. A row's ways take turns;
long settings, such as prompts' token ids, are in the JSON files only. A row without a file keeps what stands
here.
"""


def page(rows: Sequence[Row], records: Mapping[str, Record], before: str = "") -> str:
    """The page; a row without a record keeps its section of `before`, the page as it was."""
    kept = dict(part.split("\n\n", 1) for part in re.split(r"^## ", before, flags=re.MULTILINE)[1:])
    parts = [HEAD]
    for row in rows:
        parts.append(f"## {row.title}\n")
        record = records.get(row.name)
        if record:
            parts.append(f"`{record.command}`\n")
            parts.append(figures(record))
            if record.curve:
                parts.append(f"![{row.title}]({row.name}.svg)\n")
        elif row.title in kept:
            parts.append(kept[row.title].rstrip("\n") + "\n")
        else:
            parts.append(f"Not measured: `python -m benchmarks --rows {row.name}`.\n")
    return "\n".join(parts)


def figures(record: Record) -> str:
    """A Markdown table of the ways and their ratios; below it, machine, versions and settings."""
    measures = list(dict.fromkeys(name for series in record.ways.values() for name in series))
    header = ["", *measures]
    table = [header, ["---"] * len(header)]
    for way, series in record.ways.items():
        table.append([way, *(text(spread(series[name])) if name in series else "" for name in measures)])
    for title, (over, under) in record.ratios.items():
        both = record.ways[over].keys() & record.ways[under].keys()
        goal = f" (goal: {record.goals[title]})" if title in record.goals else ""
        cells = [text(record.ratio(title, name)) if name in both else "" for name in measures]
        table.append([f"**{title}**{goal}", *cells])
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    repeats = len(next(iter(record.ways[next(iter(record.ways))].values())))
    about = {"repeats": repeats, **record.machine, **record.versions, **record.settings, **record.notes}
    short = ((name, value) for name, value in about.items() if len(str(value)) < 100)
    described = "; ".join(f"{name} {value}" for name, value in short)
    return "\n".join([*lines, "", described, ""])


def plot(record: Record, title: str, path: Path) -> None:
    """Medians, with the quartiles as error bars, beside what the curve's formula says; an SVG."""
    import matplotlib
    from matplotlib.figure import Figure

    assert record.curve, f"{record.row} has no curve"
    ways = [(way, spread(record.ways[way]["wall_s"])) for way in record.curve.points]
    places = [record.curve.points[way] for way, _ in ways]
    medians = [seconds.median for _, seconds in ways]
    errors = [[s.median - s.low for _, s in ways], [s.high - s.median for _, s in ways]]
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.errorbar(places, medians, errors, marker="o", label="measured")
    axes.plot(places, [record.curve.expected[way] for way, _ in ways], "--", label=record.curve.formula)
    axes.set(title=title, xlabel=record.curve.axis, ylabel="seconds", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    with matplotlib.rc_context({"svg.hashsalt": record.row}):  # the same figures make the same file
        figure.savefig(path, metadata={"Date": None})


def text(values: Spread) -> str:
    return f"{values.median:.3g} ({values.low:.3g} to {values.high:.3g})"
