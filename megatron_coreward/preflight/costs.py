"""The cost of a run, computed from its configuration: batch arithmetic, parameters, memory, disk.

Pure functions of the configuration and the model's sizes; nothing is built and torch is not imported.
Bytes per parameter follow Megatron-Core's mixed precision: with bfloat16, weights take 2, the gradient
buffer 4 and the optimizer 12 (float32 copy and two moments); with float32 4, 4 and 8 (two moments).
"""

import math
from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape, layers_per_stage
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import method_of, views_of

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True)
class Precision:
    """Bytes per parameter."""

    weight: int
    gradient: int
    optimizer: int


PRECISIONS = {"float32": Precision(4, 4, 8), "bfloat16": Precision(2, 4, 12)}

TEACHER_BYTES = 8
"""Bytes per parameter of the teacher's float32 average and of its rest (actor/teacher.py)."""


@dataclass(frozen=True)
class BatchArithmetic:
    """How one rollout batch is divided.

    `responses` are trained on, `drawn` include those that only vote, `by_teacher` are the teacher's.
    `per_rank` are trained ones per data-parallel rank, `per_replica` drawn ones per rollout replica.
    `micro_batches` assumes that every response has full length.
    """

    pairs: int
    views: int
    responses: int
    drawn: int
    by_teacher: int
    data_parallel: int
    per_rank: int
    replicas: int
    per_replica: int
    tokens_per_response: int
    micro_batches: int
    pairs_in_data: int
    steps_per_epoch: int
    steps: int
    optimizer_steps: int


def planned_pairs(config: Config) -> int:
    """Pairs to plan for where the data cannot be read."""
    data = config.data
    return data.limit or (data.synthetic_pairs if data.source == "synthetic" else data.batch_pairs)


