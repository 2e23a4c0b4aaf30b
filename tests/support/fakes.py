"""Small in-memory roles, with numbers in place of models, that note in a journal what they are asked."""

import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from megatron_coreward.algorithm.batch import TrainBatch, make_batch
from megatron_coreward.algorithm.objective import Objective
from megatron_coreward.algorithm.token_figures import settled
from megatron_coreward.evaluation.health import Probes
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.roles import KV_CACHE, WEIGHTS
from megatron_coreward.types import (
    Confidence,
    GenerationRequest,
    QuestionPair,
    Response,
    Sampling,
    ScoredResponse,
    StepReport,
    Traffic,
    WeightedResponse,
)
from megatron_coreward.utils.metrics import Figures

TIMEOUT_S = 60.0


class ThreadCommunicator:
    """roles.Communicator among the threads of one process. Values are pickled, as between processes."""

    def __init__(self, rank: int, world_size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.world_size = world_size
        self.bytes_sent = 0
        self._table = table
        self._barrier = barrier

    def all_to_all(self, outgoing: Sequence[Any]) -> list[Any]:
        assert len(outgoing) == self.world_size, f"{len(outgoing)} items for {self.world_size} ranks"
        others = [item for rank, item in enumerate(outgoing) if rank != self.rank]
        self.bytes_sent += sum(len(pickle.dumps(item, pickle.HIGHEST_PROTOCOL)) for item in others)
        return [items[self.rank] for items in self.all_gather(list(outgoing))]

    def all_gather(self, value: Any) -> list[Any]:
        self._table[self.rank] = pickle.dumps(value)
        self._barrier.wait(TIMEOUT_S)
        gathered = [pickle.loads(item) for item in self._table]
        self._barrier.wait(TIMEOUT_S)  # nobody writes the next value before all have read this one
        return gathered

    def gather(self, value: Any) -> list[Any]:
        received = self.all_to_all([value, *[None] * (self.world_size - 1)])
        return received if self.rank == 0 else []

    def broadcast(self, value: Any, source: int = 0) -> Any:
        return self.all_gather(value)[source]


def run_threads(world_size: int, work: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """`work(comm)` on every rank of a world of threads; the results by rank."""
    table: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size)

    def rank_main(rank: int) -> Any:
        try:
            return work(ThreadCommunicator(rank, world_size, table, barrier))
        except BaseException:
            barrier.abort()  # the others must not wait for this rank
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(rank_main, rank) for rank in range(world_size)]
        errors = [future.exception() for future in futures]
    own_errors = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
    if own_errors:
        raise own_errors[0]
    return [future.result() for future in futures]


class FakeModel:
    """roles.WeightSource and roles.Reference: three weights, all equal to `value`.

    The log-probs are those that the engine has sampled with, plus `gap`.
    """

    def __init__(self, name: str, journal: list[str] | None = None, gap: float = 0.0) -> None:
        self.name = name
        self.journal = [] if journal is None else journal
        self.gap = gap
        self.value = 0.0
        self.exported = 0
        self.on_device = True
        self.traffic = Traffic(sent=100, received=100, minimum=100)

    def export_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.journal.append(f"{self.name} exports")
        for i in range(3):
            self.exported += 1
            self.traffic += Traffic(sent=1, received=2, minimum=3)
            yield f"weight {i}", torch.full((10,), self.value)

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        self.journal.append(f"{self.name} log-probs")
        return batch.rollout_logps_T + self.gap

    def offload(self) -> None:
        self.on_device = False

    def onload(self) -> None:
        self.on_device = True


