"""Tells whether a layout works, and finds the nearest and the fastest layout that do.

A layout works if preflight/checks.py lets it pass, every phase fits into a device's memory, and vLLM's KV
cache holds at least one sequence of full length. The nearest one differs from what was given in the fewest
keys; of several the one with the shortest estimated step is taken. All layouts that divide are tried, with
and without what saves memory.
"""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.memory import MemoryPlan, full_length, plan_memory
from megatron_coreward.planning.timing import Lengths, StepPlan, plan_step
from megatron_coreward.preflight.checks import validate_layout
from megatron_coreward.preflight.costs import GIB

UTILIZATIONS = (0.5, 0.4, 0.3)
"""Tried for rollout.gpu_memory_utilization where they are below what is given."""
LARGEST_FACTOR = 64
"""At most this many times the given number of devices is tried."""


@dataclass(frozen=True)
class Plan:
    """A configuration on a cluster. Without `memory` and `step` it does not divide."""

    config: Config
    shape: ModelShape
    cluster: Cluster
    lengths: Lengths
    problems: list[str]
    memory: MemoryPlan | None = None
    step: StepPlan | None = None

    @property
    def works(self) -> bool:
        return not self.problems


def make_plan(config: Config, shape: ModelShape, cluster: Cluster, lengths: Lengths) -> Plan:
    """The plan with its problems; a layout that does not divide has no figures."""
    try:
        validate_layout(config, shape, cluster.gpus)
    except ValueError as error:
        return Plan(config, shape, cluster, lengths, [str(error)])
    memory = plan_memory(config, shape, cluster)
    step = plan_step(config, shape, cluster, memory, lengths)
    return Plan(config, shape, cluster, lengths, memory_problems(config, cluster, memory), memory, step)


def memory_problems(config: Config, cluster: Cluster, memory: MemoryPlan) -> list[str]:
    """Messages about what does not fit, with the keys that it depends on."""
    problems = []
    usable, device = cluster.usable_bytes, cluster.device
    key = "rollout.gpu_memory_utilization" if device.is_gpu else "rollout.memory_gb"
    given = config.rollout.gpu_memory_utilization if device.is_gpu else config.rollout.memory_gb
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
                f"but {usable / GIB:.1f} of the {device.memory_gib:g} GiB of {device.name} can be planned "
                f"with; "
                f"the largest part is {largest} ({phase.parts[largest] / GIB:.1f} GiB). "
                f"{_remedy(largest, key)}"
            )
    return problems


def _remedy(part: str, engine_key: str) -> str:
    if part in ("vLLM weights", "KV cache"):
        return f"Lower {engine_key}."
    if part == "activations":
        return "Set memory.recompute=full, or raise parallel.tensor."
    if part in ("logits and backward", "forward pass"):
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


@dataclass(frozen=True)
class Found:
    """Plans that work on one cluster."""

    nearest: Plan
    """The plan with the fewest changed keys, and of several the fastest."""
    fastest: Plan


def search(config: Config, shape: ModelShape, cluster: Cluster, lengths: Lengths) -> Found | None:
    """Tries all layouts, with and without what saves memory. None: nothing works on so few devices."""
    works = _working(config, shape, cluster, lengths, _options(config, cluster))
    if not works:
        return None
    nearest = min(works, key=lambda plan: (len(changes(config, plan.config)), _seconds(plan)))
    fastest = min(works, key=lambda plan: (_seconds(plan), len(changes(config, plan.config))))
    return Found(nearest, fastest)


def search_larger(config: Config, shape: ModelShape, cluster: Cluster, lengths: Lengths) -> Found | None:
    """Searches on twice, four times, ... as many devices, up to the first number on which something works."""
    factor = 2
    while factor <= LARGEST_FACTOR:
        larger = replace(cluster, gpus=cluster.gpus * factor)
        thrifty = {key: values[-1:] for key, values in _options(config, larger).items()}
        if _working(config, shape, larger, lengths, thrifty):
            return search(config, shape, larger, lengths)
        factor *= 2
    return None


def _seconds(plan: Plan) -> float:
    assert plan.step, "a plan that works has figures"
    return plan.step.total


def _working(
    config: Config,
    shape: ModelShape,
    cluster: Cluster,
    lengths: Lengths,
    options: Mapping[str, tuple[Any, ...]],
) -> list[Plan]:
    """Plans of all layouts that divide, with all `options`, that work."""
    plans = []
    for layout in _dividing(config, shape, cluster):
        for values in product(*options.values()):
            candidate = _with(layout, dict(zip(options, values, strict=True)))
            memory = plan_memory(candidate, shape, cluster)
            if not memory_problems(candidate, cluster, memory):
                step = plan_step(candidate, shape, cluster, memory, lengths)
                plans.append(Plan(candidate, shape, cluster, lengths, [], memory, step))
    return plans


def _options(config: Config, cluster: Cluster) -> dict[str, tuple[Any, ...]]:
    """Key -> values to try beside the layout's sizes; the given one first, what saves most memory last."""
    memory, longest = config.memory, full_length(config)
    lower = (value for value in UTILIZATIONS if value < config.rollout.gpu_memory_utilization)
    auto = "auto" if cluster.device.is_gpu else "never"  # a CPU has one memory, and vLLM cannot sleep there
    return {
        "optimizer.distributed": _unique(config.optimizer.distributed, True),
        "memory.recompute": _unique(memory.recompute, "selective", "full"),
        "memory.offload_optimizer": _unique(memory.offload_optimizer, auto),
        "memory.offload_reference": _unique(memory.offload_reference, auto),
        "memory.rollout_sleep": _unique(memory.rollout_sleep, auto),
        "optimizer.micro_batch_tokens": _unique(
            config.optimizer.micro_batch_tokens, min(config.optimizer.micro_batch_tokens, longest)
        ),
        "rollout.gpu_memory_utilization": _unique(
            config.rollout.gpu_memory_utilization, *(lower if cluster.device.is_gpu else ())
        ),
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
