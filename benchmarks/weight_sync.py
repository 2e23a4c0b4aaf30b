"""Compares the weight sync with vLLM's own reload of tensors that are ready in memory.

    python -m benchmarks.weight_sync [--model DIR] [--repeats 7] [--tiny] [--output FILE.json]
    torchrun --nproc-per-node 2 -m benchmarks.weight_sync --tensor 2 [--rollout-tensor 2]

Without `--model` the model is random and has the 135 million parameters of SmolLM2-135M, with 6 heads of 96
instead of 9 of 64, so that two ranks can divide them. Three cases run in one process group, in an order that
rotates from repeat to repeat:

  sync      sync_weights: from the actor's shards into vLLM
  reload    vLLM's reload_weights from whole tensors that are already in memory
  transfer  as many bytes as the sync receives, broadcast from one buffer into another: any sync with these
            layouts must add this to the reload

A repeat ends when the last rank has ended. Extra memory is the peak above the resident memory before.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.options import leave, row_parser
from benchmarks.record import Record
from megatron_coreward.actor import parallel
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.config.schema import Config, ModelConfig, ParallelConfig
from megatron_coreward.rollout.engine import VllmEngine
from megatron_coreward.types import Traffic
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from megatron_coreward.utils.memory import PeakMemory
from megatron_coreward.weight_sync import sync_weights
from tests.support.models import byte_tokenizer, randomise

SHAPE = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 96,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
PIECE = 4 << 20
"""Bytes of one broadcast of the transfer."""


@dataclass
class Actor:
    """The part of a policy that a sync uses."""

    exporter: WeightExporter

    @property
    def traffic(self) -> Traffic:
        return self.exporter.traffic

    def export_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self.exporter.export(for_engine=True)


def random_model(folder: Path, layers: int) -> Path:
    shape = SHAPE | {"num_hidden_layers": layers}
    model = LlamaForCausalLM(LlamaConfig(**shape, bos_token_id=None, eos_token_id=0, pad_token_id=0))
    randomise(model, seed=0)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def transfer(num_bytes: int) -> None:
    """Every rank receives `num_bytes`: an equal share from each of the others."""
    ranks = dist.get_world_size()
    piece = torch.zeros(PIECE, dtype=torch.uint8)
    share = num_bytes // (ranks - 1)
    for start in range(0, share, PIECE):
        part = piece[: min(PIECE, share - start)]
        works = [dist.broadcast(part.clone(), source, async_op=True) for source in range(ranks)]
        for work in works:
            work.wait()


@dataclass
class Measured:
    """One way, by repeat: seconds and extra memory in GB on the slowest rank, CPU seconds of all of them."""

    seconds: list[float]
    cpu_seconds: list[float]
    extra_gb: list[float]


def measure(ways: dict[str, Callable[[], Any]], repeats: int, comm: TorchCommunicator) -> dict[str, Measured]:
    """Each way once to warm up and then `repeats` times, in turns."""
    found = {name: Measured([], [], []) for name in ways}
    peak = PeakMemory()
    for repeat in range(repeats + 1):
        names = list(ways)
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            dist.barrier()
            peak.restart()
            before, started, cpu = peak.since_restart_gb(), time.perf_counter(), time.process_time()
            ways[name]()
            cpu = time.process_time() - cpu
            dist.barrier()
            seconds, extra = time.perf_counter() - started, peak.since_restart_gb() - before
            if repeat:
                found[name].seconds.append(max(comm.all_gather(seconds)))
                found[name].cpu_seconds.append(sum(comm.all_gather(cpu)))
                found[name].extra_gb.append(max(comm.all_gather(extra)))
    return found


def run(options: argparse.Namespace, folder: Path, comm: TorchCommunicator) -> tuple[dict, VllmEngine]:
    """Figures as they go into the JSON file."""
    config = Config(model=ModelConfig(str(folder)))
    config.data.max_prompt_tokens = config.rollout.max_response_tokens = 64
    config.rollout.memory_gb, config.rollout.max_num_seqs = 0.1, 8
    config.rollout.tensor_parallel_size = options.rollout_tensor
    layout = parallel.initialize(ParallelConfig(options.tensor, options.pipeline))
    model = load_model(config.model, layout)
    actor = Actor(WeightExporter(model, layout, options.bucket_mb << 20, options.rollout_tensor))
    engine = VllmEngine(config, str(folder), [0], seed=1)
    ready = {name: tensor.clone() for name, tensor in actor.exporter.export(for_engine=False)}
    model_bytes = sum(tensor.nbytes for tensor in ready.values())
    ready.setdefault("lm_head.weight", ready["model.embed_tokens.weight"])
    before = actor.traffic
    sync_weights(actor, engine, version=1)
    traffic = comm.all_gather(actor.traffic - before)
    received = max(one.received for one in traffic)
    ways: dict[str, Callable[[], Any]] = {
        "sync": lambda: sync_weights(actor, engine, version=1),
        "reload": lambda: engine.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(ready.items())}
        ),
    }
    if received:
        ways["transfer"] = lambda: transfer(received)
    found = measure(ways, options.repeats, comm)
    figures = {
        "model": f"random, {options.layers} layers" if options.model is None else options.model.name,
        "model_bytes": model_bytes,
        "actor": {"tensor": options.tensor, "pipeline": options.pipeline},
        "rollout_tensor": options.rollout_tensor,
        "ranks": comm.world_size,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "bucket_mb": options.bucket_mb,
        "ways": {name: vars(measured) for name, measured in found.items()},
        "bytes_by_rank": [vars(one) for one in traffic],
    }
    return figures, engine


def ratio(figures: dict, *parts: str) -> float:
    """Median over the repeats of the sync's time to that of the parts together."""
    seconds = {name: way["seconds"] for name, way in figures["ways"].items()}
    sums = [sum(values) for values in zip(*(seconds[part] for part in parts), strict=True)]
    return statistics.median(own / other for own, other in zip(seconds["sync"], sums, strict=True))


