"""Tells whether a layout works, and finds the first one that does.

A layout works if preflight/checks.py lets it pass, every phase fits into a device's memory, and vLLM's KV
cache holds at least one sequence of full length. Layouts are tried in one order: fewest devices, then least
model parallelism (tensor x pipeline, then expert), then fewest changed keys, of which those that save memory
and rollout.tensor_parallel_size are tried. Speed plays no part: no GPU has been measured.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import Any

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.memory import MemoryPlan, full_length, plan_memory
from megatron_coreward.preflight.checks import validate_layout
from megatron_coreward.preflight.costs import GIB

UTILIZATIONS = (0.5, 0.4, 0.3)
"""Tried for rollout.gpu_memory_utilization where they are below what is given."""
LARGEST_FACTOR = 64
"""At most this many times the given number of devices is tried."""


@dataclass(frozen=True)
class Plan:
    """A configuration on a cluster. Without `memory` it does not divide."""

    config: Config
    shape: ModelShape
    cluster: Cluster
    problems: list[str]
    memory: MemoryPlan | None = None

    @property
    def works(self) -> bool:
        return not self.problems


def make_plan(config: Config, shape: ModelShape, cluster: Cluster) -> Plan:
    """The plan with its problems; a layout that does not divide has no figures."""
    try:
        validate_layout(config, shape, cluster.gpus)
    except ValueError as error:
        return Plan(config, shape, cluster, [str(error)])
    memory = plan_memory(config, shape, cluster)
    return Plan(config, shape, cluster, memory_problems(config, cluster, memory), memory)


def memory_problems(config: Config, cluster: Cluster, memory: MemoryPlan) -> list[str]:
    """Messages about what does not fit, with the keys that it depends on."""
    problems = []
    usable, on_gpu = cluster.usable_bytes, cluster.on_gpu
    key = "rollout.gpu_memory_utilization" if on_gpu else "rollout.memory_gb"
    given = config.rollout.gpu_memory_utilization if on_gpu else config.rollout.memory_gb
    if memory.sequences < 1:
        problems.append(
            f"{key} is {given:g}, which leaves {memory.kv_cache_bytes / GIB:.1f} GiB for vLLM's KV cache "
            f"beside its weights, but one sequence of {full_length(config):,} tokens must fit. Raise it, or "
            f"rollout.tensor_parallel_size ({config.rollout.tensor_parallel_size})."
        )
    for phase in memory.phases:
        if phase.total > usable:
            largest = max(phase.parts, key=lambda part: phase.parts[part])
            problems.append(
                f"phase {phase.phase} needs {phase.total / GIB:.1f} GiB on a rank of stage {phase.stage}, "
                f"but {usable / GIB:.1f} of the {cluster.memory_gib:g} GiB of {cluster.device} can be "
                f"planned with; the largest part is {largest} ({phase.parts[largest] / GIB:.1f} GiB). "
                f"{_remedy(largest, key)}"
            )
    return problems


def _remedy(part: str, engine_key: str) -> str:
    if part in ("vLLM weights", "KV cache"):
        return f"Lower {engine_key}."
    if part == "activations":
        return "Set memory.recompute=full, lower optimizer.micro_batch_tokens, or raise parallel.tensor."
    if part in ("backward pass", "forward pass"):
        return "Lower optimizer.micro_batch_tokens, or raise parallel.tensor."
    if part == "optimizer":
        return "Set optimizer.distributed=true, or raise parallel.tensor or parallel.pipeline."
    return "Raise parallel.tensor or parallel.pipeline."


def warnings_of(config: Config, cluster: Cluster) -> list[str]:
    """Messages about what works, but slowly."""
    sizes = {
        "parallel.tensor": config.parallel.tensor,
        "parallel.expert": config.parallel.expert,
        "rollout.tensor_parallel_size": config.rollout.tensor_parallel_size,
    }
    return [
        f"{key} is {size}, more than the {cluster.per_node} devices of a node: its traffic crosses nodes."
        for key, size in sizes.items()
        if size > cluster.per_node
    ]


def changes(given: Config, other: Config) -> dict[str, tuple[Any, Any]]:
    """Key -> (given, other) of the keys that differ."""
    return {
        f"{section}.{name}": (value, vars(vars(other)[section])[name])
        for section, keys in vars(given).items()
        for name, value in vars(keys).items()
        if value != vars(vars(other)[section])[name]
    }


def first_that_works(config: Config, shape: ModelShape, clusters: Iterable[Cluster]) -> Plan | None:
    """The first layout that works, on the first of `clusters` that has one; None: no layout works."""
    for cluster in clusters:
        options = _options(config, cluster)
        choices = [dict(zip(options, values, strict=True)) for values in product(*options.values())]
        layouts = sorted(_dividing(config, shape, cluster), key=_model_parallelism)
        for _, alike in groupby(layouts, key=_model_parallelism):
            candidates = [_with(layout, choice) for layout, choice in product(alike, choices)]
            for candidate in sorted(candidates, key=lambda other: len(changes(config, other))):
                memory = plan_memory(candidate, shape, cluster)
                if not memory_problems(candidate, cluster, memory):
                    return Plan(candidate, shape, cluster, [], memory)
    return None


def _model_parallelism(config: Config) -> tuple[int, ...]:
    """What layouts are ordered by; of two with as many ranks a model, tensor comes before pipeline."""
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    return tensor * pipeline, pipeline, config.parallel.expert


def doubled(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, and those with twice, four times, ... LARGEST_FACTOR times as many devices."""
    factor = 1
    while factor <= LARGEST_FACTOR:
        yield replace(cluster, gpus=cluster.gpus * factor)
        factor *= 2


