"""The bytes that a rank receives in a weight sync, shard by shard as actor/weights/stream.py sends them."""

import math

from megatron_coreward.config.model_shape import VLLM_VOCABULARY_MULTIPLE, ModelShape, layers_per_stage
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import (
    PRECISIONS,
    expert_parameters,
    layer_parameters,
    vocabulary_parameters,
)


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
    padded = math.ceil(shape.vocab / VLLM_VOCABULARY_MULTIPLE) * VLLM_VOCABULARY_MULTIPLE
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