def record(figures: dict) -> Record:
    ways = {
        name: {"wall_s": way["seconds"], "cpu_s": way["cpu_seconds"], "extra_gb": way["extra_gb"]}
        for name, way in figures["ways"].items()
    }
    bare = "reload"
    if "transfer" in ways:
        bare = "reload + transfer"
        parts = (ways["reload"], ways["transfer"])
        ways[bare] = {
            measure: [a + b for a, b in zip(*(part[measure] for part in parts), strict=True)]
            for measure in ("wall_s", "cpu_s")
        }
    settings = {name: value for name, value in figures.items() if name not in ("ways", "cores")}
    title = f"sync / {bare}"
    return Record("sync", settings, ways, {title: ("sync", bare)}, {title: "at most 1.2"})


def show(figures: dict, console: Console) -> None:
    actor = figures["actor"]
    table = Table(
        "",
        *("seconds, median", "lowest to highest", "GB/s", "extra memory"),
        title=f"{figures['model']}: actor TP{actor['tensor']} PP{actor['pipeline']}, rollout "
        f"TP{figures['rollout_tensor']}, {figures['ranks']} rank(s), {figures['cores']} cores",
    )
    for name, way in figures["ways"].items():
        median = statistics.median(way["seconds"])
        table.add_row(
            name,
            f"{median:.3f}",
            f"{min(way['seconds']):.3f} to {max(way['seconds']):.3f}",
            "" if name == "transfer" else f"{figures['model_bytes'] / 1e9 / median:.2f}",
            f"{max(way['extra_gb']) * 1000:.0f} MB",
        )
    table.caption = f"sync / reload: {ratio(figures, 'reload'):.2f}"
    if "transfer" in figures["ways"]:
        table.caption += f"; sync / (reload + transfer): {ratio(figures, 'reload', 'transfer'):.2f}"
    console.print(table)
    moved = Table("rank", "sent", "received", "minimum", title="MB per sync")
    for rank, one in enumerate(figures["bytes_by_rank"]):
        moved.add_row(str(rank), *(f"{one[name] / 1e6:.1f}" for name in ("sent", "received", "minimum")))
    console.print(moved)


def main() -> None:
    parser = row_parser(__doc__, repeats=7, tiny="two layers of the random model")
    parser.add_argument("--model", type=Path, help="Hugging Face folder; default: a random one")
    parser.add_argument("--tensor", type=int, default=1, help="TP of the actor")
    parser.add_argument("--pipeline", type=int, default=1, help="PP of the actor")
    parser.add_argument("--rollout-tensor", type=int, default=1, help="TP of vLLM")
    parser.add_argument("--layers", type=int, default=SHAPE["num_hidden_layers"], help="of the random model")
    parser.add_argument("--bucket-mb", type=int, default=64)
    options = parser.parse_args()
    if options.tiny:
        options.layers = 2
    initialize()
    comm = TorchCommunicator()
    with tempfile.TemporaryDirectory() as name:
        folder = options.model
        if folder is None:
            folder = Path(comm.broadcast(name))
            if comm.rank == 0:
                random_model(folder, options.layers)
            dist.barrier()
        figures, engine = run(options, folder, comm)
    if comm.rank == 0:
        show(figures, Console())
        leave(record(figures), options.output)
    engine.close()


if __name__ == "__main__":
    main()
