"""The figures of a stage: accuracy and agreement by step, accuracy against KL, the checkpoints' accuracy."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from results import CHOSEN, GREEDY, LAST, START
from rules import COMMON_RATE, Result
from tables import Groups, greedy, grouped, title

from megatron_coreward.evaluation.health import AGREEMENT

KL = "probe/kl"
VALIDATION = "Greedy pass@1, validation split"


def draw(results: Sequence[Result]) -> Figure:
    """Curves are means over the seeds of an arm, of the pilot those of the common rate; points are runs."""
    groups = grouped(results)
    figure = Figure(figsize=(14, 9), layout="constrained")
    [[accuracy, agreement], [against_kl, points]] = figure.subplots(2, 2)
    for runs, style in _curves(groups):
        values = _plot_accuracy(accuracy, runs, style)
        agreement.plot(runs[0]["probe"]["step"], _means([run["probe"][AGREEMENT] for run in runs]), **style)
        if all(KL in run["probe"] for run in runs):
            against_kl.plot(_means([run["probe"][KL] for run in runs]), values, marker=".", **style)
    _label(accuracy, VALIDATION, "step")
    _label(agreement, "Probe: agreement of greedy answers (no labels)", "step")
    _label(against_kl, VALIDATION, "KL to the start model, on the probe (nats a token)")
    _points(points, groups)
    figure.legend(*accuracy.get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    return figure


def draw_short(results: Sequence[Result]) -> Figure:
    """Two panels of `draw`, for a page that has room for no more: accuracy by step, and all runs."""
    groups = grouped(results)
    figure = Figure(figsize=(11, 4), layout="constrained")
    accuracy, points = figure.subplots(1, 2)
    for runs, style in _curves(groups):
        _plot_accuracy(accuracy, runs, style)
    _label(accuracy, VALIDATION, "step")
    _points(points, groups)
    handles = accuracy.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=4, fontsize="small")
    return figure


def _curves(groups: Groups) -> list[tuple[list[Result], dict[str, Any]]]:
    """Runs of one arm at one rate, the common one where there are several, and the style of their curves."""
    rates = Counter(arm for arm, _ in groups)
    shown = [(arm, rate) for arm, rate in groups if rates[arm] == 1 or rate == COMMON_RATE]
    return [
        (
            groups[arm, rate],
            {
                "label": f"{title(arm)}, {rate:g}",
                "color": f"C{number % 10}",
                "linestyle": "-" if number < 10 else "--",
            },
        )
        for number, (arm, rate) in enumerate(shown)
    ]


def _plot_accuracy(axes: Axes, runs: Sequence[Result], style: dict[str, Any]) -> list[float]:
    """Means over the runs by step, which are also returned."""
    values = _means([run["validation"][GREEDY] for run in runs])
    axes.plot(runs[0]["validation"]["step"], values, **style)
    return values


def _points(axes: Axes, groups: Groups) -> None:
    """Every run on the test split: its chosen checkpoint and its last step."""
    for model, marker, words in ((CHOSEN, "o", "chosen checkpoint"), (LAST, "x", "last step")):
        found = [(greedy(run, model), row) for row, runs in enumerate(groups.values()) for run in runs]
        values, rows = zip(*found, strict=True)
        axes.scatter(values, rows, marker=marker, color="black", label=words, s=18, linewidths=1)
    first = next(iter(groups.values()))[0]
    axes.axvline(greedy(first, START), color="grey", linewidth=0.8, label="start model")
    axes.set_yticks(
        range(len(groups)), [f"{title(arm)}, {rate:g}" for arm, rate in groups], fontsize="x-small"
    )
    axes.invert_yaxis()
    axes.legend(fontsize="x-small")
    axes.set(title="Greedy pass@1, test split")
    axes.grid(alpha=0.3)


def _label(axes: Axes, name: str, below: str) -> None:
    axes.set(title=name, xlabel=below)
    axes.grid(alpha=0.3)


def _means(curves: Sequence[Sequence[float]]) -> list[float]:
    return [sum(values) / len(values) for values in zip(*curves, strict=True)]