class FakePolicy(FakeModel):
    """roles.Policy in a world of one; an update adds 1 to its weights.

    `failure` is what the first update raises. `held` is what every call of `shard` was given, `batches` what
    every update was given.
    """

    def __init__(
        self,
        journal: list[str] | None = None,
        gap: float = 0.0,
        failure: FloatingPointError | None = None,
    ) -> None:
        super().__init__("policy", journal, gap)
        self.failure = failure
        self.held: list[list[WeightedResponse]] = []
        self.batches: list[TrainBatch] = []

    def shard(self, held: Sequence[WeightedResponse]) -> TrainBatch:
        self.held.append(list(held))
        return make_batch(self.held[-1])

    def with_confidence(self, responses: Sequence[Response]) -> list[Response]:
        self.journal.append("policy confidence")
        return [replace(r, confidence=Confidence(float(r.sample), 0.5)) for r in responses]

    def update(self, batch: TrainBatch, objective: Objective) -> Figures:
        assert self.on_device, "the optimizer state is offloaded"
        self.journal.append("policy updates")
        self.batches.append(batch)
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure
        self.value += 1
        return settled([objective(batch.rollout_logps_T + self.gap, batch)[1]])


class FakeTeacher(FakeModel):
    """roles.Teacher: an update takes over half of the policy's weights."""

    def __init__(self, policy: FakePolicy, gap: float = 0.0) -> None:
        super().__init__("teacher", policy.journal, gap)
        self._policy = policy

    def update(self, step: int, total_steps: int) -> float:
        self.journal.append(f"teacher follows at {step} of {total_steps}")
        self.value = (self.value + self._policy.value) / 2
        return 0.5


class FakeEngine:
    """roles.RolloutEngine of one replica: a response has the text of `answer`, and two tokens of log-prob -1.

    `requests` holds every call of `generate`, `weights` what was loaded last. It reads the first
    `takes` weights of a stream.
    """

    def __init__(
        self,
        journal: list[str] | None = None,
        answer: Callable[[GenerationRequest], str] = lambda request: "",
        takes: int = 3,
    ) -> None:
        self.journal = [] if journal is None else journal
        self.asleep_bytes = 0
        self.version = 0
        self.weights: dict[str, torch.Tensor] = {}
        self.requests: list[list[GenerationRequest]] = []
        self._awake = {WEIGHTS, KV_CACHE}
        self._answer = answer
        self._takes = takes

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        assert self._awake == {WEIGHTS, KV_CACHE}, "the engine sleeps"
        self.journal.append("engine draws")
        self.requests.append(list(requests))
        return [
            Response(
                *(r.pair_id, r.view, r.sample, r.prompt_ids),
                response_ids=np.array([7, 8], np.int32)[: sampling.max_tokens],
                rollout_logps=np.array([-1.0, -1.0], np.float32)[: sampling.max_tokens],
                text=self._answer(r),
                finish_reason="stop",
                weights_version=self.version,
            )
            for r in sorted(requests, key=lambda r: r.key)
        ]

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> None:
        assert WEIGHTS in self._awake, "the engine sleeps"
        self.weights = {name: tensor.clone() for name, tensor in islice(weights, self._takes)}
        self.version = version
        self.journal.append(f"engine loads {version}")

    def sleep(self, *, keep_weights: bool) -> None:
        self._awake = set()

    def wake(self, tags: Sequence[str]) -> None:
        self._awake |= set(tags)


class FakeObserver:
    """trainer.Observer that keeps everything in memory. `nonfinite` and `saved` go by step."""

    def __init__(self, journal: list[str] | None = None) -> None:
        self.journal = [] if journal is None else journal
        self.reports: list[StepReport] = []
        self.nonfinite: dict[int, list[ScoredResponse]] = {}
        self.saved: dict[int, dict[str, Any]] = {}

    def on_phase(self, name: str) -> None:
        self.journal.append(f"-- {name}")

    def on_step(
        self, report: StepReport, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> None:
        self.reports.append(report)

    def on_nonfinite(
        self, step: int, pairs: Sequence[QuestionPair], scored: Sequence[ScoredResponse]
    ) -> Path:
        self.nonfinite[step] = list(scored)
        return Path("RUN/nonfinite")

    def on_evaluation(self, step: int, result: Scores, seconds: float) -> None:
        self.journal.append(f"evaluated after {step}")

    def on_probe(self, probes: Probes, seconds: float) -> None:
        self.journal.append(f"probed after {probes[-1]['step']}")

    def save(self, step: int, state: dict[str, Any]) -> None:
        self.saved[step] = state
