"""Plans a run before a GPU is paid for: whether a layout works, and the memory of a rank by phase.

    coreward plan --model Qwen2.5-7B          # the smallest number of GPUs
    coreward plan --model Qwen2.5-7B --gpus 4 --device H200 parallel.tensor=4
    coreward plan --config run.yaml --gpus 8 --device L40S --memory-gib 44

Arithmetic only: nothing is built or fetched, and no GPU, data or weights are needed. Without --config the
settings are those of the repository's recipe for the model, where it has one. What was checked against
measurements, and what was not: docs/gpu/planning.md.

Exit codes: 0 the layout works, 1 it does not, 2 wrong input.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.option_hints import as_override
from megatron_coreward.planning.devices import CPU, DEVICES, Cluster
from megatron_coreward.planning.layouts import doubled, first_that_works, make_plan
from megatron_coreward.planning.models import find_shape, recipe_of
from megatron_coreward.planning.report import as_dict, changed, show, show_smallest
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code

WORKS, DOES_NOT = 0, 1
DEFAULT_DEVICE = "H100"


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward plan", description=__doc__, instead=as_override)
    parser.add_argument("--config", action="append", help="YAML file of a run; a later one wins")
    parser.add_argument("--model", help="folder with a config.json, or a model of the paper by its name")
    parser.add_argument("--gpus", type=int, help="devices of the run, or CPU ranks; default: the smallest")
    parser.add_argument("--per-node", type=int, default=8, help="devices of a node (8)")
    parser.add_argument("--device", help=f"{', '.join(DEVICES)}, or any name with --memory-gib")
    parser.add_argument("--memory-gib", type=float, metavar="X", help="memory of a device for programs")
    parser.add_argument("--reserve", type=float, metavar="X", help="share of it not to plan with (0.06)")
    parser.add_argument("--engine-gib", type=float, metavar="X", help="GiB of vLLM's own buffers (2)")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    return parser.parse_args(arguments)


def cluster_of(options: argparse.Namespace, device: str) -> Cluster:
    """One device where --gpus is not given. Raises ValueError for numbers that make no sense."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("gpus", "per_node"):
        if given.get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}, but must be at least 1.")
    for name, most in (("memory_gib", float("inf")), ("reserve", 1.0), ("engine_gib", float("inf"))):
        if name in given and not 0 < given[name] <= most:
            raise ValueError(
                f"--{name.replace('_', '-')} is {given[name]:g}, but must be above 0, at most {most:g}."
            )
    memory = given.get("memory_gib", DEVICES.get(device))
    if memory is None:
        raise ValueError(
            f"--device is {device!r}, but the memory is known of {', '.join(DEVICES)} only. Give that of "
            "another device with --memory-gib."
        )
    assumed = {name: given[name] for name in ("reserve", "engine_gib") if name in given}
    return Cluster(device, memory, options.gpus or 1, options.per_node, **assumed)


def run(options: argparse.Namespace) -> int:
    overrides = [*([f"model.path={options.model}"] if options.model else []), *options.overrides]
    recipe = None if options.config else recipe_of(load_config([], overrides).model.path)
    config = load_config(options.config or ([recipe] if recipe else []), overrides)
    source = " ".join(options.config or ()) or (
        f"the recipe {recipe.parent.name}/{recipe.name}" if recipe else "the defaults"
    )
    source = " ".join([source, *options.overrides])
    shape = find_shape(config.model.path)
    console, known = Console(), options.device or (options.memory_gib and "device")
    if options.gpus is None:
        devices = [known] if known else [device for device in DEVICES if device != CPU]
        clusters = {device: cluster_of(options, device) for device in devices}
        given = make_plan(config, shape, clusters[devices[0]])
        smallest = {
            device: first_that_works(config, shape, doubled(cluster)) for device, cluster in clusters.items()
        }
        if options.json:
            _write({name: plan and changed(given, plan) for name, plan in smallest.items()})
        else:
            tried = [cluster.gpus for cluster in doubled(clusters[devices[0]])]
            show_smallest(given, smallest, source, tried, console)
        return WORKS if any(smallest.values()) else DOES_NOT
    cluster = cluster_of(options, known or DEFAULT_DEVICE)
    plan = make_plan(config, shape, cluster)
    other = None if plan.works else first_that_works(config, shape, doubled(cluster))
    if options.json:
        _write(as_dict(plan, other))
    else:
        show(plan, other, source, console)
    return WORKS if plan.works else DOES_NOT


def _write(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
