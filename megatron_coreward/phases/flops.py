"""Floating-point operations of the actor's passes over packed responses; whole model, all ranks together.

A multiplication and an addition count two. Only matrix products count: those of the linear layers and the two
of attention. torch.utils.flop_counter counts the same way, but whole squares of attention scores
(`causal=False`) where a causal kernel computes half of them. Imports no torch.
"""

from collections.abc import Iterable, Sequence

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import HEAD_CHUNK_BYTES


def linear_flops_per_token(shape: ModelShape) -> int:
    """Forward, all layers without the head."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    weights = shape.hidden * (2 * queries + 2 * keys + 3 * shape.active_intermediate + shape.experts)
    return 2 * weights * shape.layers


def head_flops(shape: ModelShape, rows: int) -> int:
    """Forward, for the rows whose logits are wanted."""
    return 2 * shape.hidden * shape.vocab * rows


def attention_flops(shape: ModelShape, lengths: Sequence[int], *, causal: bool = True) -> int:
    """Forward, all layers: scores and their product with the values."""
    squares = sum(length * length for length in lengths)
    whole = 4 * shape.heads * shape.head_dim * shape.layers * squares
    return whole // 2 if causal else whole


def forward_flops(shape: ModelShape, lengths: Sequence[int], rows: int, *, causal: bool = True) -> int:
    """Forward pass over sequences of these `lengths`, `rows` of whose tokens are response tokens."""
    linear = linear_flops_per_token(shape) * sum(lengths) + head_flops(shape, rows)
    return linear + attention_flops(shape, lengths, causal=causal)


def training_flops(
    shape: ModelShape, lengths: Sequence[int], rows: int, *, recompute: str = "none", causal: bool = True
) -> int:
    """Forward and backward of a micro-batch without TP; `recompute` as memory.recompute.

    Backward takes twice the linear layers' forward, five products for the two of attention (the scores are
    computed again), and the head's product again but for the last chunk (actor/compute/token_stats.py).
    """
    attention = attention_flops(shape, lengths, causal=causal)
    linear = linear_flops_per_token(shape) * sum(lengths)
    again = max(0, rows - max(1, HEAD_CHUNK_BYTES // (4 * shape.vocab)))
    total = 3 * linear + head_flops(shape, 3 * rows + again) + attention * 7 // 2
    if recompute == "full":
        total += linear + attention
    elif recompute == "selective":
        total += attention
    return total


def useful_flops(shape: ModelShape, groups: Iterable[tuple[int, Sequence[int]]]) -> int:
    """Forward pass that computes each distinct token once; backward takes twice as many.

    `groups` are the length of a prompt and those of the responses that share it. Of these each has the
    prompt's last token to predict its first one from, so that one row of logits is shared as well. What is
    computed again (recompute, scores in backward) does not count.
    """
    return sum(
        forward_flops(shape, [prompt + response for response in responses], sum(responses))
        - (len(responses) - 1) * forward_flops(shape, [prompt], 1)
        for prompt, responses in groups
    )
