"""The training loop: Algorithm 1 of the paper, with evaluation, checkpoints and a clean way to stop.

Every rank runs the same code; what differs by rank hides behind the roles. The step is one function,
`Trainer.train_step`. Two departures from the paper's listing: both views are drawn by one generate call
and updated in one optimizer step (the authors' code does the latter, too), and the update is outside the
per-question loop.
"""

import contextlib
import logging
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch.profiler import record_function

from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import Objective
from megatron_coreward.config.precision import resolve_dtype, sync_tolerance
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import method_of, views_of
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.evaluation.health import Probes, new_alarms
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.evaluation.probe import TEMPERATURE, Probe
from megatron_coreward.phases.memory import MemoryPhases
from megatron_coreward.phases.meter import SLOWEST, Meter, with_rates
from megatron_coreward.phases.profiling import traced
from megatron_coreward.requests import TEACHER, TRAINING, Stream, make_requests, mean_lengths
from megatron_coreward.roles import (
    Communicator,
    Policy,
    Reference,
    RewardStage,
    RolloutEngine,
    Teacher,
    WeightSource,
)
from megatron_coreward.run.watchdog import Watchdog
from megatron_coreward.types import (
    QuestionPair,
    Response,
    Sampling,
    ScoredResponse,
    StepReport,
    WeightedResponse,
)
from megatron_coreward.utils.metrics import Figures
from megatron_coreward.utils.step_ranges import step_ranges
from megatron_coreward.weight_sync import prompts_to_verify, sync_weights, verify_sync

logger = logging.getLogger(__name__)


