"""The fixed weight of every response token in J = J_original + J_rephrased.

Written as a sum over tokens, the objective needs one batch and no pairing of views:

    J_view = sum_i sum_t w_i * (...)        w_i = 1 / (n * |y_i|)   seq-mean (the paper, Eq. 4)
                                            w_i = 1 / N             token-mean

with n the view's responses (B questions times G samples) and N their tokens, both counted over the whole
optimizer step and all ranks. So micro-batches, ranks and packing cannot change the loss. (The paper's code
takes the token mean per micro-batch: there a token's weight depends on its neighbours.) The two views are
added with weights 1 and 1, so the gradient is twice that of a one-view method, as in the paper.

`algorithm.denominator` says what n and N count. `all`: every response, so that a group without signal
(equal rewards) has advantage 0 but keeps its KL penalty and its place in the divisor, as in the paper.
`active`: only groups with unequal rewards; the others get weight 0 and lose their KL penalty too.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_coreward.config import AlgorithmConfig
from megatron_coreward.types import ScoredResponse, View


@dataclass(frozen=True)
class ViewCounts:
    """What one view adds to the divisors."""

    groups: int = 0
    responses: int = 0
    tokens: int = 0

    def __add__(self, other: "ViewCounts") -> "ViewCounts":
        return ViewCounts(
            self.groups + other.groups, self.responses + other.responses, self.tokens + other.tokens
        )


@dataclass(frozen=True)
class Counts:
    """Divisors of both views. `sum(counts_of_all_ranks, Counts())` makes them global."""

    original: ViewCounts = field(default_factory=ViewCounts)
    rephrased: ViewCounts = field(default_factory=ViewCounts)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.original + other.original, self.rephrased + other.rephrased)

    def of(self, view: View) -> ViewCounts:
        return self.original if view is View.ORIGINAL else self.rephrased


def local_counts(scored: Sequence[ScoredResponse], config: AlgorithmConfig) -> Counts:
    """What the responses of this rank add to the divisors. Groups must be complete."""
    counted = [r for r, counts in zip(scored, _counts_in(scored, config), strict=True) if counts]

    def count(view: View) -> ViewCounts:
        of_view = [r for r in counted if r.view is view]
        return ViewCounts(
            groups=len({r.group for r in of_view}),
            responses=len(of_view),
            tokens=sum(len(r.response_ids) for r in of_view),
        )

    return Counts(original=count(View.ORIGINAL), rephrased=count(View.REPHRASED))


def token_weights(scored: Sequence[ScoredResponse], counts: Counts, config: AlgorithmConfig) -> list[float]:
    """The weight of each response token of every response, by response. Groups must be complete.

    `counts` are the global counts of the optimizer step. A response without tokens has weight 0 but
    stays in the divisor.
    """
    return [
        _weight(response, counts.of(response.view), config) if is_counted else 0.0
        for response, is_counted in zip(scored, _counts_in(scored, config), strict=True)
    ]


def _weight(response: ScoredResponse, counts: ViewCounts, config: AlgorithmConfig) -> float:
    length = len(response.response_ids)
    if length == 0:
        return 0.0
    match config.aggregation:
        case "seq-mean":
            return 1.0 / (counts.responses * length)
        case "token-mean":
            return 1.0 / counts.tokens
    raise AssertionError(f"aggregation {config.aggregation!r} passed validation")


def _counts_in(scored: Sequence[ScoredResponse], config: AlgorithmConfig) -> list[bool]:
    """Whether each response takes part in the loss and its divisors."""
    if config.denominator == "all":
        return [True] * len(scored)
    assert config.denominator == "active", f"denominator {config.denominator!r} passed validation"
    rewards: defaultdict[tuple[int, str], set[float]] = defaultdict(set)
    for response in scored:
        rewards[response.group].add(response.reward)
    return [len(rewards[response.group]) > 1 for response in scored]
