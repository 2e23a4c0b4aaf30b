"""Table and figure of the experiment from results/*.json: arms.md and arms.png beside this file.

python examples/arithmetic_arms/summarize_arms.py
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from arms import ARMS, HIGH, Result, chosen_rate, read_results, sweep
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
MEASURES = ("greedy_pass@1", "pass@1", "maj@8", "pass@8")
LAST_STEPS = 10
PANELS = (
    ("greedy_pass@1", "Held-out greedy pass@1"),
    ("vote_accuracy", "Vote accuracy in training"),
    ("entropy", "Entropy (nats)"),
)


def write_summary(results: Sequence[Result], output: Path) -> None:
    """Writes arms.md and arms.png to `output`.

    Raises:
        ValueError: there are no results.
    """
    if not results:
        raise ValueError("no results yet; run run_arms.py first")
    rate = chosen_rate(results)
    base = min(result["rate"] for result in results) if rate is None else rate
    lines = [f"Learning rate {base:g}, {_length(results)} steps; mean (lowest to highest) over seeds.", ""]
    lines += _table(_of_rate(results, base))
    high = _of_rate(results, HIGH * base)
    if high:
        lines += ["", f"Learning rate {HIGH * base:g}, one seed.", "", *_table(high)]
    if rate is not None:
        swept = [r for run in sweep() for r in results if r["name"] == run.name]
        tried = ", ".join(f"{r['rate']:g}: {r['evaluations']['greedy_pass@1'][-1]:.3f}" for r in swept)
        lines += [
            "",
            f"Final greedy pass@1 on ground truth by learning rate (the choice of {base:g}): {tried}.",
        ]
    (output / "arms.md").write_text("\n".join(lines) + "\n")
    draw(results, base).savefig(output / "arms.png", dpi=120)


def _of_rate(results: Sequence[Result], rate: float) -> dict[str, list[Result]]:
    """The results with a learning rate by arm, in the order of ARMS."""
    close = [r for r in results if abs(r["rate"] / rate - 1) < 1e-6]
    return {arm: found for arm in ARMS if (found := [r for r in close if r["arm"] == arm])}


def _length(results: Sequence[Result]) -> int:
    return max(result["evaluations"]["step"][-1] for result in results)


def _table(by_arm: dict[str, list[Result]]) -> list[str]:
    start = next(iter(by_arm.values()))[0]["evaluations"]
    lines = [
        "| method | seeds | greedy pass@1 | sampled pass@1 | maj@8 | pass@8 | vote accuracy, last ten steps "
        "| collapsed at step |",
        "|---|---|---|---|---|---|---|---|",
        f"| start model | | {' | '.join(f'{start[m][0]:.3f}' for m in MEASURES)} | | |",
    ]
    for arm, results in by_arm.items():
        cells = [_spread([r["evaluations"][m][-1] for r in results]) for m in MEASURES]
        votes = [[v for v in r["steps"]["vote_accuracy"][-LAST_STEPS:] if v is not None] for r in results]
        cells.append(_spread([sum(v) / len(v) for v in votes if v]))
        steps = [r["collapse_step"] for r in results]
        cells.append(", ".join("no" if step is None else str(step) for step in steps) if any(steps) else "no")
        lines.append(f"| {ARMS[arm].title} | {len(results)} | {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f} to {max(values):.3f})"


def draw(results: Sequence[Result], base: float) -> Figure:
    """A column per learning rate, a row per measure; bands from the lowest to the highest seed."""
    rates = [rate for rate in (base, HIGH * base) if _of_rate(results, rate)]
    figure = Figure(figsize=(5.5 * len(rates) + 2.2, 8.5), layout="constrained")
    grid = figure.subplots(len(PANELS), len(rates), squeeze=False)
    for column, rate in enumerate(rates):
        for row, (measure, title) in enumerate(PANELS):
            axes = grid[row][column]
            axes.set(title=f"{title}, lr {rate:g}", xlabel="step")
            axes.grid(alpha=0.3)
            for number, (arm, found) in enumerate(_of_rate(results, rate).items()):
                _plot(axes, number, ARMS[arm].title, [list(_points(r, measure)) for r in found])
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small")
    return figure


def _points(result: Result, measure: str) -> Iterator[tuple[int, float]]:
    if measure in result["evaluations"]:
        yield from zip(result["evaluations"]["step"], result["evaluations"][measure], strict=True)
    else:
        yield from ((i + 1, v) for i, v in enumerate(result["steps"][measure]) if v is not None)


def _plot(axes: Axes, number: int, label: str, curves: Sequence[Sequence[tuple[int, float]]]) -> None:
    steps = [step for step, _ in curves[0] if all(step in dict(curve) for curve in curves)]
    values = [[dict(curve)[step] for curve in curves] for step in steps]
    color = f"C{number}"
    axes.plot(steps, [sum(v) / len(v) for v in values], label=label, color=color, linewidth=1.4)
    if len(curves) > 1:
        axes.fill_between(steps, [min(v) for v in values], [max(v) for v in values], color=color, alpha=0.15)


def main() -> int:
    write_summary(read_results(HERE / "results"), HERE)
    return 0


if __name__ == "__main__":
    sys.exit(main())
