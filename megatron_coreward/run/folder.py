"""Everything a run leaves behind (utils/run_names.py), and what a person sees while it goes on."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any, Protocol

from rich.console import Console

from megatron_coreward.actor.checkpoint.folder import PROBE, best_checkpoint
from megatron_coreward.config.loading import to_yaml
from megatron_coreward.config.schema import Config, LoggingConfig
from megatron_coreward.evaluation.health import Probes, rating
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.roles import Communicator
from megatron_coreward.run.progress import RunProgress
from megatron_coreward.run.rollouts import write_rollouts
from megatron_coreward.run.warnings import RunWarnings
from megatron_coreward.types import QuestionPair, ScoredResponse, StepReport
from megatron_coreward.utils.metrics import MetricsWriter, read_metrics
from megatron_coreward.utils.run_names import CHECKPOINTS, CONFIG_FILE, EVALUATIONS, HF_EXPORT, NONFINITE

logger = logging.getLogger(__name__)

AGREEMENT, EVALUATION = "agreement", "evaluation"
"""The ratings of a checkpoint, as checkpoint.keep_best_by names them."""
_AGREEMENT, _EVALUATION = "coreward/agreement", "eval/greedy_pass@1"
"""The figures that they are made of."""


class Saver(Protocol):
    """Writes checkpoints (actor/saver.py)."""

    def save(
        self, step: int, trainer_state: dict[str, Any], ratings: Mapping[str, float] | None = None
    ) -> None:
        """Begins a checkpoint. A collective."""

    def poll(self) -> None:
        """Completes the checkpoint under way if it is written. A collective."""


def _wandb_settings(logging: LoggingConfig) -> dict[str, str] | None:
    """What is said to W&B about the run; None where it is off."""
    given = {"name": logging.wandb_name, "entity": logging.wandb_entity, "group": logging.wandb_group}
    chosen = {"project": logging.wandb_project} | {key: value for key, value in given.items() if value}
    return chosen if logging.wandb and logging.wandb_project else None


class RunFolder:
    """trainer.Observer: rank 0 writes the files of the run folder, the others take part in the gathering.

    `resumed` is the state that the run goes on from, as `save` received and completed it; None for a new run.
    `said` are the warnings about the data, which the last line repeats.
    """

    def __init__(
        self,
        config: Config,
        comm: Communicator,
        console: Console,
        total_steps: int,
        resumed: dict[str, Any] | None,
        saver: Saver,
        said: Mapping[str, str],
    ) -> None:
        self.folder = Path(config.run.output_dir)
        self.comm = comm
        self._saver = saver
        self._agreements: list[float] = []
        self._accuracy: dict[int, float] = {}
        """Of the newest evaluation, by its step."""
        self._probed: dict[int, float] = {}
        """The rating by the newest probe, by its step; empty where it gives none."""
        self._keep = config.checkpoint
        resumed_step = resumed["step"] if resumed else None
        self.seed = config.run.seed
        self._rollouts = config.logging.rollouts
        self._result = (
            f"--model {quote(str(self.folder / HF_EXPORT))}"
            if config.run.export_hf
            else f"--checkpoint {quote(str(self.folder / CHECKPOINTS / f'step_{total_steps:06d}'))}"
        )
        self._stack = ExitStack()
        self._writer: MetricsWriter | None = None
        self._progress: RunProgress | None = None
        self._warnings: RunWarnings | None = None
        if comm.rank == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / CONFIG_FILE).write_text(to_yaml(config))
            self._writer = MetricsWriter(
                self.folder,
                tensorboard=config.logging.tensorboard,
                wandb=_wandb_settings(config.logging),
                config=asdict(config),
                resumed_step=resumed_step,
                saved=resumed["metrics"] if resumed else None,
            )
            self._stack.callback(self._writer.close)
            self._progress = self._stack.enter_context(
                RunProgress(console, total=total_steps, done=resumed_step or 0)
            )
            self._warnings = RunWarnings(total_steps, read_metrics(self.folder) if resumed else (), said)

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def on_phase(self, name: str) -> None:
        self._saver.poll()
        if self._progress is not None:
            self._progress.phase(name)

    def on_step(
        self, report: StepReport, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> None:
        if self._rollouts:
            write_rollouts(self.folder, report.step, pairs, scored, self.comm)
        if self._writer is not None and self._progress is not None and self._warnings is not None:
            self._writer.log(report.step, report.metrics)
            self._progress.step(report.step, report.metrics)
            self._warnings.on_step(report.metrics, scored)
        self._agreements += [report.metrics[_AGREEMENT]] if _AGREEMENT in report.metrics else []

    def on_nonfinite(
        self, step: int, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> Path:
        """Writes the step's responses as rollouts are written; `show RUN/nonfinite` reads them."""
        folder = self.folder / NONFINITE
        write_rollouts(folder, step, pairs, scored, self.comm)
        return folder

    def on_evaluation(self, step: int, scores: Scores, seconds: float) -> None:
        metrics = scores.metrics()
        self._accuracy = {step: metrics[_EVALUATION]}
        if self._writer is None or self._warnings is None:
            return
        logger.info(
            "  ".join([f"evaluation, step {step}:", *(f"{k[5:]} {v:.3f}" for k, v in metrics.items())])
        )
        self._writer.log(step, {**metrics, "time/evaluate": seconds})
        path = self.folder / EVALUATIONS / f"step_{step:06d}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(scores.summary(self.seed)) + "\n")
        self._warnings.on_evaluation(metrics)

    def on_probe(self, probes: Probes, seconds: float) -> None:
        step, rated = int(probes[-1]["step"]), rating(probes)
        self._probed = {} if rated is None else {step: rated}
        if self._writer is None or self._warnings is None:
            return
        figures = {name: value for name, value in probes[-1].items() if name != "step"}
        logger.info("  ".join([f"probe, step {step}:", *(f"{k[6:]} {v:.3f}" for k, v in figures.items())]))
        self._writer.log(step, {**figures, "time/probe": seconds})
        self._warnings.on_probe(probes)

    def summary(self) -> str:
        """The last lines of a finished run: its folder, best checkpoint and warnings, and what to do next."""
        warnings = self._warnings.summary() if self._warnings is not None else ""
        facts = filter(None, (str(self.folder), self._best(), warnings or "without a warning"))
        return "\n  ".join(
            [
                f"{', '.join(facts)}. Next:",
                f"coreward show {quote(str(self.folder))}",
                f"coreward report {quote(str(self.folder))}",
                f"coreward evaluate {self._result} --file QUESTIONS.jsonl",
            ]
        )

    def _best(self) -> str:
        """The best checkpoint by checkpoint.keep_best_by; "" where none is kept for being it."""
        by = self._keep.keep_best_by
        best = best_checkpoint(self.folder / CHECKPOINTS, by) if self._keep.keep_best else None
        if best is None and self._keep.keep_best and by == PROBE:
            return "no checkpoint rated by probe: keep the start model"
        return f"best checkpoint by {by} {best[0].name} ({best[1]:.3f})" if best else ""

    def save(self, step: int, state: dict[str, Any]) -> None:
        started = time.perf_counter()
        metrics = self._writer.state_dict() if self._writer is not None else None
        ratings = {EVALUATION: self._accuracy[step]} if step in self._accuracy else {}
        if step in self._probed:
            ratings[PROBE] = self._probed[step]
        if self._agreements:
            ratings[AGREEMENT] = sum(self._agreements) / len(self._agreements)
        self._saver.save(step, {**state, "metrics": metrics}, ratings)
        self._agreements = []
        if self._writer is not None:
            self._writer.log(step, {"time/checkpoint": time.perf_counter() - started})