def batch_arithmetic(config: Config, world_size: int, pairs_in_data: int) -> BatchArithmetic:
    """Divides the batch over ranks and micro-batches. Data smaller than a batch makes smaller batches."""
    pairs = min(config.data.batch_pairs, pairs_in_data)
    data_parallel = world_size // (config.parallel.tensor * config.parallel.pipeline)
    replicas = world_size // config.rollout.tensor_parallel_size
    views = len(views_of(config))
    responses = pairs * views * config.rollout.samples
    drawn = pairs * views * config.rollout.drawn
    teacher_samples = config.teacher.samples or config.rollout.samples
    tokens = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    per_rank = math.ceil(responses / data_parallel)
    per_micro_batch = max(1, config.optimizer.micro_batch_tokens // tokens)
    steps_per_epoch = pairs_in_data // pairs
    steps = config.run.steps or config.run.epochs * steps_per_epoch
    return BatchArithmetic(
        pairs=pairs,
        views=views,
        responses=responses,
        drawn=drawn,
        by_teacher=pairs * views * teacher_samples if method_of(config).teacher else 0,
        data_parallel=data_parallel,
        per_rank=per_rank,
        replicas=replicas,
        per_replica=math.ceil(drawn / replicas),
        tokens_per_response=tokens,
        micro_batches=math.ceil(per_rank / per_micro_batch),
        pairs_in_data=pairs_in_data,
        steps_per_epoch=steps_per_epoch,
        steps=steps,
        optimizer_steps=steps * config.algorithm.updates_per_batch,
    )


def count_parameters(shape: ModelShape) -> int:
    """Parameters of the whole model; tied embeddings count once, as in transformers."""
    head = 0 if shape.tied else shape.vocab * shape.hidden
    embedding = shape.vocab * shape.hidden
    return embedding + shape.layers * layer_parameters(shape, tensor=1) + shape.hidden + head


def count_parameters_on_stage(
    shape: ModelShape, tensor: int, pipeline: int, stage: int, expert: int = 1
) -> int:
    """Parameters on a rank of pipeline stage `stage`.

    The vocabulary is padded to a multiple of `tensor`. With tied embeddings and more than one stage, the
    last stage holds a copy of the embedding.
    """
    first, last = stage == 0, stage == pipeline - 1
    tables = int(first) + int(last and not (first and shape.tied))
    norm = shape.hidden if last else 0
    layers = layers_per_stage(shape.layers, pipeline)[stage]
    layer = layer_parameters(shape, tensor, expert)
    return layers * layer + tables * vocabulary_parameters(shape, tensor) + norm


def count_parameters_per_rank(shape: ModelShape, tensor: int, pipeline: int, expert: int = 1) -> int:
    """Parameters on a rank of the fullest pipeline stage."""
    stages = range(pipeline)
    return max(count_parameters_on_stage(shape, tensor, pipeline, stage, expert) for stage in stages)


def experts_on_stage(shape: ModelShape, pipeline: int, stage: int, expert: int) -> int:
    """Parameters of experts on a rank of `stage`; count_parameters_on_stage includes them."""
    return layers_per_stage(shape.layers, pipeline)[stage] * expert_parameters(shape) // expert


def expert_replicas(config: Config, data_parallel: int) -> int:
    """Ranks that hold the same experts."""
    return max(1, data_parallel * config.parallel.tensor // config.parallel.expert)


def memory_per_rank(
    config: Config, shape: ModelShape, dtype: str, *, data_parallel: int = 1, stage: int | None = None
) -> dict[str, int]:
    """Bytes on one rank of `stage` (by default the fullest), by their use.

    `data_parallel` ranks share Adam's state where optimizer.distributed says so, and others that of experts.
    The KV cache is that of CPU runs (rollout.memory_gb). Activations, logits and libraries come on top.
    """
    precision = PRECISIONS[dtype]
    tensor, pipeline, expert = config.parallel.tensor, config.parallel.pipeline, config.parallel.expert
    if stage is None:
        stage = max(
            range(pipeline), key=lambda s: count_parameters_on_stage(shape, tensor, pipeline, s, expert)
        )
    own = count_parameters_on_stage(shape, tensor, pipeline, stage, expert)
    experts = experts_on_stage(shape, pipeline, stage, expert)
    teacher = method_of(config).teacher
    reference = own * precision.weight if teacher or config.algorithm.kl_coef else 0
    if teacher:  # in float32 the weights that compute are the average
        reference += own * (TEACHER_BYTES - (precision.weight if dtype == "float32" else 0))
    sharers = data_parallel if config.optimizer.distributed else 1
    of_experts = expert_replicas(config, data_parallel) if config.optimizer.distributed else 1
    adam = math.ceil((own - experts) / sharers) + math.ceil(experts / of_experts)
    return {
        "weights": own * precision.weight,
        "gradients": own * precision.gradient,
        "optimizer": adam * precision.optimizer,
        "teacher" if teacher else "reference": reference,
        "vLLM weights": count_parameters(shape) * precision.weight // config.rollout.tensor_parallel_size,
        "KV cache": int(config.rollout.memory_gb * GIB),
    }


def kv_cache_bytes_per_token(config: Config, shape: ModelShape, dtype: str) -> int:
    """Keys and values of one token on one rank of a replica; vLLM copies heads where ranks outnumber them."""
    heads = max(1, shape.kv_heads // config.rollout.tensor_parallel_size)
    return 2 * shape.layers * heads * shape.head_dim * PRECISIONS[dtype].weight


def kv_cache_tokens(config: Config, shape: ModelShape, dtype: str) -> int:
    """Tokens that the KV cache of rollout.memory_gb holds, over all ranks of a replica."""
    return int(config.rollout.memory_gb * GIB) // kv_cache_bytes_per_token(config, shape, dtype)


def disk(config: Config, shape: ModelShape, batch: BatchArithmetic, dtype: str) -> dict[str, int]:
    """Bytes on disk by kind of file.

    A checkpoint holds weights, optimizer and the teacher's average. While a new one is written the oldest is
    still there, hence one more than the checkpoint.keep_* rules keep. Rollouts are an upper bound: 4 bytes of
    text per token, no compression, every response at full length.
    """
    precision = PRECISIONS[dtype]
    parameters = count_parameters(shape)
    average = TEACHER_BYTES if method_of(config).teacher else 0
    checkpoint = parameters * (precision.weight + precision.optimizer + average)
    written = math.ceil(batch.steps / config.checkpoint.every) if config.checkpoint.every else 1
    rules = config.checkpoint
    milestones = batch.steps // rules.keep_every if rules.keep_every else 0
    kept = min(written, rules.keep_last + milestones + rules.keep_best + 1) if rules.keep_last else written
    rollouts = batch.steps * batch.drawn * batch.tokens_per_response * 4 if config.logging.rollouts else 0
    return {
        "one checkpoint": checkpoint,
        "checkpoints kept": checkpoint * kept,
        "rollouts, at most": rollouts,
        "final export": parameters * precision.weight if config.run.export_hf else 0,
    }


def vocabulary_parameters(shape: ModelShape, tensor: int) -> int:
    """Embedding or head on one tensor-parallel rank, padding included."""
    return math.ceil(shape.vocab / tensor) * shape.hidden


def layer_parameters(shape: ModelShape, tensor: int, expert: int = 1) -> int:
    """One layer on one tensor-parallel rank; norms and the router are on every rank, experts are whole."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = (queries + 2 * keys) * shape.hidden + queries * shape.hidden
    bias = queries + 2 * keys if shape.family.qkv_bias else 0
    norms = 2 * shape.hidden + (2 * shape.head_dim if shape.family.qk_norm else 0)
    if shape.experts:
        router = shape.hidden * shape.experts
        return (attention + bias) // tensor + norms + router + expert_parameters(shape) // expert
    mlp = 3 * shape.hidden * shape.intermediate
    return (attention + bias + mlp) // tensor + norms


def expert_parameters(shape: ModelShape) -> int:
    """All experts of one layer."""
    return 3 * shape.hidden * shape.intermediate * shape.experts
