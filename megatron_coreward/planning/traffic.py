"""The bytes that ranks send each other in a step, and the idle share of a pipeline.

Counted per rank, with ring algorithms: in an all-reduce of S bytes over n ranks each sends 2 (n - 1) / n S,
in a reduce-scatter or all-gather half of it. The weight sync counts what one rank receives, shard by shard as
actor/weights/stream.py sends them.
"""

import math
from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape, layers_per_stage
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import (
    PRECISIONS,
    count_parameters_per_rank,
    expert_parameters,
    expert_replicas,
    experts_on_stage,
    layer_parameters,
    vocabulary_parameters,
)

ENGINE_VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of it; the same as in actor/weights/shares.py."""


@dataclass(frozen=True)
class StepTokens:
    """Tokens that one data-parallel rank computes on in a step; `rows` of them are response tokens."""

    tokens: int
    rows: int
    forward_passes: int
    """Passes without gradient: reference, old log-probs, confidence."""


def bubble(pipeline: int, micro_batches: int) -> float:
    """Idle share of a 1F1B pipeline's time: (p - 1) / (m + p - 1)."""
    return (pipeline - 1) / (micro_batches + pipeline - 1)


def all_reduce(num_bytes: float, ranks: int) -> float:
    """Bytes that each rank sends."""
    return 2 * (ranks - 1) / ranks * num_bytes


def tensor_parallel_bytes(config: Config, shape: ModelShape, step: StepTokens, dtype: str) -> float:
    """Bytes of a step, on a rank of the first stage.

    Two all-reduces per layer and pass, forward and backward; one of the embedding, one of the head's input
    gradient. Sequence parallelism sends the same in other pieces, and gathers two inputs a layer once more in
    the backward pass. `memory.recompute=full` repeats the forward pass.
    """
    tensor = config.parallel.tensor
    hidden = shape.hidden * PRECISIONS[dtype].weight
    layers = layers_per_stage(shape.layers, config.parallel.pipeline)[0]
    forwards = step.forward_passes + 1 + (config.memory.recompute == "full")
    per_token = 2 * layers * (forwards + 1) + forwards
    gathers = 2 * layers if config.parallel.sequence else 0  # half an all-reduce each
    reduced = step.tokens * (per_token + gathers / 2) + step.rows
    return all_reduce(reduced * hidden, tensor)


def pipeline_bytes(config: Config, shape: ModelShape, step: StepTokens, dtype: str) -> float:
    """Bytes of a step, on a rank of an inner stage: hidden states forward, their gradients backward."""
    if config.parallel.pipeline == 1:
        return 0.0
    share = config.parallel.tensor if config.parallel.sequence else 1
    return (step.forward_passes + 2) * step.tokens * shape.hidden * PRECISIONS[dtype].weight / share


def data_parallel_bytes(config: Config, shape: ModelShape, ranks: int, dtype: str) -> float:
    """Bytes of an optimizer step: float32 gradients are summed, or if distributed, sliced; then weights."""
    tensor, pipeline, expert = config.parallel.tensor, config.parallel.pipeline, config.parallel.expert
    experts = experts_on_stage(shape, pipeline, 0, expert)
    dense = count_parameters_per_rank(shape, tensor, pipeline, expert) - experts
    precision = PRECISIONS[dtype]
    total = 0.0
    for own, sharers in ((dense, ranks), (experts, expert_replicas(config, ranks))):
        if config.optimizer.distributed:
            total += (sharers - 1) / sharers * own * (precision.gradient + precision.weight)
        else:
            total += all_reduce(own * precision.gradient, sharers)
    return total


def expert_parallel_bytes(config: Config, shape: ModelShape, step: StepTokens, dtype: str) -> float:
    """Bytes of a step, on a rank of the first stage: tokens to their experts and back, and their gradients.

    Tokens are taken to be spread evenly over the experts.
    """
    expert = config.parallel.expert
    layers = layers_per_stage(shape.layers, config.parallel.pipeline)[0]
    passes = step.forward_passes + 2 + (config.memory.recompute == "full")
    copies = step.tokens / config.parallel.tensor * shape.active_experts * (expert - 1) / expert
    return 2 * passes * layers * copies * shape.hidden * PRECISIONS[dtype].weight


def weight_sync_bytes(config: Config, shape: ModelShape, dtype: str) -> int:
    """Most that a rank receives in one sync: along the pipeline, then from the other TP and expert ranks."""
    tensor, pipeline, expert = config.parallel.tensor, config.parallel.pipeline, config.parallel.expert
    along = max(_from_other_stages(shape, tensor, pipeline, stage, expert) for stage in range(pipeline))
    along += shape.layers * expert_parameters(shape) * (expert - 1) // expert
    vocabulary = vocabulary_parameters(shape, tensor) * (1 if shape.tied else 2)
    # What no cut makes smaller: norms, and what the expert ranks have sent.
    norms = 2 * layer_parameters(shape, 2, expert) - layer_parameters(shape, 1, expert)
    layers = shape.layers * (layer_parameters(shape, tensor, expert) - norms)
    engine = config.rollout.tensor_parallel_size
    padded = math.ceil(shape.vocab / ENGINE_VOCABULARY_MULTIPLE) * ENGINE_VOCABULARY_MULTIPLE
    own_vocabulary = math.ceil(shape.vocab / tensor)
    between = max(
        shards_received(1 / tensor, 1 / engine, 1.0, tensor, engine, group) * layers
        + shards_received(own_vocabulary, padded // engine, shape.vocab, tensor, engine, group) * vocabulary
        for group in range(max(1, engine // tensor))
    )
    return (along + between) * PRECISIONS[dtype].weight


def _from_other_stages(shape: ModelShape, tensor: int, pipeline: int, stage: int, expert: int) -> int:
    """Parameters that `stage` lacks; of two stages both have a tied embedding."""
    layers = shape.layers - layers_per_stage(shape.layers, pipeline)[stage]
    first, last = stage == 0, stage == pipeline - 1
    tables = int(pipeline > 2 and not first) if shape.tied else int(not first) + int(not last)
    norm = 0 if last else shape.hidden
    layer = layer_parameters(shape, tensor, expert)
    return layers * layer + tables * vocabulary_parameters(shape, tensor) + norm


def shards_received(
    actor_part: float, engine_part: float, size: float, tensor: int, engine: int, group: int
) -> int:
    """Most shards of one cut tensor that a rank of a tensor group receives from the others.

    The actor cuts `size` rows into parts of `actor_part`, the engine into parts of `engine_part`. A shard is
    broadcast in the group if another rank of it needs a row (WeightExporter._wanted_shards).
    """
    sent = set()
    for rank in range(tensor):
        part = (group * tensor + rank) % engine
        start, stop = part * engine_part, min((part + 1) * engine_part, size)
        for shard in range(tensor):
            overlap = min(stop, (shard + 1) * actor_part, size) - max(start, shard * actor_part)
            if shard != rank and overlap > 1e-9 * size:
                sent.add(shard)
    return max(len(sent - {rank}) for rank in range(tensor))
