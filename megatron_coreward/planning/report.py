"""A plan as tables, and as a dictionary for JSON."""

from dataclasses import asdict, fields
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.layouts import LARGEST_FACTOR, Found, Plan, changes, warnings_of
from megatron_coreward.planning.memory import MemoryPlan, full_length, packed_pass, run_dtype
from megatron_coreward.planning.timing import StepPlan
from megatron_coreward.preflight.costs import GIB, count_parameters

LAYOUT_KEYS = ("parallel.tensor", "parallel.pipeline", "parallel.expert", "rollout.tensor_parallel_size")


def as_dict(plan: Plan, found: Found | None) -> dict[str, Any]:
    """Bytes, seconds and shares as plain numbers."""
    memory, step = plan.memory, plan.step
    return {
        "model": str(plan.shape.folder),
        "parameters": count_parameters(plan.shape),
        "dtype": run_dtype(plan.config, plan.cluster),
        "layout": layout_of(plan.config, plan.cluster),
        "cluster": asdict(plan.cluster) | {"usable_bytes": plan.cluster.usable_bytes},
        "lengths": asdict(plan.lengths),
        "works": plan.works,
        "problems": plan.problems,
        "warnings": warnings_of(plan.config, plan.cluster),
        "memory": memory and {phase.phase: phase.parts | {"sum": phase.total} for phase in memory.phases},
        "fullest_phase": memory and memory.fullest.phase,
        "kv_cache": memory and {"bytes": memory.kv_cache_bytes, "sequences": memory.sequences},
        "step": step and asdict(step) | {"total_seconds": step.total},
        "nearest": found and _changed(plan.config, found.nearest),
        "fastest": found and _changed(plan.config, found.fastest),
    }


def layout_of(config: Config, cluster: Cluster) -> dict[str, int]:
    """Sizes of the actor's and of vLLM's parallelism."""
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    engine = config.rollout.tensor_parallel_size
    return {
        "tensor": tensor,
        "pipeline": pipeline,
        "data": cluster.gpus // (tensor * pipeline),
        "expert": config.parallel.expert,
        "rollout_tensor": engine,
        "replicas": cluster.gpus // engine,
    }


def _changed(given: Config, other: Plan) -> dict[str, Any]:
    assert other.memory and other.step, "a plan that works has figures"
    return {
        "gpus": other.cluster.gpus,
        "changes": {key: new for key, (_, new) in changes(given, other.config).items()},
        "fullest_phase": other.memory.fullest.phase,
        "fullest_bytes": other.memory.fullest.total,
        "sequences": other.memory.sequences,
        "total_seconds": other.step.total,
    }


def show(plan: Plan, found: Found | None, console: Console) -> None:
    """Memory, pipeline, traffic, seconds, what they assume, and what is wrong."""
    console.print(_head(plan), highlight=False)
    if plan.memory and plan.step:
        console.print(_memory_table(plan, plan.memory))
        console.print(_kv_cache(plan, plan.memory), highlight=False)
        console.print(_step_table(plan.step))
        console.print(_assumptions(plan), highlight=False)
    for warning in warnings_of(plan.config, plan.cluster):
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False)
    for problem in plan.problems:
        console.print(f"does not work: {problem}", style="red", highlight=False, markup=False)
    if plan.works:
        console.print("This layout works, by this arithmetic.", style="green")
    if found is None:
        console.print(
            f"No layout was found that works, up to {LARGEST_FACTOR} times the devices.", style="red"
        )
    else:
        for name, other in (("Nearest that works", found.nearest), ("Fastest found", found.fastest)):
            console.print(f"{name}: {_summary(plan, other)}", style="bold", highlight=False, markup=False)


