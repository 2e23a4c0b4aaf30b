"""Seconds of a step by phase, from the stated numbers of a device: an estimate, never a measurement.

Compute and communication are added, not overlapped. Reward, data and the Python between are left out.
Rollout: as many sequences decode together as the KV cache and rollout.max_num_seqs let; a decoding step reads
the weights and all keys and values of the sequences, which are half their final length on average; a prompt
is read once for all its responses. Devices are as fast as planning/devices.py assumes.
"""

import math
from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import method_of
from megatron_coreward.planning import traffic
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.flops import (
    attention_flops,
    forward_flops,
    head_flops,
    linear_flops_per_token,
    training_flops,
)
from megatron_coreward.planning.memory import MemoryPlan, run_dtype, wanted
from megatron_coreward.preflight.costs import (
    PRECISIONS,
    batch_arithmetic,
    count_parameters,
    kv_cache_bytes_per_token,
    memory_per_rank,
)


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a prompt and of a response."""

    prompt: int
    response: int

    @property
    def total(self) -> int:
        return self.prompt + self.response


@dataclass(frozen=True)
class StepPlan:
    """Estimates for one step: seconds by phase, and bytes by kind that a rank sends (of a sync: receives)."""

    seconds: dict[str, float]
    sent: dict[str, float]
    micro_batches: int
    bubble: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def plan_step(
    config: Config, shape: ModelShape, cluster: Cluster, memory: MemoryPlan, lengths: Lengths
) -> StepPlan:
    """Estimates a step. The layout must be one that divides, with room for a sequence in the KV cache."""
    batch = batch_arithmetic(config, cluster.gpus, config.data.batch_pairs)
    dtype, method, updates = run_dtype(config, cluster), method_of(config), config.algorithm.updates_per_batch
    pipeline, rank = config.parallel.pipeline, batch.per_rank
    together = max(1, config.optimizer.micro_batch_tokens // lengths.total)
    micro_batches = math.ceil(math.ceil(rank / updates) / together)
    idle = traffic.bubble(pipeline, micro_batches)
    passes = int(config.algorithm.kl_coef > 0) + int(updates > 1)
    step = traffic.StepTokens(rank * lengths.total, rank * lengths.response, passes + int(method.confidence))
    sent = {
        "tensor parallel": traffic.tensor_parallel_bytes(config, shape, step, dtype),
        "pipeline": traffic.pipeline_bytes(config, shape, step, dtype),
        "experts": traffic.expert_parallel_bytes(config, shape, step, dtype),
        "gradients": updates * traffic.data_parallel_bytes(config, shape, batch.data_parallel, dtype),
        "weight sync": float(traffic.weight_sync_bytes(config, shape, dtype)),
    }
    talking = _model_parallel_seconds(config, cluster, sent)
    share = 1 / (step.forward_passes + 2)  # of the talking, per forward pass and for the backward one
    compute = cluster.gpus // batch.data_parallel * cluster.device.tflops * 1e12 * (1 - idle)
    compute *= cluster.assumptions.training
    sequences = [lengths.total] * rank
    forward = forward_flops(shape, sequences, step.rows) / compute + talking * share
    train = training_flops(shape, sequences, step.rows, recompute=config.memory.recompute) / compute
    seconds = {"rollout": _rollout_seconds(config, shape, cluster, memory, lengths, batch.per_replica)}
    if method.teacher:
        asked = math.ceil(batch.by_teacher / batch.replicas)
        sync = _sync_seconds(config, shape, cluster, sent["weight sync"])
        seconds["teacher"] = sync + _rollout_seconds(config, shape, cluster, memory, lengths, asked)
    if method.confidence:
        seconds["confidence"] = forward
    if passes:
        seconds["log_probs"] = passes * forward
    optimizer = _optimizer_seconds(config, shape, cluster, batch.data_parallel)
    reduce = sent["gradients"] / cluster.link(batch.data_parallel * config.parallel.tensor)
    seconds["update"] = train + 2 * talking * share + reduce + updates * optimizer
    seconds["sync"] = _sync_seconds(config, shape, cluster, sent["weight sync"])
    seconds["moves"] = _move_seconds(config, shape, cluster, batch.data_parallel)
    return StepPlan(seconds, sent, micro_batches, idle)


def _model_parallel_seconds(config: Config, cluster: Cluster, sent: dict[str, float]) -> float:
    tensor = sent["tensor parallel"] / cluster.link(config.parallel.tensor)
    # Stages are as far apart as ranks can be: tensor first, then data, then pipeline.
    experts = sent["experts"] / cluster.link(config.parallel.expert)
    return tensor + experts + sent["pipeline"] / cluster.link(cluster.gpus)


def _rollout_seconds(
    config: Config, shape: ModelShape, cluster: Cluster, memory: MemoryPlan, lengths: Lengths, responses: int
) -> float:
    """A replica's time for `responses`."""
    device, assumed, dtype = cluster.device, cluster.assumptions, run_dtype(config, cluster)
    tensor, size = config.rollout.tensor_parallel_size, PRECISIONS[dtype].weight
    # The cache holds `sequences` of full length, and more of shorter ones; the count stays on the safe side.
    together = max(1, min(config.rollout.max_num_seqs, memory.sequences, responses))
    context = lengths.prompt + lengths.response / 2
    weights = count_parameters(shape) * size / tensor
    cache = together * context * kv_cache_bytes_per_token(config, shape, dtype)
    reading = (weights + cache) / (device.hbm_gbs * 1e9 * assumed.bandwidth)
    token = linear_flops_per_token(shape) + head_flops(shape, 1)
    computing = together * token / (tensor * device.tflops * 1e12 * assumed.training)
    reduced = 2 * shape.layers * together * shape.hidden * size
    talking = traffic.all_reduce(reduced, tensor) / cluster.link(tensor)
    decode = max(reading, computing) + talking + assumed.decode_overhead_s
    prompts = math.ceil(responses / config.rollout.drawn)
    read = prompts * (
        linear_flops_per_token(shape) * lengths.prompt + attention_flops(shape, [lengths.prompt])
    )
    prefill = read / (tensor * device.tflops * 1e12 * assumed.prefill)
    return prefill + lengths.response * responses / together * decode


