"""The roles that the trainer calls by verbs, and the communicator that they share.

Implementations: actor/policy.py (Policy), actor/reference.py (Reference), actor/teacher.py (Teacher),
rollout/engine.py (RolloutEngine), coreward/stage.py (RewardStage), utils/distributed.py (Communicator).
tests/support/fakes.py holds small in-memory ones.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from megatron_coreward.types import (
    GenerationRequest,
    Response,
    Sampling,
    ScoredResponse,
    Traffic,
    WeightedResponse,
)
from megatron_coreward.utils.metrics import Figures

if TYPE_CHECKING:
    import torch

    from megatron_coreward.algorithm.batch import TrainBatch
    from megatron_coreward.algorithm.objective import Objective


WEIGHTS, KV_CACHE = "weights", "kv_cache"
"""The regions of the engine's memory that wake one by one, by vLLM's names."""


class Communicator(Protocol):
    """Exchange of small host objects between all ranks of the run."""

    rank: int
    world_size: int
    bytes_sent: int
    """Bytes that this rank has sent to others by all_to_all so far."""

    def all_to_all(self, outgoing: Sequence[Any]) -> list[Any]:
        """Sends `outgoing[d]` to rank d; returns what every rank s sent here, at index s."""

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank."""

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank, on rank 0; an empty list on the others."""

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """`value` of rank `source`."""


class WeightSource(Protocol):
    """A model whose weights go into the rollout engine."""

    @property
    def traffic(self) -> Traffic:
        """The traffic of export_weights on this rank so far."""

    def export_weights(self) -> Iterator[tuple[str, "torch.Tensor"]]:
        """Full tensors under Hugging Face names, in one order on all ranks. A collective.

        Rows that this rank's part of the engine does not take may hold anything.
        """

    def log_probs(self, batch: "TrainBatch") -> "torch.Tensor":
        """log pi(token) of every response token, float32 [T], without gradient."""


class Policy(WeightSource, Protocol):
    """The trained model."""

    def shard(self, held: Sequence[WeightedResponse]) -> "TrainBatch":
        """Moves responses from the ranks that hold them to the data-parallel ranks that compute on them.

        `held` are this rank's; the result is the share of its DP rank. A collective.
        """

    def with_confidence(self, responses: Sequence[Response]) -> list[Response]:
        """The responses that this rank holds, with `confidence` set. A collective."""

    def update(self, batch: "TrainBatch", objective: "Objective") -> Figures:
        """One optimizer step; figures of all ranks, the same on every rank."""

    def offload(self) -> None:
        """Takes optimizer state and gradient buffers off the device; only `update` needs them."""

    def onload(self) -> None:
        """Brings them back. The gradients are lost."""


class Reference(Protocol):
    """The frozen model of the KL penalty."""

    def log_probs(self, batch: "TrainBatch") -> "torch.Tensor":
        """As Policy.log_probs."""

    def offload(self) -> None:
        """Takes the weights off the device until `onload`."""

    def onload(self) -> None:
        """Brings them back."""


class Teacher(WeightSource, Reference, Protocol):
    """A slow copy of the policy that draws responses to vote with, and the reference of the KL penalty."""

    def update(self, step: int, total_steps: int) -> float:
        """Moves the average towards the policy, before the update of `step` (from 1).

        Returns the share that the average keeps of itself.
        """


class RolloutEngine(Protocol):
    """Draws responses."""

    asleep_bytes: int
    """Device memory of this rank that sleeping has freed."""

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        """Draws this replica's share of `requests` (the same full list is given on every rank).

        Whole groups stay on one replica. Only the first rank of a replica returns responses, in
        canonical order; the others return an empty list.
        """

    def load_weights(self, weights: Iterator[tuple[str, "torch.Tensor"]], version: int) -> None:
        """Replaces the weights in place and forgets every cached prefix."""

    def sleep(self, *, keep_weights: bool) -> None:
        """Frees the memory of weights and KV cache. Weights not kept must be loaded before the next use."""

    def wake(self, tags: Sequence[str]) -> None:
        """Takes the memory of WEIGHTS or KV_CACHE, or both, back."""


class RewardStage(Protocol):
    """Turns responses into rewards: a pure function of the step's responses, over all ranks."""

    def __call__(
        self, responses: Sequence[Response], teacher: Sequence[Response] = ()
    ) -> tuple[list[ScoredResponse], Figures]:
        """Judges the policy's `responses`; the result has them in the same order. A collective.

        `teacher` are the teacher's responses. Of both, every rank gives those that it holds. The figures are
        about the questions that this rank has judged: merge them over ranks.
        """
