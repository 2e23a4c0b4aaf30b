"""The fixed weight of every response token in J = J_original + J_rephrased.

Written as a sum over tokens, the objective needs one batch and no pairing of views:

    J_view = sum_i sum_t w_i * (...)        w_i = 1 / (n * |y_i|)   seq-mean    the paper, Eq. 4
                                            w_i = 1 / N             token-mean  DAPO, arXiv 2503.14476, 3.3
                                            w_i = 1 / (n * L)       dr-grpo     Dr. GRPO, arXiv 2503.20783

with n the view's responses (B questions times G samples), N their tokens, both counted over the whole
optimizer step and all ranks, and L the constant `rollout.max_response_tokens`. So micro-batches, ranks and
packing cannot change the loss. (The authors' code takes the token mean per micro-batch: there a token's
weight depends on its neighbours.) The two views are added with weights 1 and 1, so the gradient is twice
that of a one-view method, as in the paper.

Who takes part, and what n and N count:
- `algorithm.denominator=all`: every response counts, so that a group without signal (equal rewards) has
  advantage 0 but keeps its KL penalty and its place in the divisor, as in the paper.
- `active`: only what takes part counts, and of groups with equal rewards nothing does: weight 0, no KL
  penalty either. (DAPO's dynamic sampling, arXiv 2503.14476, 3.2, without drawing replacements.)
- `algorithm.mask_truncated`: truncated responses get weight 0 (DAPO's overlong filtering, 3.4). Their
  rewards have been in the group's baseline before; `all` counts them in n and N, `active` does not.
- `algorithm.mask_answer`: the tokens in the boxes of an answer get weight 0 (OM-GRPO, arXiv 2608.03119), KL
  penalty included. They stay in n and N, so the other tokens keep their weights.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from megatron_coreward.config.learning import AlgorithmConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.types import ScoredResponse, View, WeightedResponse
from megatron_coreward.utils.distributed import Gathers


@dataclass(frozen=True)
class Counts:
    """The divisors n and N of each view. `sum(counts_of_all_ranks, Counts())` makes them global."""

    responses: Counter[View] = field(default_factory=Counter)
    tokens: Counter[View] = field(default_factory=Counter)

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.responses + other.responses, self.tokens + other.tokens)


def with_weights(scored: Sequence[ScoredResponse], config: Config, comm: Gathers) -> list[WeightedResponse]:
    """This rank's responses of one optimizer step, with their weights. Groups must be complete. A collective.

    With `algorithm.skip_no_signal`, responses that add nothing to the loss count in the divisors, but are
    left out.
    """
    algorithm = config.algorithm
    counts = sum(comm.all_gather(local_counts(scored, algorithm)), Counts())
    weights = token_weights(scored, counts, algorithm, config.rollout.max_response_tokens)
    kept = contributes(scored, algorithm) if algorithm.skip_no_signal else [True] * len(scored)
    return [
        WeightedResponse(response, response.advantage, weight, response.answer_tokens)
        for response, weight, is_kept in zip(scored, weights, kept, strict=True)
        if is_kept
    ]


def local_counts(scored: Sequence[ScoredResponse], config: AlgorithmConfig) -> Counts:
    """The contribution of this rank's responses to the divisors. Groups must be complete."""
    counted: Sequence[ScoredResponse] = scored
    if config.denominator == "active":
        counted = [r for r, part in zip(scored, _takes_part(scored, config), strict=True) if part]
    tokens: Counter[View] = Counter()
    for r in counted:
        tokens[r.view] += len(r.response_ids)
    return Counts(Counter(r.view for r in counted), tokens)


def token_weights(
    scored: Sequence[ScoredResponse], counts: Counts, config: AlgorithmConfig, max_response_tokens: int
) -> list[float]:
    """The weight of each response token that is not masked, by response. Groups must be complete.

    `counts` are the global counts of the optimizer step. A response without tokens has weight 0 but
    stays in the divisor.
    """

    def weight(response: ScoredResponse) -> float:
        n, length = counts.responses[response.view], len(response.response_ids)
        match config.aggregation:
            case "seq-mean":
                return 1.0 / (n * length)
            case "token-mean":
                return 1.0 / counts.tokens[response.view]
            case "dr-grpo":
                return 1.0 / (n * max_response_tokens)
        raise AssertionError(f"aggregation {config.aggregation!r} passed validation")

    takes_part = _takes_part(scored, config)
    return [
        weight(r) if part and len(r.response_ids) else 0.0 for r, part in zip(scored, takes_part, strict=True)
    ]


def contributes(scored: Sequence[ScoredResponse], config: AlgorithmConfig) -> list[bool]:
    """Whether a response changes the loss at all. Groups must be complete.

    Not if all its weights are 0, nor if its advantage is 0 and there is no KL penalty. To leave them out
    of the forward and backward passes (`algorithm.skip_no_signal`) changes no gradient.
    """

    def adds(response: ScoredResponse) -> bool:
        weighs = len(response.response_ids) > len(response.answer_tokens)
        return weighs and (response.advantage != 0 or config.kl_coef > 0)

    return [part and adds(r) for r, part in zip(scored, _takes_part(scored, config), strict=True)]


def _takes_part(scored: Sequence[ScoredResponse], config: AlgorithmConfig) -> list[bool]:
    """Whether each response has a place in the loss."""
    assert config.denominator in ("all", "active"), f"denominator {config.denominator!r} passed validation"
    rewards: defaultdict[tuple[int, str], set[float]] = defaultdict(set)
    for r in scored:
        rewards[r.group].add(r.reward)

    def takes_part(r: ScoredResponse) -> bool:
        masked = config.mask_truncated and r.finish_reason == "length"
        inactive = config.denominator == "active" and len(rewards[r.group]) == 1
        return not masked and not inactive

    return [takes_part(r) for r in scored]
