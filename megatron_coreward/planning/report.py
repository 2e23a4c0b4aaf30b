"""A plan as a verdict and a table, and as a dictionary for JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.layouts import LARGEST_FACTOR, Plan, changes, warnings_of
from megatron_coreward.planning.memory import MemoryPlan, full_length, packed_pass, run_dtype
from megatron_coreward.planning.traffic import weight_sync_bytes
from megatron_coreward.preflight.costs import GIB, count_parameters


def as_dict(plan: Plan, other: Plan | None) -> dict[str, Any]:
    """Bytes and sizes as plain numbers; `other` is what works where `plan` does not."""
    memory = plan.memory
    return {
        "model": str(plan.shape.folder),
        "parameters": count_parameters(plan.shape),
        "dtype": run_dtype(plan.config, plan.cluster),
        "layout": layout_of(plan),
        "cluster": asdict(plan.cluster) | {"usable_bytes": plan.cluster.usable_bytes},
        "works": plan.works,
        "problems": plan.problems,
        "warnings": warnings_of(plan.config, plan.cluster),
        "memory": memory and {phase.phase: phase.parts | {"sum": phase.total} for phase in memory.phases},
        "fullest_phase": memory and memory.fullest.phase,
        "kv_cache": memory and {"bytes": memory.kv_cache_bytes, "sequences": memory.sequences},
        "works_instead": other and changed(plan, other),
    }


def changed(given: Plan, other: Plan) -> dict[str, Any]:
    """The devices and keys of a plan that works, and its fullest phase."""
    return {
        "gpus": other.cluster.gpus,
        "changes": {key: new for key, (_, new) in changes(given.config, other.config).items()},
        "fullest_phase": _figures(other).fullest.phase,
        "fullest_bytes": _figures(other).fullest.total,
        "sequences": _figures(other).sequences,
    }


def layout_of(plan: Plan) -> dict[str, int]:
    """Sizes of the actor's and of vLLM's parallelism."""
    tensor, pipeline = plan.config.parallel.tensor, plan.config.parallel.pipeline
    engine = plan.config.rollout.tensor_parallel_size
    return {
        "tensor": tensor,
        "pipeline": pipeline,
        "data": plan.cluster.gpus // (tensor * pipeline),
        "expert": plan.config.parallel.expert,
        "rollout_tensor": engine,
        "replicas": plan.cluster.gpus // engine,
    }


def show(plan: Plan, other: Plan | None, source: str, console: Console) -> None:
    """The verdict, what works instead, and the memory by phase. `source` says where the settings are from."""

    def line(text: str, style: str = "") -> None:
        console.print(text, style=style, highlight=False, markup=False)

    if plan.works:
        line(f"works: {_where(plan)}, by this arithmetic; {_fullest(plan)}", "green")
    for problem in plan.problems:
        line(f"does not work: {problem}", "red")
    if other is not None:
        more = f"--gpus {other.cluster.gpus} " if other.cluster.gpus != plan.cluster.gpus else ""
        line(f"works instead: {more}{settings(plan, other)} ({_fullest(other)})", "bold")
    elif not plan.works:
        line(f"no layout was found that works, up to {LARGEST_FACTOR} times the devices", "red")
    for warning in warnings_of(plan.config, plan.cluster):
        line(f"warning: {warning}", "yellow")
    line(f"\n{_head(plan)}\nsettings: {source}")
    if plan.memory:
        console.print(_memory_table(plan, plan.memory))
        line(_notes(plan, plan.memory))


def show_smallest(
    given: Plan, smallest: Mapping[str, Plan | None], source: str, tried: list[int], console: Console
) -> None:
    """A row for each device: the first number of devices that works, and the settings to change."""
    fit = [f"{plan.cluster.gpus} x {device}" for device, plan in smallest.items() if plan]
    verdict = f"works on {', '.join(fit)}" if fit else "does not work on any number"
    name = f"{given.shape.folder.name} {verdict} (of {', '.join(map(str, tried))})"
    console.print(f"{name}\nsettings: {source}", highlight=False, markup=False)
    table = Table("device", "GPUs", "fullest phase, GiB", "of", "change", box=None, padding=(0, 2, 0, 0))
    for device, plan in smallest.items():
        if plan is not None:
            fullest = _figures(plan).fullest
            full, usable = f"{fullest.phase} {fullest.total / GIB:.1f}", f"{_usable(plan.cluster):.1f}"
            table.add_row(device, str(plan.cluster.gpus), full, usable, settings(given, plan))
        else:
            table.add_row(device, "none", "", "", "")
    console.print(table)


def settings(given: Plan, other: Plan) -> str:
    """The keys to change, as overrides."""
    new = {key: value for key, (_, value) in changes(given.config, other.config).items()}
    return " ".join(f"{key}={yaml_value(value)}" for key, value in new.items()) or "nothing"


def yaml_value(value: Any) -> str:
    """A value as it is written in an override."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _figures(plan: Plan) -> MemoryPlan:
    assert plan.memory, "a plan that works has figures"
    return plan.memory


