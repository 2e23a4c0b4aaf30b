"""Bytes that forward and backward passes of the actor take on one rank, beside weights and gradients.

Counted from what the modules of actor/ save for the backward pass, tensor by tensor; benchmarks/plan.py
measures the same. Per token and layer, with h the hidden size, q, k and f the sizes of queries, keys and MLP
on a tensor-parallel rank, D the head size and b the bytes of the compute type:

    two norms        2h (input b or 8, output b)      under sequence parallelism divided by TP
    rotary angles    4D b                             sine and cosine for queries and for keys
    attention        3q b + 2q b                      query, repeated key and value; output, packed output
    MLP              5f b                             gate and value, activation, value, product

On a GPU a norm saves its input in the compute type; on a CPU torch composes it and saves two float32
tensors of the input's size. Norms of queries and keys (Qwen3) save theirs, too. `memory.recompute=selective`
keeps key and value before they are repeated and no unpacked output, full keeps a layer's input only, and one
layer lives at a time. Fewer key/value heads than TP ranks are counted as an even share.
"""

from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape, layers_per_stage
from megatron_coreward.config.precision import HEAD_CHUNK_BYTES
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import PRECISIONS, vocabulary_parameters

FLOAT32 = 4


@dataclass(frozen=True)
class Pass:
    """One micro-batch: `tokens` packed ones, of which `rows` predict response tokens."""

    tokens: int
    rows: int


@dataclass(frozen=True)
class Kernels:
    """Kernels of the device: the bytes of a value in their compute type, and whether norms are fused."""

    dtype: str
    fused_norm: bool

    @property
    def bytes_per_value(self) -> int:
        return PRECISIONS[self.dtype].weight

    @property
    def norm_input(self) -> int:
        """Bytes per value that a norm saves of its input."""
        return self.bytes_per_value if self.fused_norm else 2 * FLOAT32


def layer_bytes_per_token(config: Config, shape: ModelShape, kernels: Kernels, recompute: str) -> int:
    """Bytes that one layer keeps for the backward pass; `recompute` as memory.recompute."""
    tensor, size = config.parallel.tensor, kernels.bytes_per_value
    residual = shape.hidden // (tensor if config.parallel.sequence else 1)
    if recompute == "full":
        return residual * size
    queries = shape.heads * shape.head_dim // tensor
    fused = (shape.heads + 2 * shape.kv_heads) * shape.head_dim // tensor
    norms = 2 * (residual * (kernels.norm_input + size) + FLOAT32)
    mlp = 5 * shape.active_intermediate // tensor * size
    rotary = 4 * shape.head_dim * size
    return (
        norms + mlp + rotary + queries * size + _attention(shape, tensor, kernels, recompute, queries, fused)
    )


def _attention(
    shape: ModelShape, tensor: int, kernels: Kernels, recompute: str, queries: int, fused: int
) -> int:
    """Core attention and the norms before it, without the packed output."""
    size, keys = kernels.bytes_per_value, shape.kv_heads * shape.head_dim // tensor
    repeated = shape.heads > shape.kv_heads
    # A value that is not repeated is a view of the fused projection, all of which then stays.
    keeps_fused = recompute == "selective" or not repeated
    if recompute == "selective":
        total = (queries + keys) * size
    else:
        total = (3 * queries if repeated else 2 * queries) * size + queries * size
        total += shape.heads // tensor * FLOAT32  # log-sum-exp of every head
    if shape.family.qk_norm:
        total += queries * kernels.norm_input
        if kernels.norm_input >= 2 * size and size < FLOAT32:
            total += keys * kernels.norm_input  # float32 copies
        else:  # the key that the norm saves is a view, too
            keeps_fused, total = True, total + keys * (kernels.norm_input - size)
    return total + (fused * size if keeps_fused else 0)


def kept_bytes(config: Config, shape: ModelShape, kernels: Kernels, stage: int, packed: Pass) -> int:
    """Bytes that a micro-batch's layers keep on a rank of `stage` from forward to backward pass."""
    layers = layers_per_stage(shape.layers, config.parallel.pipeline)[stage]
    return layers * layer_bytes_per_token(config, shape, kernels, config.memory.recompute) * packed.tokens


def head_input_bytes(config: Config, shape: ModelShape, kernels: Kernels, packed: Pass) -> int:
    """Bytes that the final norm and the head keep of their inputs, on the last stage."""
    residual = shape.hidden // (config.parallel.tensor if config.parallel.sequence else 1)
    return (
        residual * kernels.norm_input * packed.tokens + shape.hidden * kernels.bytes_per_value * packed.rows
    )


def logits_bytes(config: Config, shape: ModelShape, kernels: Kernels, rows: int, *, backward: bool) -> int:
    """Most that head and log-probs (actor/compute/token_stats.py) hold at once, beside what is kept.

    Of a chunk of rows: logits, in a compute type of their own where that is not float32, and in the forward
    pass their exponentials. Backward, beside it: the gradients of the head's input and weight, the latter in
    float32 with a product of one chunk.
    """
    size = kernels.bytes_per_value
    columns = vocabulary_parameters(shape, config.parallel.tensor) // shape.hidden
    logits = min(rows, max(1, HEAD_CHUNK_BYTES // (FLOAT32 * columns))) * columns
    cast = size if size < FLOAT32 else 0
    forward = logits * (2 * FLOAT32 + cast)
    if not backward:
        return forward
    weight = columns * shape.hidden * (FLOAT32 + size + cast)
    return max(forward, logits * (FLOAT32 + 2 * cast) + weight + rows * shape.hidden * size)


def work_bytes(config: Config, shape: ModelShape, kernels: Kernels, stage: int, packed: Pass) -> int:
    """Most that a rank holds at once in forward and backward passes beside what its layers keep.

    Either the head with its input and log-probs, or a layer in the backward pass: what it computes again, and
    gradients of the MLP's two halves and of its input and output.
    """
    size, tensor = kernels.bytes_per_value, config.parallel.tensor
    full = config.memory.recompute == "full"
    again = layer_bytes_per_token(config, shape, kernels, "none") if full else 0
    gradients = (2 * shape.active_intermediate // tensor + 2 * shape.hidden) * size
    layer = packed.tokens * (again + gradients)
    if stage < config.parallel.pipeline - 1:
        return layer
    head = head_input_bytes(config, shape, kernels, packed)
    return max(layer, head + logits_bytes(config, shape, kernels, packed.rows, backward=True))


def forward_bytes(config: Config, shape: ModelShape, kernels: Kernels, stage: int, packed: Pass) -> int:
    """Most that a rank of `stage` holds at once where nothing is kept for a backward pass."""
    size, tensor = kernels.bytes_per_value, config.parallel.tensor
    layer = packed.tokens * (5 * shape.active_intermediate // tensor + 2 * shape.hidden) * size
    if stage < config.parallel.pipeline - 1:
        return layer
    return max(layer, logits_bytes(config, shape, kernels, packed.rows, backward=False))
