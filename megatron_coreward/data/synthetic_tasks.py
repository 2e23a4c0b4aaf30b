"""The tasks of data.source=synthetic by name."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_coreward.data import synthetic, wordings
from megatron_coreward.data.pairs import PairRecord, Question
from megatron_coreward.data.synthetic import HeldOut


@dataclass(frozen=True)
class SyntheticTask:
    """How a task makes its data; all are deterministic, and the splits of their problems disjoint."""

    make_pairs: Callable[[int, int], list[PairRecord]]
    """(count, seed) -> training pairs."""
    held_out: Callable[[HeldOut], list[Question]]
    probe_pairs: Callable[[], list[PairRecord]]
    supervised_examples: Callable[[int, int], list[tuple[str, str]]]
    """(count, seed) -> questions with solutions, for the start model."""


TASKS = {
    "arithmetic": SyntheticTask(
        synthetic.make_pairs, synthetic.held_out, synthetic.probe_pairs, synthetic.supervised_examples
    ),
    "wordings": SyntheticTask(
        wordings.make_pairs, wordings.held_out, wordings.probe_pairs, wordings.supervised_examples
    ),
}
