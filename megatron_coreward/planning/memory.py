"""Memory of one rank by phase of a step, and which phase is the fullest.

What is on the device in which phase is the table of phases/table.py. In the sync before the first step vLLM,
which has just been built, is awake as a whole: the phase "first sync" here. Sequences are planned at their
longest, micro-batches at their token budget.
"""

import math
from dataclasses import dataclass

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import resolve_dtype, wanted
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import method_of
from megatron_coreward.phases.table import PHASES, Needs
from megatron_coreward.planning.activations import Pass, forward_bytes, kept_bytes, work_bytes
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.preflight.costs import (
    GIB,
    MIB,
    PRECISIONS,
    batch_arithmetic,
    kv_cache_bytes_per_token,
    memory_per_rank,
    vocabulary_parameters,
)
from megatron_coreward.roles import KV_CACHE, WEIGHTS

FIRST_SYNC = "first sync"


@dataclass(frozen=True)
class PhaseMemory:
    """One phase on a rank of its fullest pipeline stage: part -> bytes."""

    phase: str
    stage: int
    parts: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryPlan:
    """All phases of a run in their order, and vLLM's cache."""

    phases: list[PhaseMemory]
    kv_cache_bytes: int
    """Bytes that are left for it; below 0: vLLM does not start."""
    sequences: int
    """Sequences of full length that the KV cache of a replica holds."""

    @property
    def fullest(self) -> PhaseMemory:
        return max(self.phases, key=lambda phase: phase.total)


def run_dtype(config: Config, cluster: Cluster) -> str:
    """The compute type of the planned run."""
    return resolve_dtype(config.model.dtype, on_gpu=cluster.on_gpu)


def full_length(config: Config) -> int:
    """Tokens of the longest sequence, prompt and response."""
    return config.data.max_prompt_tokens + config.rollout.max_response_tokens


def plan_memory(config: Config, shape: ModelShape, cluster: Cluster) -> MemoryPlan:
    """Raises nothing for a layout that does not fit: compare with `cluster.usable_bytes`."""
    dtype = run_dtype(config, cluster)
    engine = _engine_parts(config, shape, cluster, dtype)
    needs = {FIRST_SYNC: PHASES["rollout"]} | {name: PHASES[name] for name in _phases_of(config)}
    phases = [_fullest_stage(config, shape, cluster, name, need, engine) for name, need in needs.items()]
    return MemoryPlan(phases, engine["KV cache"], kv_cache_sequences(config, shape, cluster))


def kv_cache_sequences(config: Config, shape: ModelShape, cluster: Cluster) -> int:
    """Sequences of full length that the KV cache of a replica holds."""
    dtype = run_dtype(config, cluster)
    per_sequence = kv_cache_bytes_per_token(config, shape, dtype) * full_length(config)
    return max(0, _engine_parts(config, shape, cluster, dtype)["KV cache"]) // per_sequence


def _phases_of(config: Config) -> list[str]:
    """The phases that this run has, without those that need what rollout or log_probs does."""
    method = method_of(config)
    runs = {
        "teacher": method.teacher,
        "confidence": method.confidence,
        "log_probs": config.algorithm.kl_coef > 0 or config.algorithm.updates_per_batch > 1,
        "verify": False,
        "evaluate": False,
        "probe": False,
    }
    return [name for name in PHASES if runs.get(name, True)]


def _engine_parts(config: Config, shape: ModelShape, cluster: Cluster, dtype: str) -> dict[str, int]:
    """vLLM's part -> bytes. On a GPU its cache takes what is left of rollout.gpu_memory_utilization."""
    static = memory_per_rank(config, shape, dtype)
    weights, cache = static["vLLM weights"], static["KV cache"]
    if not cluster.on_gpu:
        return {"vLLM weights": weights, "KV cache": cache}
    buffers = int(cluster.engine_gib * GIB)
    budget = int(config.rollout.gpu_memory_utilization * cluster.memory_gib * GIB)
    return {"vLLM weights": weights, "vLLM buffers": buffers, "KV cache": budget - weights - buffers}


