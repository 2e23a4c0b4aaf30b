"""What runs and evaluations have left behind, as plain Python. Reads files only."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.api.settings import Config
from megatron_coreward.run.rollouts import read_rollouts, rollout_steps
from megatron_coreward.run.show import check_run_folder
from megatron_coreward.utils.bootstrap import Interval
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.run_names import CONFIG_FILE, EVALUATIONS


@dataclass(frozen=True)
class Evaluation:
    """Accuracies on questions with answers, each a mean with its 95% interval over the questions.

    `greedy` is that of the greedy responses, `sampled` the mean over samples (None if nothing was sampled),
    `majority` that of the vote of k samples, by k. `measures` has all of them under their names in
    docs/evaluation.md.
    """

    questions: int
    greedy: Interval
    sampled: Interval | None
    majority: dict[int, Interval]
    measures: dict[str, Interval]

    @classmethod
    def from_summary(cls, summary: Mapping[str, Any]) -> "Evaluation":
        """From a benchmark of a summary.json, or from a file of a run's evaluations."""
        measures = {
            name.removeprefix("eval/"): Interval(estimate["value"], estimate["low"], estimate["high"])
            for name, estimate in summary["metrics"].items()
        }
        sampled = [m for name, m in measures.items() if name.startswith("avg@") or name == "pass@1"]
        votes = {int(name.removeprefix("maj@")): m for name, m in measures.items() if name.startswith("maj@")}
        return cls(
            summary["questions"], measures["greedy_pass@1"], sampled[0] if sampled else None, votes, measures
        )


@dataclass(frozen=True)
class Run:
    """A run folder.

    `metrics` are columns: for each name of docs/metrics.md a value per step, NaN where a step has none, and
    `metrics["step"]`; pandas and polars take it as it is. `evaluations` are those of the run by step, 0
    before training. `steps` are the steps that rollouts were kept of.
    """

    folder: Path
    config: Config
    metrics: dict[str, list[float]]
    evaluations: dict[int, Evaluation]
    steps: list[int]

    def rollouts(self, step: int) -> list[dict[str, Any]]:
        """Every response of a step, with its question, answer, label and reward (run/rollouts.py).

        Raises:
            ValueError: the step has no rollouts.
        """
        return read_rollouts(self.folder, step)


def load_run(folder: str | Path) -> Run:
    """Reads a run folder (`run.output_dir`), also that of a run that goes on.

    Raises:
        ValueError: it is no run folder.
    """
    folder = Path(folder)
    check_run_folder(folder)
    records = read_metrics(folder)
    names = sorted({name for record in records for name in record})
    evaluations = {
        int(file.stem.removeprefix("step_")): Evaluation.from_summary(json.loads(file.read_text()))
        for file in sorted((folder / EVALUATIONS).glob("step_*.json"))
    }
    return Run(
        folder,
        Config.load(folder / CONFIG_FILE),
        {name: [record.get(name, math.nan) for record in records] for name in names},
        evaluations,
        rollout_steps(folder),
    )
