"""The curves of a run as one figure, from its metrics.jsonl."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_coreward.evaluation.health import AGREEMENT, BY_CHANCE, first_alarms

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PROBE = "Probe, without labels; its alarms"
PANELS = (
    ("Held-out accuracy", ("eval/greedy_pass@1", "eval/pass@1", "eval/maj@"), "linear"),
    (
        "Agreement of the two views",
        ("coreward/agreement", "original/majority_share", "rephrased/majority_share"),
        "linear",
    ),
    (
        PROBE,
        (
            *("probe/agreement", "probe/answer_entropy", "probe/kept_majorities"),
            *("probe/flipped_majorities", "probe/top_answer_share"),
        ),
        "linear",
    ),
    ("Probe: what an answer says of its question (nats)", ("probe/answer_information",), "linear"),
    (
        "Label accuracy (diagnostics)",
        ("diagnostics/original/label_accuracy", "diagnostics/rephrased/label_accuracy"),
        "linear",
    ),
    ("Reward", ("reward/mean", "original/signal_groups", "rephrased/signal_groups"), "linear"),
    ("KL to the start model", ("policy/kl", "probe/kl"), "linear"),
    ("Log-prob mismatch with vLLM (nats)", ("mismatch/mean_abs", "mismatch/max_abs"), "log"),
    ("Response tokens", ("original/response_tokens", "rephrased/response_tokens"), "linear"),
    ("Gradient norm", ("policy/grad_norm",), "linear"),
)
"""Title, metric names (or their beginnings) and scale of every panel."""
MANY_LINES = 5
"""A legend of more would hide what it explains, and stands beside the panel."""


def draw(records: Sequence[dict[str, float]]) -> "Figure":
    """One panel per group of metrics; panels without data are left out."""
    from matplotlib.figure import Figure  # slow to import

    names = sorted({name for record in records for name in record})
    panels = [(title, [n for n in names if n.startswith(wanted)], scale) for title, wanted, scale in PANELS]
    panels = [panel for panel in panels if panel[1]]
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(11, 2.8 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, (title, shown, scale) in zip(grid.flat, panels, strict=False):
        for name in shown:
            points = [(record["step"], record[name]) for record in records if name in record]
            axes.plot(*zip(*points, strict=True), marker=".", label=name)
        for share in [r[BY_CHANCE] for r in records if title == PROBE and BY_CHANCE in r]:
            axes.axhline(share, label=BY_CHANCE, color="grey", linestyle="dotted")
        for color, (name, step) in enumerate(_alarms(records) if title == PROBE else [], start=len(shown)):
            axes.axvline(step, label=name, color=f"C{color}", linestyle="dashed")
        axes.set(title=title, xlabel="step", yscale=scale)
        axes.grid(alpha=0.3)
        beside = {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(axes.lines) > MANY_LINES else {}
        axes.legend(fontsize="small", **beside)
    return figure


def _alarms(records: Sequence[dict[str, float]]) -> list[tuple[str, int]]:
    """The alarms that ring, with the steps at which they do so first."""
    return list(first_alarms([record for record in records if AGREEMENT in record]).items())


def save_curves(records: Sequence[dict[str, float]], path: Path) -> None:
    """The same as a picture, of the kind that the file's suffix says."""
    draw(records).savefig(path, dpi=130)
