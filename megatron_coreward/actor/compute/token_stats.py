"""Log-probabilities, entropies and self-certainty of tokens from hidden states, without keeping logits.

The head's product is taken in chunks of tokens, and the backward pass takes it again, but for the last chunk,
which is kept: memory does not depend on tokens times vocabulary. The vocabulary is never gathered: each TP
rank reduces its own columns to a maximum, sums and the target's logit, and one all-reduce of the maxima and
one of the sums finish the job for all tokens. Columns that only pad the vocabulary for TP take no part.
Logits are float32 and divided by the sampling temperature before anything else, because responses are drawn
from that distribution.

Shape suffixes: T tokens, C tokens of a chunk, B tokens of a block of it, h hidden size, v this rank's valid
vocabulary columns.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from megatron_coreward.actor.model.cpu_kernels import add_weight_gradient
from megatron_coreward.config.precision import CACHED_BYTES, HEAD_CHUNK_BYTES


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
    """Float32 [T] each, in nats, over the whole vocabulary of V tokens; the last two only where asked for.

    `self_certainty` is KL(U || p) = logsumexp(z) - mean_v(z) - log V, with U uniform (Intuitor,
    arXiv 2505.19590). Only `logps` carry a gradient.
    """

    logps: torch.Tensor
    entropy: torch.Tensor | None
    self_certainty: torch.Tensor | None


class _Head:
    """The logits of a rank's columns at a temperature, chunk by chunk."""

    def __init__(
        self, hidden_Th: torch.Tensor, weight: torch.Tensor, shard: VocabularyShard, temperature: float
    ) -> None:
        self.hidden_Th, self.temperature = hidden_Th, temperature
        self.weight_vh = weight[: shard.valid]
        self.rows = max(1, HEAD_CHUNK_BYTES // (4 * max(1, shard.valid)))

    def chunks(self, end: int, memory_Cv: torch.Tensor | None = None) -> Iterator[tuple[slice, torch.Tensor]]:
        """Places of chunks of tokens before `end` and their logits, float32 [C, v], one after the other.

        Only the first may be shorter than the others. Each takes the place of the one before it; `memory_Cv`
        is where to put them, a chunk of an earlier call.
        """
        hidden_Th, dtype = self.hidden_Th, self.hidden_Th.dtype
        shape = min(self.rows, end), len(self.weight_vh)
        # One buffer for all chunks: fresh memory would cost the CPU as much as the product.
        z_Cv = hidden_Th.new_empty(shape, dtype=torch.float32) if memory_Cv is None else memory_Cv
        product_Cv = z_Cv if dtype == torch.float32 else torch.empty_like(z_Cv, dtype=dtype)
        for stop in range((end - 1) % self.rows + 1, end + 1, self.rows):
            place = slice(max(0, stop - self.rows), stop)
            count = place.stop - place.start
            torch.mm(hidden_Th[place], self.weight_vh.T, out=product_Cv[:count])
            if z_Cv is not product_Cv:
                z_Cv[:count].copy_(product_Cv[:count])
            if self.temperature != 1:
                z_Cv[:count].div_(self.temperature)
            yield place, z_Cv[:count]

    def mean_logits(self, vocab: int) -> torch.Tensor:
        """This rank's part of the mean over the vocabulary, float32 [T], by the sum of the head's rows."""
        row_sum_h = self.weight_vh.sum(0, dtype=torch.float32)
        return (self.hidden_Th.float() @ row_sum_h) / (self.temperature * vocab)


def _blocks(place: slice, z_Cv: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """A chunk in blocks of tokens; on a CPU they are small enough to stay in its cache."""
    rows = len(z_Cv) if z_Cv.is_cuda else max(1, CACHED_BYTES // (4 * z_Cv.shape[1]))
    for start in range(0, len(z_Cv), rows):
        part = z_Cv[start : start + rows]
        yield slice(place.start + start, place.start + start + len(part)), part


class _Kept(NamedTuple):
    """The last chunk, whose product the backward pass need not take again."""

    place: slice
    z_Cv: torch.Tensor
    """Logits less this rank's peak."""
    lse_C: torch.Tensor
    """Of these."""


class _TokenStats(torch.autograd.Function):
    """(hidden, weight, targets) -> TokenStats; the gradient flows through the log-probs only."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_Th: torch.Tensor,
        weight: torch.Tensor,
        targets_T: torch.Tensor,
        shard: VocabularyShard,
        temperature: float,
        measured: bool,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        local_T = targets_T - shard.start
        here_T = (local_T >= 0) & (local_T < shard.valid)
        local_T = local_T.clamp(0, max(shard.valid - 1, 0))
        head = _Head(hidden_Th, weight, shard, temperature)
        own_peak_T = torch.full_like(targets_T, -torch.inf, dtype=torch.float32)
        total_T, target_T, weighted_T = (torch.zeros_like(own_peak_T) for _ in range(3))
        last: tuple[slice, torch.Tensor] | None = None
        exponentials = None
        for last in head.chunks(len(hidden_Th)) if shard.valid else ():
            for place, z_Bv in _blocks(*last):
                target_T[place] = z_Bv.gather(1, local_T[place, None])[:, 0].masked_fill_(~here_T[place], 0.0)
                own_peak_T[place] = peak_B = z_Bv.amax(dim=-1)
                z_Bv -= peak_B[:, None]
                if exponentials is None or len(exponentials) < len(z_Bv):  # the first chunk may be shorter
                    exponentials = torch.empty_like(z_Bv)
                e_Bv = torch.exp(z_Bv, out=exponentials[: len(z_Bv)])
                total_T[place] = e_Bv.sum(-1)
                if measured:
                    weighted_T[place] = e_Bv.mul_(z_Bv).sum(-1)
        peak_T = own_peak_T.clone()
        dist.all_reduce(peak_T, dist.ReduceOp.MAX, group=shard.group)
        shift_T = (own_peak_T - peak_T) if shard.valid else torch.zeros_like(peak_T)
        scale_T = shift_T.exp()
        sums = [total_T * scale_T, target_T]
        if measured:
            sums += [(weighted_T + shift_T * total_T) * scale_T, head.mean_logits(shard.vocab)]
        summed = torch.stack(sums)
        dist.all_reduce(summed, group=shard.group)
        total_T, target_T, *rest = summed
        log_total_T = total_T.log()
        lse_T = peak_T + log_total_T
        ctx.save_for_backward(hidden_Th, weight, local_T, here_T, lse_T)
        ctx.shard, ctx.temperature = shard, temperature
        ctx.kept = _Kept(*last, (log_total_T - shift_T)[last[0]]) if last else None
        if not measured:
            return target_T - lse_T, None, None
        weighted_T, mean_T = rest
        entropy_T = log_total_T - weighted_T / total_T
        self_certainty_T = lse_T - mean_T - math.log(shard.vocab)
        ctx.mark_non_differentiable(entropy_T, self_certainty_T)
        return target_T - lse_T, entropy_T, self_certainty_T

    @staticmethod
    def backward(ctx: Any, grad_T: torch.Tensor, *_: torch.Tensor) -> tuple:
        hidden_Th, weight, local_T, here_T, lse_T = ctx.saved_tensors
        shard = ctx.shard
        grad_T = grad_T / ctx.temperature
        head = _Head(hidden_Th, weight, shard, ctx.temperature)
        hidden_grad_Th = torch.zeros_like(hidden_Th)
        sum_vh = _gradient_sum(weight) if ctx.needs_input_grad[1] else None
        kept, ctx.kept = ctx.kept, None
        for chunk, z_Cv, lse_C in _again(head, kept, lse_T):
            for place, z_Bv in _blocks(chunk, z_Cv):
                grad_B = grad_T[place, None]
                z_Bv.sub_(lse_C[place.start - chunk.start : place.stop - chunk.start, None])
                z_Bv.exp_().mul_(-grad_B)
                z_Bv.scatter_add_(1, local_T[place, None], grad_B * here_T[place, None])
            grad_Cv = z_Cv.to(hidden_Th.dtype)
            torch.mm(grad_Cv, head.weight_vh, out=hidden_grad_Th[chunk])
            if sum_vh is not None:
                add_weight_gradient(hidden_Th[chunk], grad_Cv, sum_vh[: shard.valid])
        dist.all_reduce(hidden_grad_Th, group=shard.group)
        weight_grad = None if sum_vh is None else _handed_on(weight, sum_vh)
        return hidden_grad_Th, weight_grad, None, None, None, None


def _gradient_sum(weight: torch.Tensor) -> torch.Tensor:
    """Where to add up the weight's gradient, in float32: in bfloat16 every chunk would round the sum.

    That is Megatron's own sum over micro-batches where the weight has one, else fresh memory.
    """
    main_grad: torch.Tensor | None = vars(weight).get("main_grad")
    if main_grad is not None and main_grad.dtype == torch.float32:
        return main_grad
    return torch.zeros_like(weight, dtype=torch.float32)


def _handed_on(weight: torch.Tensor, sum_vh: torch.Tensor) -> torch.Tensor | None:
    """What autograd gets as the weight's gradient.

    If `sum_vh` is Megatron's own sum, nothing is left to hand on, as after Megatron's own linear layers: its
    hook wants to find a tensor all the same, whose values it does not read. A weight that is the embedding,
    too, gets the embedding's gradient, which the hook adds.
    """
    if sum_vh is not vars(weight).get("main_grad"):
        return sum_vh.to(weight.dtype)
    if vars(weight).get("zero_out_wgrad", False):
        return None
    weight.grad_added_to_main_grad = True  # type: ignore[attr-defined]
    return torch.empty_like(weight)


def _again(
    head: _Head, kept: _Kept | None, lse_T: torch.Tensor
) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
    """Every chunk's place, logits and their log-sum-exp: the kept one, then the others in its memory."""
    if kept is not None:
        yield kept
        for place, z_Cv in head.chunks(kept.place.start, kept.z_Cv):
            yield place, z_Cv, lse_T[place]


def token_stats(
    hidden_Th: torch.Tensor,
    weight: torch.Tensor,
    targets_T: torch.Tensor,
    shard: VocabularyShard,
    temperature: float,
    *,
    measured: bool,
) -> TokenStats:
    """Log-probs of `targets_T`, and where `measured` how sure the distributions are.

    `weight` is this TP rank's part of the head, [width, h]; `hidden_Th` are whole on every rank.
    """
    assert temperature > 0, f"a policy has no log-probs at temperature {temperature}"
    return TokenStats(*_TokenStats.apply(hidden_Th, weight, targets_T, shard, temperature, measured))
