"""Converts between Hugging Face folders and checkpoints, compares the two, and shows what a checkpoint holds.

    coreward convert hf-to-megatron --hf models/SmolLM2 --output checkpoints/SmolLM2
    coreward convert megatron-to-hf --checkpoint RUN/checkpoints/step_40 --output hf
    coreward convert verify --hf hf --checkpoint RUN/checkpoints/step_40
    coreward convert inspect RUN/checkpoints/step_40

Weights are streamed, so memory does not grow with the model. Under torchrun the ranks share the work:
`torchrun --nproc-per-node 4 tools/convert_checkpoint.py ...`. No GPU is used. More: docs/conversion.md.

Exit codes: 0 done, 1 verify found differences, 2 wrong input or no way to write the output.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table

from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code, setup_logging

if TYPE_CHECKING:
    from megatron_coreward.actor.convert.convert import Converted, OnBytes

DTYPES = ("auto", "float32", "bfloat16", "float16")
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
OK, DIFFERENT = 0, 1


def num_bytes(text: str) -> int:
    """5GB, 500MB or 2GiB as bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?B)?", text.strip().upper())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write it like 5GB, 500MB or 2GiB")
    return int(float(match[1]) * UNITS[match[2] or ""])


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward convert", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    to_megatron = commands.add_parser(
        "hf-to-megatron", help="Hugging Face folder -> checkpoint", description=__doc__
    )
    to_hf = commands.add_parser(
        "megatron-to-hf", help="checkpoint -> Hugging Face folder", description=__doc__
    )
    verify = commands.add_parser("verify", help="compare the two, tensor by tensor", description=__doc__)
    inspect = commands.add_parser("inspect", help="what a checkpoint holds", description=__doc__)
    for command in (to_megatron, verify):
        command.add_argument("--hf", required=True, metavar="DIR", help="Hugging Face folder or hub id")
        command.add_argument(
            "--allow-extra", action="store_true", help="leave out tensors that the architecture does not know"
        )
    for command in (to_hf, verify):
        command.add_argument("--checkpoint", type=Path, required=True, metavar="DIR")
    for command in (to_megatron, to_hf):
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="must not exist")
        command.add_argument("--overwrite", action="store_true", help="replace an earlier output")
        command.add_argument("--dtype", choices=DTYPES, default="auto", help="auto keeps the input's")
    verify.add_argument(
        "--dtype", choices=DTYPES, default="auto", help="cast both sides before comparing; auto: as they are"
    )
    verify.add_argument("--show", type=int, default=10, metavar="N", help="differences to name (10)")
    to_hf.add_argument("--shard-size", type=num_bytes, default="5GB", help="largest file of weights (5GB)")
    to_hf.add_argument(
        "--skip-checksums", action="store_true", help="check only names and sizes of the checkpoint's files"
    )
    inspect.add_argument("checkpoint", type=Path, metavar="DIR")
    inspect.add_argument("--all", action="store_true", help="list the optimizer's tensors, too")
    inspect.add_argument("--json", action="store_true", help="everything as one JSON object")
    return parser.parse_args(arguments)


