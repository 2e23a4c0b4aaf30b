"""What rates a checkpoint, and which one a finished run names."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from megatron_coreward.actor.checkpoint.folder import write_state
from megatron_coreward.config.loading import load_config
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.run.folder import RunFolder
from megatron_coreward.types import StepReport
from megatron_coreward.utils.metrics import read_metrics
from tests.support.fakes import ThreadCommunicator, run_threads

FIGURES = {
    "probe/answer_entropy": 0.8,
    "probe/top_answer_share": 0.1,
    "probe/answer_information": 2.0,
    "probe/kept_by_chance": 0.9,
}
PROBES = [
    {"step": step, "probe/agreement": agreement, "probe/kept_majorities": kept, **FIGURES}
    for step, (agreement, kept) in enumerate([(0.3, 1.0), (0.5, 1.0), (0.7, 0.8), (0.9, 0.8)])
]
"""The last one raises the alarm of forgetting."""
AGREEMENTS = {1: 0.25, 2: 0.75, 3: 1.0, 4: 1.0}


class PlainSaver:
    """A saver whose checkpoints hold a state.json and nothing else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ratings: dict[int, Mapping[str, float]] = {}

    def save(
        self, step: int, trainer_state: dict[str, Any], ratings: Mapping[str, float] | None = None
    ) -> None:
        self.ratings[step] = ratings or {}
        path = self.folder / "checkpoints" / f"step_{step:06d}"
        path.mkdir(parents=True)
        write_state(path, {"step": step, "ratings": self.ratings[step]}, {})

    def poll(self) -> None:
        pass


def scores(right: int) -> Scores:
    greedy_Q = np.arange(4) < right
    return Scores(np.arange(4), greedy_Q, greedy_Q.reshape(1, 4, 1), {1: greedy_Q.astype(float)[None]})


def run(
    comm: ThreadCommunicator, output: Path, *overrides: str
) -> tuple[str, dict[int, Mapping[str, float]]]:
    """Four steps that are evaluated at every second, with a checkpoint at each but the first."""
    config = load_config(
        [],
        [
            *("model.path=m", f"run.output_dir={output}", "logging.tensorboard=false"),
            *("logging.rollouts=false", *overrides),
        ],
    )
    saver = PlainSaver(output)
    with RunFolder(config, comm, Console(stderr=True, quiet=True), 4, None, saver, {}) as folder:
        for step, agreement in AGREEMENTS.items():
            folder.on_step(StepReport(step, {"coreward/agreement": agreement}), [], [])
            if step % 2 == 0:
                folder.on_evaluation(step, scores({2: 3, 4: 1}[step]), 0.0)
            if step > 1:
                folder.save(step, {})
        return folder.summary(), saver.ratings


def test_a_probe_rates_a_checkpoint_of_its_step(alone: ThreadCommunicator, tmp_path: Path) -> None:
    """The third probe is the first to rate, and its alarm leaves the start model if it rates none."""
    settings = ["model.path=m", "checkpoint.keep_best=1", "checkpoint.keep_best_by=probe"]
    config = load_config(
        [], [*settings, f"run.output_dir={tmp_path}", "logging.tensorboard=false", "logging.rollouts=false"]
    )
    saver = PlainSaver(tmp_path)
    with RunFolder(config, alone, Console(stderr=True, quiet=True), 4, None, saver, {}) as folder:
        nothing = "no checkpoint rated by probe: keep the start model"
        assert folder.summary().startswith(f"{tmp_path}, {nothing}, without")
        for step in range(4):
            folder.on_probe(PROBES[: step + 1], 1.5)
            folder.save(step, {})
        folder.save(4, {})
        assert folder.summary().startswith(
            f"{tmp_path}, best checkpoint by probe step_000002 (0.500), with 1 warning: forgetting alarm"
        )
    assert saver.ratings == {0: {}, 1: {}, 2: {"probe": pytest.approx(0.5)}, 3: {}, 4: {}}
    record = read_metrics(tmp_path)[1]
    assert (record["step"], record["probe/agreement"], record["time/probe"]) == (1, 0.5, 1.5)


@pytest.fixture
def alone() -> Iterator[ThreadCommunicator]:
    yield run_threads(1, lambda comm: comm)[0]


def test_every_checkpoint_has_the_ratings_that_its_step_can_give(
    alone: ThreadCommunicator, tmp_path: Path
) -> None:
    _, ratings = run(alone, tmp_path)
    assert ratings == {
        2: {"agreement": 0.5, "evaluation": 0.75},
        3: {"agreement": 1.0},
        4: {"agreement": 1.0, "evaluation": 0.25},
    }


@pytest.mark.parametrize(
    ("overrides", "best"),
    [
        (["checkpoint.keep_best=1"], ", best checkpoint by agreement step_000004 (1.000)"),
        (
            ["checkpoint.keep_best=1", "checkpoint.keep_best_by=evaluation"],
            ", best checkpoint by evaluation step_000002 (0.750)",
        ),
        ([], ""),
    ],
)
def test_a_finished_run_names_its_best_checkpoint(
    overrides: list[str], best: str, alone: ThreadCommunicator, tmp_path: Path
) -> None:
    """The last accuracy is a third of the first here, which the agreement cannot see."""
    summary, _ = run(alone, tmp_path, *overrides)
    assert summary.startswith(f"{tmp_path}{best}, with ")