def _fullest_stage(
    config: Config, shape: ModelShape, cluster: Cluster, name: str, needs: Needs, engine: dict[str, int]
) -> PhaseMemory:
    last = config.parallel.pipeline - 1
    stages = sorted({0, min(1, last), last})  # those between hold no more than the second
    candidates = [
        PhaseMemory(name, stage, _parts(config, shape, cluster, name, needs, engine, stage))
        for stage in stages
    ]
    return max(candidates, key=lambda phase: phase.total)


def _parts(
    config: Config,
    shape: ModelShape,
    cluster: Cluster,
    name: str,
    needs: Needs,
    engine: dict[str, int],
    stage: int,
) -> dict[str, int]:
    dtype, on_gpu = run_dtype(config, cluster), cluster.on_gpu
    data_parallel = cluster.gpus // (config.parallel.tensor * config.parallel.pipeline)
    static = memory_per_rank(config, shape, dtype, data_parallel=data_parallel, stage=stage)
    reference = "teacher" if method_of(config).teacher else "reference"
    parts = {"weights": static["weights"]}
    if needs.optimizer or not wanted(config.memory.offload_optimizer, on_gpu=on_gpu):
        parts |= {part: static[part] for part in ("gradients", "optimizer")}
    if needs.reference or not wanted(config.memory.offload_reference, on_gpu=on_gpu):
        parts[reference] = static[reference]
    sleeps = wanted(config.memory.rollout_sleep, on_gpu=on_gpu)
    if WEIGHTS in needs.engine or not sleeps:
        parts |= {part: size for part, size in engine.items() if part != "KV cache"}
    if KV_CACHE in needs.engine or not sleeps:
        parts["KV cache"] = max(0, engine["KV cache"])
    return parts | _work(config, shape, cluster, name, stage)


def packed_pass(config: Config, cluster: Cluster) -> Pass:
    """The largest micro-batch: as many tokens as fit the budget or the longest response, all of them rows."""
    batch = batch_arithmetic(config, cluster.gpus, config.data.batch_pairs)
    longest = batch.tokens_per_response
    tokens = min(max(config.optimizer.micro_batch_tokens, longest), batch.per_rank * longest)
    return Pass(tokens, tokens)


def _work(config: Config, shape: ModelShape, cluster: Cluster, name: str, stage: int) -> dict[str, int]:
    """Memory that a phase computes with, beside what the table moves."""
    dtype, on_gpu = run_dtype(config, cluster), cluster.on_gpu
    packed = packed_pass(config, cluster)
    if name in ("log_probs", "confidence"):
        return {"forward pass": forward_bytes(config, shape, dtype, stage, packed, on_gpu=on_gpu)}
    if name == "update":
        in_flight = min(config.parallel.pipeline - stage, micro_batches(config, cluster))
        return {
            "activations": in_flight * kept_bytes(config, shape, dtype, stage, packed),
            "backward pass": work_bytes(config, shape, dtype, stage, packed, on_gpu=on_gpu),
        }
    if name in (FIRST_SYNC, "sync", "teacher"):
        # Bucket, whole tensor and the engine's copy of it: "extra memory" in docs/evidence/weight_sync.md.
        whole = vocabulary_parameters(shape, 1) * PRECISIONS[dtype].weight
        return {"buckets": 3 * max(config.weight_sync.bucket_mb * MIB, whole)}
    return {}


def micro_batches(config: Config, cluster: Cluster) -> int:
    """Micro-batches of an optimizer step on one data-parallel rank, all responses at full length."""
    batch = batch_arithmetic(config, cluster.gpus, config.data.batch_pairs)
    return math.ceil(batch.micro_batches / config.algorithm.updates_per_batch)
