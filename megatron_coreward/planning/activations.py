"""Bytes that forward and backward passes of the actor take on one rank, beside weights and gradients.

Counted from what the modules of actor/ save for the backward pass, tensor by tensor; benchmarks/plan.py
measures the same. Per token and layer, with h the hidden size, q, k and f the sizes of queries, keys and MLP
on a tensor-parallel rank, D the head size and b the bytes of the compute type:

    two norms        2h b                             input and output, under sequence parallelism over TP
    rotary angles    4D b                             sine and cosine for queries and for keys
    attention        (q + k) b + 2q b                 query and key; output, packed output
    projection       (q + 2k) b                       the value is a view of it
    MLP              3f b                             gate and value, product

Norms of queries and keys (Qwen3) save their inputs, too. `memory.recompute=selective` keeps no unpacked
output, full keeps a layer's input only, and one layer lives at a time. Fewer key/value heads than TP ranks
are counted as an even share. In float32 on a GPU, which is for tests, keys and values are repeated for each
query head, and more is kept than counted here.
"""

from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape, layers_per_stage
from megatron_coreward.config.precision import CACHED_BYTES, HEAD_CHUNK_BYTES
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import PRECISIONS, vocabulary_parameters

FLOAT32 = 4


@dataclass(frozen=True)
class Pass:
    """One micro-batch: `tokens` packed ones, of which `rows` predict response tokens."""

    tokens: int
    rows: int


def layer_bytes_per_token(config: Config, shape: ModelShape, dtype: str, recompute: str) -> int:
    """Bytes that one layer keeps for the backward pass; `recompute` as memory.recompute."""
    tensor, size = config.parallel.tensor, PRECISIONS[dtype].weight
    residual = shape.hidden // (tensor if config.parallel.sequence else 1)
    if recompute == "full":
        return residual * size
    queries, keys = (heads * shape.head_dim // tensor for heads in (shape.heads, shape.kv_heads))
    norms = 2 * (2 * residual * size + FLOAT32)
    attention = 2 * queries + keys + (queries + 2 * keys)
    if shape.family.qk_norm:
        attention += queries  # the key is a view of the projection
    sums = 0
    if recompute == "none":
        attention += queries
        sums = shape.heads // tensor * FLOAT32  # log-sum-exp of every head
    values = 4 * shape.head_dim + attention + 3 * shape.active_intermediate // tensor
    return norms + values * size + sums


def kept_bytes(config: Config, shape: ModelShape, dtype: str, stage: int, packed: Pass) -> int:
    """Bytes that a micro-batch's layers keep on a rank of `stage` from forward to backward pass."""
    layers = layers_per_stage(shape.layers, config.parallel.pipeline)[stage]
    return layers * layer_bytes_per_token(config, shape, dtype, config.memory.recompute) * packed.tokens


def head_input_bytes(config: Config, shape: ModelShape, dtype: str, packed: Pass) -> int:
    """Bytes that the final norm and the head keep of their inputs, on the last stage."""
    residual = shape.hidden // (config.parallel.tensor if config.parallel.sequence else 1)
    return (residual * packed.tokens + shape.hidden * packed.rows) * PRECISIONS[dtype].weight


def logits_bytes(
    config: Config, shape: ModelShape, dtype: str, rows: int, *, backward: bool, on_gpu: bool
) -> int:
    """Most that head and log-probs (actor/compute/token_stats.py) hold at once, beside what is kept.

    Of a chunk of rows: logits, in a compute type of their own where that is not float32, and in the forward
    pass their exponentials, of which a CPU has a small block only. Backward, beside it: the gradient
    of the head's input; a chunk's product for the weight's, which is added to the sum over micro-batches at
    once where both are float32; and the tensor without meaning that Megatron's hook wants, unless the weight
    is the same stage's embedding, too.
    """
    size = PRECISIONS[dtype].weight
    columns = vocabulary_parameters(shape, config.parallel.tensor) // shape.hidden
    logits = min(rows, max(1, HEAD_CHUNK_BYTES // (FLOAT32 * columns))) * columns
    cast = size if size < FLOAT32 else 0
    exponentials = logits * FLOAT32
    forward = logits * (FLOAT32 + cast) + (exponentials if on_gpu else min(CACHED_BYTES, exponentials))
    if not backward:
        return forward
    handed_on = 0 if shape.tied and config.parallel.pipeline == 1 else size
    weight = columns * shape.hidden * max(cast, handed_on)
    return max(forward, logits * (FLOAT32 + 2 * cast) + weight + rows * shape.hidden * size)


def work_bytes(
    config: Config, shape: ModelShape, dtype: str, stage: int, packed: Pass, *, on_gpu: bool
) -> int:
    """Most that a rank holds at once in forward and backward passes beside what its layers keep.

    Either the head with its input and log-probs, or a layer in the backward pass: what it computes again, and
    gradients of the MLP's two halves and of its input and output.
    """
    size, tensor = PRECISIONS[dtype].weight, config.parallel.tensor
    full = config.memory.recompute == "full"
    again = layer_bytes_per_token(config, shape, dtype, "none") if full else 0
    gradients = (2 * shape.active_intermediate // tensor + 2 * shape.hidden) * size
    layer = packed.tokens * (again + gradients)
    if stage < config.parallel.pipeline - 1:
        return layer
    head = head_input_bytes(config, shape, dtype, packed)
    logits = logits_bytes(config, shape, dtype, packed.rows, backward=True, on_gpu=on_gpu)
    return max(layer, head + logits)


def forward_bytes(
    config: Config, shape: ModelShape, dtype: str, stage: int, packed: Pass, *, on_gpu: bool
) -> int:
    """Most that a rank of `stage` holds at once where nothing is kept for a backward pass."""
    size, tensor = PRECISIONS[dtype].weight, config.parallel.tensor
    layer = packed.tokens * (5 * shape.active_intermediate // tensor + 2 * shape.hidden) * size
    if stage < config.parallel.pipeline - 1:
        return layer
    return max(layer, logits_bytes(config, shape, dtype, packed.rows, backward=False, on_gpu=on_gpu))