class Observer(Protocol):
    """Is told what the run does, and writes files, displays and checkpoints (run/folder.py)."""

    def on_phase(self, name: str) -> None:
        """The run enters a phase."""

    def on_step(
        self, report: StepReport, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> None:
        """A step is done. A collective."""

    def on_nonfinite(
        self, step: int, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> Path:
        """A loss or gradient of `step` is not finite; where its responses were saved. A collective."""

    def on_evaluation(self, step: int, scores: Scores, seconds: float) -> None:
        """An evaluation after `step` steps is done."""

    def on_probe(self, probes: Probes, seconds: float) -> None:
        """The last of the run's `probes` is done."""

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Writes a checkpoint. A collective."""


@dataclass
class Trainer:
    """Runs `total_steps` steps from `step` on.

    `reference` is the model of the KL penalty, if there is one; with a teacher it is the teacher.
    """

    config: Config
    policy: Policy
    reference: Reference | None
    rollout: RolloutEngine
    reward_stage: RewardStage
    objective: Objective
    sampler: PairSampler[QuestionPair]
    comm: Communicator
    observer: Observer
    evaluate: Callable[[], Scores] | None
    diagnose: Callable[[Sequence[ScoredResponse], Figures], Figures]
    total_steps: int
    watchdog: Watchdog
    meter: Meter
    teacher: Teacher | None = None
    probe: Probe | None = None
    step: int = 0
    alarms: list[str] = field(default_factory=list)
    """That ended the run (monitor.on_alarm=stop)."""
    _lengths: dict[str, int] = field(default_factory=dict)
    """Of the responses drawn last, by group (requests.mean_lengths); the same on all ranks."""
    _memory: MemoryPhases = field(init=False)
    _figures: Figures = field(default_factory=Figures)
    """Of this rank and step, to be merged with those of the other ranks."""

    def __post_init__(self) -> None:
        frozen = self.teacher or self.reference
        self._memory = MemoryPhases(self.config.memory, self.policy, frozen, self.rollout)

    def train_step(self) -> tuple[StepReport, list[QuestionPair], list[ScoredResponse]]:
        """One step of Algorithm 1; the scored responses are those that this rank holds."""
        config, started = self.config, time.perf_counter()
        self._figures = Figures()
        self.meter.restart()
        pairs = self.sampler.next()
        with self._phase("rollout"):
            responses = self._draw(pairs, config.rollout.drawn)
            for lengths in self.comm.all_gather(mean_lengths(responses)):
                self._lengths |= lengths
            self.meter.count_drawn(responses)
        teacher_responses = self._ask(self.teacher, pairs) if self.teacher is not None else []
        if method_of(config).confidence:
            with self._phase("confidence"):
                responses = self.policy.with_confidence(responses)
        with self._phase("reward"):
            judged, stage_figures = self.reward_stage(responses, teacher_responses)
            scored = with_advantages(judged, config)
        with self._phase("log_probs"):
            trained = [r for r in scored if r.sample < config.rollout.samples]  # the others only vote
            by_update = mini_batches(pairs, trained, config.algorithm.updates_per_batch)
            batches = [self._batch(mini_batch) for mini_batch in by_update]
        figures = self.diagnose(scored, stage_figures)
        with self._phase("update"):
            for batch in batches:
                figures.merge(self._update(batch, pairs, scored))
        self.step += 1
        self._sync()
        return StepReport(self.step, self._metrics(figures, started, scored)), pairs, scored

    def fit(self) -> bool:
        """Trains to the end, or until SIGINT, SIGTERM or an alarm; True when the end was reached."""
        config = self.config
        self._sync()
        if self.step == 0:
            self._evaluate()
        if self.probe is not None and not self.probe.history:  # also of a run that goes on with one
            self._take_probe(self.probe)
        with _stop_requests() as stop:
            while self.step < self.total_steps:
                with self._traced_on_request():
                    report, pairs, scored = self.train_step()
                self.observer.on_step(report, pairs, scored)
                last = self.step == self.total_steps
                if last or _due(self.step, config.evaluation.every):
                    self._evaluate()
                if self.probe is not None and (last or _due(self.step, config.monitor.every)):
                    self._take_probe(self.probe)
                stopping = any(self.comm.all_gather(bool(stop))) or bool(self.alarms)
                if last or stopping or _due(self.step, config.checkpoint.every):
                    self._enter("checkpoint")
                    self.observer.save(self.step, self.state_dict())
                if stopping and not last:
                    return False
        return True

    def state_dict(self) -> dict[str, Any]:
        """The part of a checkpoint that is not the policy's or the teacher's."""
        return {
            "step": self.step,
            "sampler": self.sampler.state_dict(),
            "response_lengths": dict(sorted(self._lengths.items())),
            "reward_file": method_of(self.config).fingerprint,
        } | ({"probe": self.probe.state_dict()} if self.probe is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.sampler.load_state_dict(state["sampler"])
        self._lengths = dict(state.get("response_lengths", {}))  # earlier versions kept none
        if self.probe is not None and "probe" in state:
            self.probe.load_state_dict(state["probe"])

    def _draw(self, pairs: Sequence[QuestionPair], samples: int, stream: Stream = TRAINING) -> list[Response]:
        """Draws from the model that the engine holds; returns the responses that this rank holds."""
        config = self.config
        requests = make_requests(
            *(pairs, samples, config.run.seed, self.step),
            views=views_of(config),
            stream=stream,
            expected=self._lengths,
        )
        sampling = Sampling(config.rollout.temperature, config.rollout.max_response_tokens)
        return self.rollout.generate(requests, sampling)

    def _ask(self, teacher: Teacher, pairs: Sequence[QuestionPair]) -> list[Response]:
        """The teacher moves towards the policy, then answers. The engine is left with the teacher's weights.

        The order is that of the authors' code: the teacher averages in the weights that drew this step's
        responses.
        """
        with self._phase("teacher"):
            self._figures.add_mean("teacher/alpha", teacher.update(self.step + 1, self.total_steps), 1)
            self._figures.merge(sync_weights(teacher, self.rollout, version=self.step))
            if self.config.weight_sync.verify:
                self._verify(teacher)
            return self._draw(pairs, self.config.teacher.samples or self.config.rollout.samples, TEACHER)

    def _batch(self, scored: Sequence[ScoredResponse]) -> TrainBatch:
        """This rank's share; pi_ref where the KL penalty needs it, pi_old where it differs from pi_theta."""
        held = with_weights(scored, self.config, self.comm)
        batch = self.policy.shard(held)
        needs_old = self.config.algorithm.updates_per_batch > 1
        self.meter.count_trained(held, log_prob_passes=needs_old + (self.reference is not None))
        return batch.with_log_probs(
            old=self.policy.log_probs(batch) if needs_old else None,
            ref=self.reference.log_probs(batch) if self.reference is not None else None,
        )

    def _update(
        self, batch: TrainBatch, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> Figures:
        """One optimizer step, or `optimizer.nonfinite` where its loss or gradient is NaN or infinite."""
        figures = Figures()
        try:
            figures = self.policy.update(batch, self.objective)
            figures.add_sum("policy/skipped_updates", 0)
        except FloatingPointError as error:
            saved = self.observer.on_nonfinite(self.step + 1, pairs, scored)
            if self.config.optimizer.nonfinite == "stop":
                raise FloatingPointError(
                    f"step {self.step + 1}: {error}; no weight was changed, earlier checkpoints are intact. "
                    f"The responses are in {saved}. Resume with a lower optimizer.lr or a higher "
                    "algorithm.kl_coef, or with optimizer.nonfinite=skip"
                ) from error
            logger.warning(
                "step %d: %s; update skipped, the responses are in %s", self.step + 1, error, saved
            )
            figures.add_sum("policy/skipped_updates", 1)
        return figures

    def _sync(self) -> None:
        with self._phase("sync"):
            self._figures.merge(sync_weights(self.policy, self.rollout, version=self.step))
        if self.config.weight_sync.verify:
            with self._phase("verify"):
                self._verify(self.policy)

    def _verify(self, model: WeightSource) -> None:
        config = self.config
        dtype = resolve_dtype(config.model.dtype, on_gpu=torch.cuda.is_available())
        verify_sync(
            self.policy,
            self.rollout,
            self.comm,
            prompts_to_verify(
                self.sampler.pairs, config.data.max_prompt_tokens + config.rollout.max_response_tokens
            ),
            config.rollout.temperature,
            sync_tolerance(config.weight_sync.tolerance, dtype),
            views=views_of(config),
            model=model,
        )

    def _evaluate(self) -> None:
        if self.evaluate is None:
            return
        self._enter("evaluate")
        started = time.perf_counter()
        result = self.evaluate()
        self.observer.on_evaluation(self.step, result, time.perf_counter() - started)

    def _take_probe(self, probe: Probe) -> None:
        self._enter("evaluate")
        started = time.perf_counter()
        greedy, sampled = probe.draw()
        probe.measure(self.step, greedy, sampled, self._kl_to_start(sampled))
        if self.config.monitor.on_alarm == "stop":
            self.alarms = new_alarms(probe.history)
        self.observer.on_probe(probe.history, time.perf_counter() - started)

    def _kl_to_start(self, sampled: Sequence[Response]) -> dict[str, float]:
        """The mean k3 of a probe's samples per token, in nats.

        Nothing where no start model is there, or where log-probs are of another temperature than the samples.
        """
        other_temperature = self.config.rollout.temperature != TEMPERATURE
        if self.reference is None or self.teacher is not None or other_temperature:
            return {}
        self._enter("probe")
        batch, figures = self.policy.shard([WeightedResponse(response) for response in sampled]), Figures()
        gap_T = self.reference.log_probs(batch) - self.policy.log_probs(batch)
        figures.add_mean("probe/kl", float((gap_T.exp() - gap_T - 1).sum()), len(gap_T))
        return Figures.merged(self.comm.all_gather(figures)).as_dict()

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        self._enter(name)
        with record_function(name):  # a span in the trace of run.profile_steps
            yield
        seconds = time.perf_counter() - started
        self._figures.add_mean(f"time/{name}", seconds, 1)
        self._figures.add_max(f"{SLOWEST}{name}", seconds)
        self._figures.add_max(f"memory/{name}_gb", self._memory.peak_gb())

    @contextlib.contextmanager
    def _traced_on_request(self) -> Iterator[None]:
        """For the next step: a trace if run.profile_steps names it."""
        config, step = self.config.run, self.step + 1
        if not any(step in steps for steps in step_ranges("run.profile_steps", config.profile_steps)):
            yield
            return
        with traced(Path(config.output_dir), step, self.comm.rank):
            yield
            self.watchdog.enter(step, "profile")  # a large trace takes its time to write

    def _enter(self, name: str) -> None:
        self.watchdog.enter(self.step + 1, name)
        self.observer.on_phase(name)
        self._memory.enter(name)

    def _metrics(
        self, figures: Figures, started: float, scored: Sequence[ScoredResponse]
    ) -> dict[str, float]:
        seconds = time.perf_counter() - started
        self._figures.add_sum("throughput/tokens_per_second", sum(r.num_tokens for r in scored) / seconds)
        self._figures.add_max("memory/peak_gb", self._memory.peak_in_all_gb())
        self._figures.add_mean("time/step", seconds, 1)
        shares, works = zip(*self.comm.all_gather((self._figures, self.meter.work)), strict=True)
        return figures.as_dict() | with_rates(Figures.merged(shares).as_dict(), works)


def mini_batches(
    pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse], count: int
) -> list[list[ScoredResponse]]:
    """The responses by optimizer step. A step has whole pairs, the same ones on all ranks."""
    size = math.ceil(len(pairs) / count)
    update_of = {pair.pair_id: i // size for i, pair in enumerate(pairs)}
    return [[r for r in scored if update_of[r.pair_id] == update] for update in range(count)]


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[str]]:
    """A list that SIGINT and SIGTERM add their names to, so that the step under way can end."""
    received: list[str] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(signal.Signals(number).name)
        logger.warning("%s: ending the step, then saving a checkpoint", received[-1])

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
