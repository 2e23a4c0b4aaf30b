"""Figures that add up over micro-batches and ranks, and the files they are written to.

docs/metrics.md explains every name.
"""

import json
import logging
import math
import netrc
import os
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from megatron_coreward.utils.run_names import METRICS_FILE

logger = logging.getLogger(__name__)


@dataclass
class Figures:
    """Sums, means and maxima under construction: plain floats, so they merge in any order and pickle."""

    sums: dict[str, float] = field(default_factory=dict)
    means: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Total and count."""
    maxima: dict[str, float] = field(default_factory=dict)

    def add_sum(self, name: str, value: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + value

    def add_mean(self, name: str, total: float, count: float) -> None:
        old_total, old_count = self.means.get(name, (0.0, 0.0))
        self.means[name] = (old_total + total, old_count + count)

    def add_max(self, name: str, value: float) -> None:
        """Keeps the larger value; NaN counts as the largest, so that it shows."""
        old = self.maxima.get(name, -math.inf)
        self.maxima[name] = value if math.isnan(value) or value > old else old

    def merge(self, other: "Figures") -> None:
        """Adds another micro-batch's or rank's figures to these."""
        for name, value in other.sums.items():
            self.add_sum(name, value)
        for name, (total, count) in other.means.items():
            self.add_mean(name, total, count)
        for name, value in other.maxima.items():
            self.add_max(name, value)

    @classmethod
    def merged(cls, shares: Iterable["Figures"]) -> "Figures":
        """The figures of all micro-batches or ranks together."""
        total = cls()
        for share in shares:
            total.merge(share)
        return total

    def as_dict(self) -> dict[str, float]:
        """Final values. A mean over nothing is left out."""
        means = {name: total / count for name, (total, count) in self.means.items() if count}
        return {**self.sums, **means, **self.maxima}


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The figures of a run folder, one dict per step in order, with the key "step"; [] before the first."""
    by_step: dict[int, dict[str, float]] = {}
    for line in _complete_lines(folder / METRICS_FILE):
        record = {name: math.nan if value is None else value for name, value in json.loads(line).items()}
        by_step.setdefault(int(record["step"]), {}).update(record)
    return [by_step[step] for step in sorted(by_step)]


def three_digits(value: float) -> str:
    """A figure for people: three significant digits, also where the last are 0; thousands whole."""
    if not math.isfinite(value):
        return f"{value:g}"
    if 999.5 <= abs(value) < 999_999.5:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def _complete_lines(path: Path) -> list[str]:
    """Lines of a metrics file, without a last line that a killed run left unfinished."""
    if not path.exists():
        return []
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


class MetricsWriter:
    """Writes metrics.jsonl, TensorBoard and wandb. Made on rank 0 only.

    `resumed_step` is the step of the checkpoint a run goes on from, and `saved` the `state_dict()` that was
    put into it: later figures of the interrupted run are removed, so that no step is there twice, and the
    wandb run goes on. None starts a new run. `wandb` are arguments of wandb.init (project, name, ...);
    without them nothing is logged there.
    """

    def __init__(
        self,
        folder: Path,
        *,
        tensorboard: bool = False,
        wandb: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        resumed_step: int | None = None,
        saved: Mapping[str, Any] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / METRICS_FILE
        self._lines = _truncate(path, resumed_step)
        self._wandb_id = folder / "wandb_id"
        if saved is not None:
            if self._lines < saved["lines"]:
                logger.warning(
                    "%s lacks %d lines that the checkpoint had", path, saved["lines"] - self._lines
                )
            if saved["wandb_id"] and not self._wandb_id.exists():
                self._wandb_id.write_text(saved["wandb_id"])
        self._file = path.open("a")
        self._tensorboard = _open_tensorboard(folder, resumed_step) if tensorboard else None
        self._wandb = _open_wandb(self._wandb_id, wandb, config or {}) if wandb else None

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Appends one line, flushed. JSON has no NaN or infinity: they are written as null."""
        finite = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        self._file.write(json.dumps({"step": step, **finite}) + "\n")
        self._file.flush()
        self._lines += 1
        if self._tensorboard is not None:
            for name, value in metrics.items():
                self._tensorboard.add_scalar(name, value, step)
            self._tensorboard.flush()
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)

    def state_dict(self) -> dict[str, Any]:
        """The state for a checkpoint: the position in the file, and the wandb run."""
        wandb_id = self._wandb_id.read_text() if self._wandb_id.exists() else None
        return {"lines": self._lines, "wandb_id": wandb_id}

    def close(self) -> None:
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()
            if self._wandb.offline:
                folder = self._wandb_id.parent / "wandb"
                logger.info("W&B was offline: upload the run with wandb sync %s/offline-run-*", folder)


def _truncate(path: Path, resumed_step: int | None) -> int:
    """Removes what is after the step; returns the number of lines that stay."""
    lines = _complete_lines(path)
    last = -1 if resumed_step is None else resumed_step
    kept = [line for line in lines if json.loads(line)["step"] <= last]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    os.replace(temporary, path)
    if len(kept) < len(lines):
        logger.info("%s: removed %d lines after step %d", path.name, len(lines) - len(kept), last)
    return len(kept)


def _open_tensorboard(folder: Path, resumed_step: int | None) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    purge_step = None if resumed_step is None else resumed_step + 1
    return SummaryWriter(str(folder / "tensorboard"), purge_step=purge_step)


def _open_wandb(id_file: Path, settings: Mapping[str, Any], config: Mapping[str, Any]) -> Any:
    import wandb

    if not id_file.exists():
        id_file.write_text(uuid.uuid4().hex[:8])
    return wandb.init(
        **{"name": id_file.parent.name, **settings},
        id=id_file.read_text(),
        resume="allow",
        dir=str(id_file.parent),
        config=dict(config),
        mode=wandb_mode(),
        settings=wandb.Settings(silent=True),
    )


def wandb_mode() -> Literal["online", "offline"] | None:
    """online when logged in (a key in the environment or netrc), else offline; None if WANDB_MODE decides."""
    if os.environ.get("WANDB_MODE"):
        return None
    if os.environ.get("WANDB_API_KEY"):
        return "online"
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    path = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    try:
        logged_in = host in netrc.netrc(str(path)).hosts
    except (OSError, netrc.NetrcParseError):
        logged_in = False
    return "online" if logged_in else "offline"
