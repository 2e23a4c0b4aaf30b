"""The pairs of each rollout batch: seeded, and resumable to the batch.

Every rank holds the same sampler and gets the same global batch; requests.py distributes it. Each
epoch is a new permutation drawn from (seed, epoch) and gives `len(pairs) // batch_pairs` batches; what is
left over is dropped, as in the authors' code, so that every step has the same size. With data smaller than
a batch, every batch is all the pairs: a pair cannot come twice in one batch, because a group is (pair_id,
view).
"""

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from megatron_coreward.utils.logging import warn

logger = logging.getLogger(__name__)


class Numbered(Protocol):
    """A question pair, or a question with its response."""

    @property
    def pair_id(self) -> int: ...


_Pair = TypeVar("_Pair", bound=Numbered)


class PairSampler(Generic[_Pair]):
    """Draws batches of `batch_pairs` different ones of `pairs`, without end.

    `shuffle=False` keeps the file's order.
    """

    def __init__(self, pairs: Sequence[_Pair], batch_pairs: int, shuffle: bool = True, seed: int = 1) -> None:
        assert pairs, "a sampler needs pairs"
        assert len({pair.pair_id for pair in pairs}) == len(pairs), "pair ids repeat"
        if batch_pairs > len(pairs):
            warn(
                *(logger, "batches smaller than asked for", "data.batch_pairs"),
                "data.batch_pairs=%d, but there are %d pairs: every batch is all of them",
                batch_pairs,
                len(pairs),
            )
        self.pairs = list(pairs)
        self._settings = {"pairs": len(pairs), "batch_pairs": batch_pairs, "shuffle": shuffle, "seed": seed}
        self.batch_pairs = min(batch_pairs, len(pairs))
        self._shuffle, self._seed = shuffle, seed
        self._batches_drawn = 0
        self._order = self._permutation(0)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.pairs) // self.batch_pairs

    @property
    def epoch(self) -> int:
        """Epoch of the next batch, from 0."""
        return self._batches_drawn // self.steps_per_epoch

    def next(self) -> list[_Pair]:
        position = self._batches_drawn % self.steps_per_epoch
        if position == 0:
            self._order = self._permutation(self.epoch)
        self._batches_drawn += 1
        start = position * self.batch_pairs
        return [self.pairs[i] for i in self._order[start : start + self.batch_pairs]]

    def state_dict(self) -> dict[str, int]:
        return {"batches_drawn": self._batches_drawn, **self._settings}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues where `state` was taken. Raises ValueError if data or settings are not the same."""
        for name, value in self._settings.items():
            if state[name] != value:
                raise ValueError(
                    f"cannot resume: the checkpoint has {name}={state[name]}, this run has {value};"
                    " keep data.*, run.seed and the files unchanged, or start a new run.output_dir"
                )
        self._batches_drawn = state["batches_drawn"]
        self._order = self._permutation(self.epoch)

    def _permutation(self, epoch: int) -> list[int]:
        order = list(range(len(self.pairs)))
        if self._shuffle:
            # A text seed is hashed, so run 1's second epoch differs from run 2's first.
            random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return order
