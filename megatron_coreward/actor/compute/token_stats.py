"""Log-probabilities, entropies and self-certainty of tokens from vocabulary-parallel logits.

The vocabulary is never gathered: each TP rank reduces its own columns to a maximum, a sum and the target's
logit, and two small all-reduces finish the job. Columns that only pad the vocabulary for TP take no part:
their logits are 0, not -inf, and would change every sum. Logits are float32 and divided by the sampling
temperature before anything else, because responses are drawn from that distribution.

Shape suffixes: T tokens, v this rank's vocabulary columns.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class VocabularyShard:
    """This rank's columns: [start, start + width), of which those from `vocab` on are padding."""

    start: int
    width: int
    vocab: int
    group: dist.ProcessGroup

    @property
    def valid(self) -> int:
        """Columns of this rank that are not padding."""
        return min(max(self.vocab - self.start, 0), self.width)


class TokenStats(NamedTuple):
    """Float32 [T] each, in nats, over the whole vocabulary of V tokens.

    `self_certainty` is KL(U || p) = logsumexp(z) - mean_v(z) - log V, with U uniform (Intuitor,
    arXiv 2505.19590). Only `logps` carry a gradient.
    """

    logps: torch.Tensor
    entropy: torch.Tensor
    self_certainty: torch.Tensor


class _TokenStats(torch.autograd.Function):
    """(logits, targets) -> TokenStats; the gradient flows through the log-probs only."""

    @staticmethod
    def forward(
        ctx: Any, logits_Tv: torch.Tensor, targets_T: torch.Tensor, shard: VocabularyShard, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z_Tv = logits_Tv.float() / temperature
        z_Tv[:, shard.valid :] = -torch.inf
        peak_T = z_Tv.amax(dim=-1)
        dist.all_reduce(peak_T, dist.ReduceOp.MAX, group=shard.group)
        z_Tv -= peak_T[:, None]

        local_T = targets_T - shard.start
        here_T = (local_T >= 0) & (local_T < shard.valid)
        local_T = local_T.clamp(0, shard.width - 1)
        target_T = z_Tv.gather(1, local_T[:, None])[:, 0].masked_fill(~here_T, 0.0)

        p_Tv = z_Tv.exp()
        z_Tv[:, shard.valid :] = 0.0  # p is 0 there; -inf * 0 would be NaN in the entropy
        sums = torch.stack([p_Tv.sum(-1), (p_Tv * z_Tv).sum(-1), target_T, z_Tv.sum(-1)])
        dist.all_reduce(sums, group=shard.group)
        total_T, weighted_T, target_T, plain_T = sums
        log_total_T = total_T.log()
        p_Tv /= total_T[:, None]
        entropy_T = log_total_T - weighted_T / total_T
        self_certainty_T = log_total_T - plain_T / shard.vocab - math.log(shard.vocab)
        ctx.save_for_backward(p_Tv, local_T, here_T)
        ctx.temperature, ctx.dtype = temperature, logits_Tv.dtype
        ctx.mark_non_differentiable(entropy_T, self_certainty_T)
        return target_T - log_total_T, entropy_T, self_certainty_T

    @staticmethod
    def backward(ctx: Any, grad_T: torch.Tensor, *_: torch.Tensor) -> tuple:
        p_Tv, local_T, here_T = ctx.saved_tensors
        grad_T = grad_T / ctx.temperature
        grad_Tv = p_Tv * -grad_T[:, None]
        grad_Tv.scatter_add_(1, local_T[:, None], (grad_T * here_T)[:, None])
        return grad_Tv.to(ctx.dtype), None, None, None


def token_stats(
    logits_Tv: torch.Tensor, targets_T: torch.Tensor, shard: VocabularyShard, temperature: float
) -> TokenStats:
    """Log-probs of `targets_T` and how sure the distributions are; `logits_Tv` is this TP rank's part."""
    assert temperature > 0, f"a policy has no log-probs at temperature {temperature}"
    return TokenStats(*_TokenStats.apply(logits_Tv, targets_T, shard, temperature))