def _head(plan: Plan) -> str:
    layout, cluster = layout_of(plan.config, plan.cluster), plan.cluster
    experts = f", {plan.shape.experts} experts over {layout['expert']}" if plan.shape.experts else ""
    return (
        f"{plan.shape.folder}: {count_parameters(plan.shape):,} parameters in "
        f"{run_dtype(plan.config, cluster)} on {cluster.gpus} x {cluster.device.name} "
        f"({cluster.device.memory_gib:g} GiB, {cluster.usable_bytes / GIB:.1f} to plan with)\n"
        f"actor: tensor {layout['tensor']} x pipeline {layout['pipeline']} x data {layout['data']}{experts}; "
        f"rollout: {layout['replicas']} replicas of {layout['rollout_tensor']}"
    )


def _memory_table(plan: Plan, memory: MemoryPlan) -> Table:
    table = Table(
        "GiB on a rank of the fullest stage",
        title=f"Memory by phase; the fullest is {memory.fullest.phase}",
        title_justify="left",
    )
    parts = list(dict.fromkeys(part for phase in memory.phases for part in phase.parts))
    for phase in memory.phases:
        table.add_column(phase.phase, justify="right")
    for part in parts:
        sizes = [phase.parts.get(part, 0) for phase in memory.phases]
        table.add_row(part, *(f"{size / GIB:.1f}" if size else "" for size in sizes))
    usable = plan.cluster.usable_bytes
    table.add_row("sum", *(f"{phase.total / GIB:.1f}" for phase in memory.phases), style="bold")
    table.add_row("of what can be planned with", *(f"{phase.total / usable:.0%}" for phase in memory.phases))
    return table


def _kv_cache(plan: Plan, memory: MemoryPlan) -> str:
    packed = packed_pass(plan.config, plan.cluster)
    return (
        f"KV cache: {memory.kv_cache_bytes / GIB:.1f} GiB a rank, {memory.sequences:,} sequences of "
        f"{full_length(plan.config):,} tokens a replica\n"
        f"activations: of a micro-batch of {packed.tokens:,} tokens, recompute {plan.config.memory.recompute}"
    )


def _step_table(step: StepPlan) -> Table:
    table = Table("of one step", "", title="Traffic and time, estimated", title_justify="left")
    table.add_row("micro-batches a rank and update", f"{step.micro_batches:,}")
    table.add_row("pipeline bubble", f"{step.bubble:.1%}")
    for kind, sent in step.sent.items():
        verb = "received by" if kind == "weight sync" else "sent by"
        table.add_row(f"{kind}, {verb} a rank", f"{sent / 1e9:.2f} GB")
    for phase, seconds in step.seconds.items():
        table.add_row(f"{phase}, seconds", f"{seconds:.1f}")
    table.add_row("step, seconds", f"{step.total:.1f}", style="bold")
    return table


def _assumptions(plan: Plan) -> str:
    device, assumed = plan.cluster.device, plan.cluster.assumptions
    stated = ", ".join(
        f"{item.name} {vars(device)[item.name]:g}" for item in fields(device) if item.type is float
    )
    shares = ", ".join(f"{name} {value:g}" for name, value in vars(assumed).items())
    return (
        f"Assumed, not measured: {device.name} with {stated}; {shares}. Mean lengths: "
        f"{plan.lengths.prompt:,} prompt and {plan.lengths.response:,} response tokens; nothing overlaps."
    )


def _summary(plan: Plan, other: Plan) -> str:
    assert other.memory and other.step, "a plan that works has figures"
    changed = [f"{key}={yaml_value(new)}" for key, (_, new) in changes(plan.config, other.config).items()]
    gpus = f"--gpus {other.cluster.gpus} " if other.cluster.gpus != plan.cluster.gpus else ""
    fullest = other.memory.fullest
    return (
        f"{gpus}{' '.join(changed) or 'as given'} (fullest phase {fullest.phase}: "
        f"{fullest.total / GIB:.1f} GiB; {other.memory.sequences:,} sequences; "
        f"{other.step.total:.0f} s a step)"
    )


def yaml_value(value: Any) -> str:
    """A value as it is written in an override."""
    return str(value).lower() if isinstance(value, bool) else str(value)