def _options(config: Config, cluster: Cluster) -> dict[str, tuple[Any, ...]]:
    """Key -> values to try beside the layout's sizes, the given one first; of equally many changes those of
    the last keys, which cost least, come first.
    """
    memory, longest = config.memory, full_length(config)
    lower = (value for value in UTILIZATIONS if value < config.rollout.gpu_memory_utilization)
    auto = "auto" if cluster.on_gpu else "never"  # a CPU has one memory, and vLLM cannot sleep there
    return {
        "memory.recompute": _unique(memory.recompute, "selective", "full"),
        "optimizer.micro_batch_tokens": _unique(
            config.optimizer.micro_batch_tokens, min(config.optimizer.micro_batch_tokens, longest)
        ),
        "rollout.gpu_memory_utilization": _unique(
            config.rollout.gpu_memory_utilization, *(lower if cluster.on_gpu else ())
        ),
        "memory.offload_optimizer": _unique(memory.offload_optimizer, auto),
        "memory.offload_reference": _unique(memory.offload_reference, auto),
        "memory.rollout_sleep": _unique(memory.rollout_sleep, auto),
        "optimizer.distributed": _unique(config.optimizer.distributed, True),
    }


def _unique(*values: Any) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _dividing(config: Config, shape: ModelShape, cluster: Cluster) -> Iterator[Config]:
    """Every actor and rollout layout that passes the checks."""
    sizes = [size for size in range(1, cluster.gpus + 1) if cluster.gpus % size == 0]
    for tensor, pipeline, expert, engine in product(sizes, sizes, sizes if shape.experts else [1], sizes):
        candidate = _with(
            config,
            {
                "parallel.tensor": tensor,
                "parallel.pipeline": pipeline,
                "parallel.expert": expert,
                "parallel.sequence": (config.parallel.sequence or bool(shape.experts)) and tensor > 1,
                "rollout.tensor_parallel_size": engine,
            },
        )
        try:
            validate_layout(candidate, shape, cluster.gpus)
        except ValueError:
            continue
        yield candidate


def _with(config: Config, values: Mapping[str, Any]) -> Config:
    """A copy with other values."""
    other = copy.copy(config)
    for key, value in values.items():
        section, _, name = key.partition(".")
        part = copy.copy(vars(other)[section])
        setattr(part, name, value)
        setattr(other, section, part)
    return other
