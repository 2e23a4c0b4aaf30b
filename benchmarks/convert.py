"""Time and peak memory of the conversions, compared with plain reading and writing of the same tensors.

    python -m benchmarks.convert [--repeats 5] [--hf DIR] [--shard-size 5GB] [--output convert.json]

The model has random weights in the shape of SmolLM2-135M (538 MB), or is that of `--hf`. Every measurement
runs in its own process: imports and a first outline come before the clock starts, and peak memory is what
the process takes beyond them. The garbage of the imports is collected and the memory that files need is
provided before, so that no operation pays for the state of the machine. "Plain" means safetensors' load_file
and save_file, and an fsync, because the conversions do one. All files are in the page cache. The three cases
take turns, and ratios are taken within a turn, so that they hold on a busy machine. Needs Linux and 3 GB of
disk.
"""

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from megatron_coreward.cli.convert import num_bytes

OPERATIONS = ("plain", "hf-to-megatron", "megatron-to-hf")
TIME_GOAL, MEMORY_GOAL = 1.5, 1.3
BUCKET = 64 * 2**20
SIZES = {"heads": 9, "kv_heads": 3, "head_dim": 64, "layers": 30, "vocab": 49152, "intermediate_size": 1536}


def measure(operation: str, hf: Path, folder: Path, shard_bytes: int) -> dict[str, Any]:
    """Seconds and peak bytes of one operation in this process; its output stays in `folder`."""
    target = folder / operation
    run = (
        plain(hf, target) if operation == "plain" else conversion(operation, hf, folder, target, shard_bytes)
    )
    shutil.rmtree(target, ignore_errors=True)
    provide_pages(folder, hf)
    gc.collect()  # or one of the three pays for all that was imported
    os.sync()
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use
    before = memory("VmHWM")
    started = time.perf_counter()
    run()
    return {"seconds": time.perf_counter() - started, "peak_bytes": memory("VmHWM") - before}


def provide_pages(folder: Path, hf: Path) -> None:
    """Lets the system have as much memory at hand for files as the output takes.

    A virtual machine gives free memory back within seconds, and the first to write after that pays for having
    it returned: up to 0.6 s more for 538 MB, or none if another file was removed just before.
    """
    file = folder / "pages"
    with file.open("wb") as out:
        for source in hf.glob("*.safetensors"):
            with source.open("rb") as weights:
                shutil.copyfileobj(weights, out, length=BUCKET)
    file.unlink()


def plain(hf: Path, target: Path) -> Callable[[], None]:
    from safetensors.torch import load_file, save_file

    def run() -> None:
        target.mkdir()
        for file in hf.glob("*.safetensors"):
            save_file(load_file(file), target / file.name)
            descriptor = os.open(target / file.name, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return run


def conversion(operation: str, hf: Path, folder: Path, target: Path, shard_bytes: int) -> Callable[[], None]:
    from megatron_coreward.actor.convert.convert import hf_to_megatron, megatron_to_hf
    from megatron_coreward.actor.convert.outline import outline_of
    from megatron_coreward.config.model_shape import read_shape
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize
    from megatron_coreward.utils.logging import setup_logging
    from megatron_coreward.utils.memory import keep_freed_memory

    setup_logging()
    initialize()
    comm = TorchCommunicator()
    outline_of(read_shape(hf))

    def run() -> None:
        keep_freed_memory()
        if operation == "hf-to-megatron":
            hf_to_megatron(str(hf), target, comm)
        else:
            megatron_to_hf(folder / "hf-to-megatron", target, comm, shard_bytes=shard_bytes)

    return run


def memory(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def write_model(folder: Path) -> Path:
    from tests.support.models import tiny_model

    return tiny_model(folder, "llama", **SIZES)


def tensor_sizes(hf: Path) -> list[int]:
    from megatron_coreward.actor.weights.hf_folder import HfFolder

    source = HfFolder(hf)
    return [source.tensor(name).nbytes for name in source.tensors]


def measure_all(options: argparse.Namespace, hf: Path, folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Every operation in turn, each in a process of its own."""
    found: dict[str, list[dict[str, Any]]] = {operation: [] for operation in OPERATIONS}
    turns = [operation for _ in range(options.repeats) for operation in OPERATIONS]
    for operation in track(turns, "measuring", console=Console(stderr=True)):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.convert", "--measure", operation]
        command += ["--hf", str(hf), "--folder", str(folder), "--shard-size", str(options.shard_size)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        found[operation].append(json.loads(result.stdout.splitlines()[-1]))
    return found


def summarize(found: dict[str, list[dict[str, Any]]], sizes: list[int]) -> dict[str, Any]:
    plain_seconds = [run["seconds"] for run in found["plain"]]
    limit = MEMORY_GOAL * max(sizes) + BUCKET
    rows = {}
    for operation, runs in found.items():
        seconds = [run["seconds"] for run in runs]
        ratios = [a / b for a, b in zip(seconds, plain_seconds, strict=True)]
        rows[operation] = {
            "seconds": statistics.median(seconds),
            "best_seconds": min(seconds),
            "gb_per_second": sum(sizes) / min(seconds) / 1e9,
            "ratio_to_plain": statistics.median(ratios),
            "peak_mb": max(run["peak_bytes"] for run in runs) / 1e6,
            "runs": runs,
        }
    return {
        "bytes": sum(sizes),
        "largest_tensor": max(sizes),
        "memory_limit_mb": limit / 1e6,
        "operations": rows,
    }


def table_of(summary: dict[str, Any]) -> Table:
    limit = summary["memory_limit_mb"]
    weights, largest = summary["bytes"] / 1e6, summary["largest_tensor"] / 1e6
    title = f"{weights:.0f} MB of weights, the largest tensor has {largest:.0f} MB"
    table = Table(
        "",
        "seconds: median / best",
        "GB/s (best)",
        f"/ plain (goal {TIME_GOAL})",
        f"peak MB (goal {limit:.0f})",
        title=title,
    )
    for operation, row in summary["operations"].items():
        table.add_row(
            operation,
            f"{row['seconds']:.2f} / {row['best_seconds']:.2f}",
            f"{row['gb_per_second']:.2f}",
            f"{row['ratio_to_plain']:.2f}",
            f"{row['peak_mb']:.0f}",
        )
    table.caption = "memory goal: 1.3 times the largest tensor and a bucket of 64 MiB"
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--hf", type=Path, help="convert this model instead")
    parser.add_argument("--shard-size", type=num_bytes, default="5GB", help="of megatron-to-hf")
    parser.add_argument("--output", type=Path, help="write the figures as JSON")
    parser.add_argument("--measure", choices=OPERATIONS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        result = measure(options.measure, options.hf, options.folder, options.shard_size)
        sys.stdout.write(json.dumps(result) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="convert-", dir=options.folder) as name:
        hf = options.hf or write_model(Path(name) / "model")
        sizes = tensor_sizes(hf)
        summary = summarize(measure_all(options, hf, Path(name)), sizes)
    Console().print(table_of(summary))
    if options.output:
        options.output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