def _optimizer_seconds(config: Config, shape: ModelShape, cluster: Cluster, data_parallel: int) -> float:
    """State and gradients are read and written once."""
    static = memory_per_rank(config, shape, run_dtype(config, cluster), data_parallel=data_parallel)
    moved = 2 * (static["optimizer"] + static["gradients"] + static["weights"])
    return moved / (cluster.device.hbm_gbs * 1e9 * cluster.assumptions.bandwidth)


def _sync_seconds(config: Config, shape: ModelShape, cluster: Cluster, received: float) -> float:
    """Receives the weights, and copies the whole model once into vLLM's tensors."""
    copied = 2 * count_parameters(shape) * PRECISIONS[run_dtype(config, cluster)].weight
    span = config.parallel.tensor if config.parallel.pipeline == 1 else cluster.gpus
    copying = copied / (cluster.device.hbm_gbs * 1e9 * cluster.assumptions.bandwidth)
    return received / cluster.link(span) + copying


def _move_seconds(config: Config, shape: ModelShape, cluster: Cluster, data_parallel: int) -> float:
    """Optimizer state to main memory and back; the reference, which does not change, back only."""
    static = memory_per_rank(config, shape, run_dtype(config, cluster), data_parallel=data_parallel)
    reference = static.get("teacher", 0) * 2 or static.get("reference", 0)
    moved = 0
    if wanted(config.memory.offload_optimizer, on_gpu=cluster.device.is_gpu):
        moved += 2 * static["optimizer"]
    if wanted(config.memory.offload_reference, on_gpu=cluster.device.is_gpu):
        moved += reference
    return moved / (cluster.device.host_gbs * 1e9 * cluster.assumptions.bandwidth)