@contextmanager
def progress_bar(console: Console, title: str, *, shown: bool) -> Iterator["OnBytes"]:
    """Bytes and rate of this rank, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=console, disable=not (shown and console.is_terminal)
    ) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def convert(options: argparse.Namespace, comm: Any, console: Console) -> int:
    """hf-to-megatron and megatron-to-hf."""
    from megatron_coreward.actor.convert.convert import hf_to_megatron, megatron_to_hf
    from megatron_coreward.utils.memory import keep_freed_memory

    keep_freed_memory()
    result: Converted
    with progress_bar(console, "converting", shown=comm.rank == 0) as on_bytes:
        common = {"dtype": torch_dtype(options.dtype), "overwrite": options.overwrite, "on_bytes": on_bytes}
        if options.command == "hf-to-megatron":
            result = hf_to_megatron(
                options.hf, options.output, comm, allow_extra=options.allow_extra, **common
            )
        else:
            result = megatron_to_hf(
                options.checkpoint,
                options.output,
                comm,
                shard_bytes=options.shard_size,
                checksums=not options.skip_checksums,
                **common,
            )
    if comm.rank == 0:
        rate = result.num_bytes / result.seconds / 1e9
        console.print(
            f"{result.tensors} tensors, {result.num_bytes / 1e6:,.1f} MB in {result.seconds:.1f} s "
            f"({rate:.2f} GB/s) are in {result.output}",
            soft_wrap=True,
            highlight=False,
        )
    return OK


def verify(options: argparse.Namespace, comm: Any, console: Console) -> int:
    """Names the first tensors that differ."""
    from megatron_coreward.actor.convert import verify as convert_verify

    dtype = torch_dtype(options.dtype)
    with progress_bar(console, "comparing", shown=comm.rank == 0) as on_bytes:
        compared = convert_verify.verify(
            options.hf,
            options.checkpoint,
            comm,
            dtype=dtype,
            allow_extra=options.allow_extra,
            on_bytes=on_bytes,
        )
    if comm.rank == 0:
        how = f" after a cast to {options.dtype}" if dtype else ""
        if compared.differences:
            table = Table("tensor", "difference", title=f"{len(compared.differences)} differences{how}")
            for difference in compared.differences[: options.show]:
                table.add_row(difference.name, difference.what)
            left = len(compared.differences) - options.show
            table.caption = f"and {left} more" if left > 0 else None
            Console().print(table)
        else:
            console.print(f"all {compared.tensors} tensors are equal, bit for bit{how}", highlight=False)
    return DIFFERENT if compared.differences else OK


def inspect(options: argparse.Namespace) -> int:
    """Tables, or JSON."""
    from megatron_coreward.actor.checkpoint.inspect import inspect

    content = inspect(options.checkpoint)
    if options.json:
        sys.stdout.write(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        return OK
    output = Console()
    output.print(facts_table(content))
    for owner in ("model", "optimizer"):
        tensors = [tensor for tensor in content["tensors"] if tensor["part"] == owner]
        total = f"{owner}: {len(tensors)} tensors, {sum(tensor['bytes'] for tensor in tensors):,} bytes"
        if owner == "model" or options.all:
            output.print(tensors_table(tensors, total))
        elif tensors:
            output.print(f"{total} (--all lists them)", highlight=False)
    return OK


def facts_table(content: dict[str, Any]) -> Table:
    """The content of state.json without the run's configuration."""
    table = Table(show_header=False, title=content["path"])
    for key in ("step", "num_updates", "contents", "architecture", "dims", "layout", "versions"):
        value = content[key]
        if isinstance(value, dict):
            value = ", ".join(f"{name} {item}" for name, item in value.items())
        table.add_row(key, ", ".join(value) if isinstance(value, list) else str(value))
    table.add_row("written by", "a run (its configuration: --json)" if content["config"] else "this tool")
    sizes = [file["bytes"] for file in content["files"].values()]
    table.add_row("files", f"{len(sizes)}, {sum(sizes):,} bytes, all there")
    return table


def tensors_table(tensors: list[dict[str, Any]], title: str) -> Table:
    table = Table(title=title, caption="layers are stacked along the first axis")
    table.add_column("tensor", overflow="fold")
    table.add_column("shape")
    table.add_column("dtype")
    for name in ("bytes", "pieces"):
        table.add_column(name, justify="right")
    for tensor in tensors:
        shape = " x ".join(map(str, tensor["shape"]))
        table.add_row(tensor["name"], shape, tensor["dtype"], f"{tensor['bytes']:,}", str(tensor["pieces"]))
    return table


def torch_dtype(name: str) -> Any:
    import torch

    known = {"auto": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    return known[name]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_args(arguments)
    # Nothing is computed, and a GPU of a training run should not notice. Before torch is imported.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    rank = int(os.environ.get("RANK", "0"))
    console = setup_logging(rank)
    if options.command == "inspect":
        return exit_code(inspect, options)
    from megatron_coreward.actor import parallel
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown

    initialize()
    comm = TorchCommunicator()
    command = verify if options.command == "verify" else convert
    code = exit_code(command, options, comm, console)
    parallel.destroy()
    shutdown()
    return code