def _usable(cluster: Cluster) -> float:
    return cluster.usable_bytes / GIB


def _where(plan: Plan) -> str:
    return f"{plan.shape.folder.name} on {plan.cluster.gpus} x {plan.cluster.device}"


def _fullest(plan: Plan) -> str:
    memory = _figures(plan)
    return (
        f"fullest phase {memory.fullest.phase}: {memory.fullest.total / GIB:.1f} of "
        f"{_usable(plan.cluster):.1f} GiB; {memory.sequences:,} sequences in the KV cache"
    )


def _head(plan: Plan) -> str:
    layout, cluster = layout_of(plan), plan.cluster
    experts = f", {plan.shape.experts} experts over {layout['expert']}" if plan.shape.experts else ""
    return (
        f"{count_parameters(plan.shape):,} parameters in {run_dtype(plan.config, cluster)} on "
        f"{cluster.gpus} x {cluster.device} ({cluster.memory_gib:g} GiB, "
        f"{_usable(cluster):.1f} to plan with)\n"
        f"actor: tensor {layout['tensor']} x pipeline {layout['pipeline']} x data {layout['data']}{experts}; "
        f"rollout: {layout['replicas']} replicas of {layout['rollout_tensor']}"
    )


def _memory_table(plan: Plan, memory: MemoryPlan) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0))
    table.add_column("GiB on a rank", no_wrap=True)
    parts = list(dict.fromkeys(part for phase in memory.phases for part in phase.parts))
    for phase in memory.phases:
        name = phase.phase.replace("_", " ").replace(" ", "\n")  # so that 80 columns hold all phases
        table.add_column(name, justify="right", no_wrap=True)
    for part in parts:
        sizes = [phase.parts.get(part, 0) for phase in memory.phases]
        table.add_row(part, *(f"{size / GIB:.1f}" if size else "" for size in sizes))
    usable = plan.cluster.usable_bytes
    table.add_row("sum", *(f"{phase.total / GIB:.1f}" for phase in memory.phases), style="bold")
    share = f"share of {usable / GIB:.1f}"
    table.add_row(share, *(f"{phase.total / usable:.0%}" for phase in memory.phases))
    return table


def _notes(plan: Plan, memory: MemoryPlan) -> str:
    config, cluster = plan.config, plan.cluster
    packed, dtype = packed_pass(config, cluster), run_dtype(config, cluster)
    return (
        f"KV cache: {memory.kv_cache_bytes / GIB:.1f} GiB a rank, {memory.sequences:,} sequences of "
        f"{full_length(config):,} tokens a replica\n"
        f"activations: of a micro-batch of {packed.tokens:,} tokens, recompute {config.memory.recompute}\n"
        f"weight sync: a rank receives {weight_sync_bytes(config, plan.shape, dtype) / 1e9:.2f} GB\n"
        f"assumed, not measured: {cluster.reserve:.0%} of the memory in reserve, {cluster.engine_gib:g} GiB "
        "of vLLM's buffers"
    )
