"""The display of a run while it goes on: a line per step, and on a terminal a live bar below them.

The line is an ordinary log message, so that it also stands in train.log and reads well in a batch
system's output. On a terminal it is one line: figures that do not fit are left to `coreward show --metrics`,
and the remaining time to the bar.
"""

import logging
import sys
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

from megatron_coreward.utils.logging import TIME_WIDTH

logger = logging.getLogger(__name__)

SHOWN = (
    ("reward", "reward/mean", ".3f"),
    ("agreement", "coreward/agreement", ".2f"),
    ("tokens", "original/response_tokens", ".0f"),
    ("kl", "policy/kl", ".2e"),
    ("mismatch", "mismatch/mean_abs", ".1e"),
)
"""Label, metric and format of the figures on a step's line, the first to be shown first. docs/metrics.md has
the labels."""


class RunProgress:
    """Steps `done` of `total`. Use as a context manager on rank 0.

    with RunProgress(console, total=100, done=20) as progress:
        progress.phase("rollout", "2,048 responses")
        progress.step(21, report.metrics)
    """

    def __init__(self, console: Console, *, total: int, done: int = 0) -> None:
        self.total = total
        self._first = done
        self._start = time.monotonic()
        self._step_start = self._start
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.description}"),
            TextColumn("{task.fields[eta]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=total, completed=done, eta="")

    def __enter__(self) -> "RunProgress":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def phase(self, name: str, detail: str = "") -> None:
        """Names what the run is doing now."""
        self._bar.update(self._task, description=f"{name} ({detail})" if detail else name)

    def step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Step `step` is done."""
        now = time.monotonic()
        per_step = (now - self._start) / max(step - self._first, 1)
        eta = f"ETA {format_seconds(per_step * (self.total - step))}"
        parts, ending = [f"step {step}/{self.total}"], [format_seconds(now - self._step_start)]
        room = sys.maxsize
        if self._bar.console.is_terminal:
            room = self._bar.console.width - TIME_WIDTH
        else:
            ending.append(eta)
        for figure in (f"{label} {metrics[name]:{spec}}" for label, name, spec in SHOWN if name in metrics):
            if len("  ".join([*parts, figure, *ending])) <= room:
                parts.append(figure)
        self._step_start = now
        logger.info("  ".join([*parts, *ending]))
        self._bar.update(self._task, completed=step, eta=eta)


def format_seconds(seconds: float) -> str:
    """A duration as people say it: 4.2s, 3m05s, 2h10m."""
    if seconds < 59.95:  # the rest would round to 60.0s
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    return f"{minutes // 60}h{minutes % 60:02d}m"
