"""Plans a run before a GPU is paid for: memory by phase, traffic, time, and whether the layout works.

    coreward plan --config examples/gpu/qwen2.5_7b.yaml --gpus 4 --device H100
    coreward plan --model Qwen2.5-7B --gpus 4 --device H200 parallel.tensor=4
    coreward plan --model DIR --gpus 16 --device A100 --response-tokens 1200 --json

Arithmetic only: nothing is built or fetched, and no GPU, data or weights are needed. Times are estimates from
stated device numbers, which are printed. What was checked against measurements, and what was not:
docs/gpu/planning.md.

Exit codes: 0 the layout works, 1 it does not, 2 wrong input.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import Field, fields, replace
from typing import Any

from rich.console import Console

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.option_hints import as_override
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import DEVICES, Assumptions, Cluster, Device
from megatron_coreward.planning.layouts import make_plan, search, search_larger
from megatron_coreward.planning.models import find_shape
from megatron_coreward.planning.report import as_dict, show
from megatron_coreward.planning.timing import Lengths
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code

WORKS, DOES_NOT = 0, 1


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def numbers_of(cls: type) -> list[Field[Any]]:
    return [field for field in fields(cls) if field.type is float]


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward plan", description=__doc__, instead=as_override)
    parser.add_argument("--config", action="append", help="YAML file of a run; a later one wins")
    parser.add_argument("--model", help="folder with a config.json, or a model of the paper by its name")
    parser.add_argument("--gpus", type=int, required=True, help="devices of the run, or CPU ranks")
    parser.add_argument("--per-node", type=int, default=8, help="devices of a node (8)")
    parser.add_argument(
        "--device", choices=list(DEVICES), default="H100", help="whose numbers to take (H100)"
    )
    parser.add_argument("--prompt-tokens", type=int, help="mean length, for the times; default: the longest")
    parser.add_argument(
        "--response-tokens", type=int, help="mean length, for the times; default: the longest"
    )
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    for title, cls in (("numbers of the device", Device), ("assumptions", Assumptions)):
        group = parser.add_argument_group(title, "see megatron_coreward/planning/devices.py")
        for field in numbers_of(cls):
            group.add_argument(f"--{field.name.replace('_', '-')}", type=float, metavar="X")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    return parser.parse_args(arguments)


def cluster_of(options: argparse.Namespace) -> Cluster:
    """Raises ValueError for numbers that make no sense."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    for name in ("gpus", "per_node", "prompt_tokens", "response_tokens"):
        if given.get(name, 1) < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}, but must be at least 1.")
    device = {field.name: given[field.name] for field in numbers_of(Device) if field.name in given}
    assumed = {field.name: given[field.name] for field in numbers_of(Assumptions) if field.name in given}
    shares = {name for name in assumed if not name.endswith(("_s", "_gib"))}
    for name, value in {**device, **assumed}.items():
        most = 1.0 if name in shares else float("inf")
        if not 0 < value <= most:
            raise ValueError(
                f"--{name.replace('_', '-')} is {value:g}, but must be above 0, at most {most:g}."
            )
    return Cluster(
        replace(DEVICES[options.device], **device),
        options.gpus,
        options.per_node,
        replace(Assumptions(), **assumed),
    )


def lengths_of(options: argparse.Namespace, config: Config) -> Lengths:
    """Raises ValueError for a mean above the longest."""
    longest = Lengths(config.data.max_prompt_tokens, config.rollout.max_response_tokens)
    given = Lengths(options.prompt_tokens or longest.prompt, options.response_tokens or longest.response)
    if given.prompt > longest.prompt:
        raise ValueError(
            f"--prompt-tokens is {given.prompt}, but data.max_prompt_tokens drops prompts above "
            f"{longest.prompt}."
        )
    if given.response > longest.response:
        raise ValueError(
            f"--response-tokens is {given.response}, but rollout.max_response_tokens ends each at "
            f"{longest.response}."
        )
    return given


def run(options: argparse.Namespace) -> int:
    model = [f"model.path={options.model}"] if options.model else []
    config = load_config(options.config or [], [*model, *options.overrides])
    cluster, lengths = cluster_of(options), lengths_of(options, config)
    shape = find_shape(config.model.path)
    plan = make_plan(config, shape, cluster, lengths)
    better = search(config, shape, cluster, lengths) or search_larger(config, shape, cluster, lengths)
    if options.json:
        sys.stdout.write(json.dumps(as_dict(plan, better), indent=1) + "\n")
    else:
        show(plan, better, Console())
    return WORKS if plan.works else DOES_NOT
