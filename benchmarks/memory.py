"""Peak memory per rank of the SmolLM2 example, and what holds it, with and without the distributed optimizer.

    python -m benchmarks.memory [--data FOLDER] [--model FOLDER] [--repeats 3] [--tiny] [--output FILE.json]

Steps of examples/smollm2_135m_math on two data-parallel ranks, as `coreward train` starts them, with EOS
ignored, so that all responses are as long as they may be. The rank with the highest peak counts. `peak_gb` is
the resident memory, the others are parts of it: bytes of tensors; `files_gb`, mapped files, which are
libraries and weights that several processes may share; and `rest_gb`, what is left at the peak: activations
and logits under way, Python, and memory that the allocators hold. Of the KV cache only what was written is
resident, so that it is part of the rest; `kv_cache_gb` is all of it and not counted.
"""

import tempfile
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks import trl_line
from benchmarks.options import leave, row_parser
from benchmarks.record import Record, Series
from megatron_coreward.actor.compute.offload import optimizer_tensors
from megatron_coreward.trainer import Trainer
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "smollm2_135m_math" / "config.yaml"
PARTS = ("weights", "gradients", "optimizer", "reference", "vllm_weights", "files")
PHASES = ("rollout", "log_probs", "update", "sync")
WAYS = {"optimizer on each rank": "false", "distributed optimizer": "true"}


def weight_bytes(model: Any) -> int:
    """Of a model; every storage once, since weights may be tied."""
    storages = [weight.untyped_storage() for weight in model.parameters()]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def holdings(trainer: Trainer, metrics: dict[str, float]) -> dict[str, float]:
    """What holds this rank's memory after a step, in GB; the peaks are the highest of all ranks."""
    policy, engine = trainer.policy, trainer.rollout
    buffers = [*policy.ddp.buffers, *policy.ddp.expert_parallel_buffers]
    sizes = {
        "weights": weight_bytes(policy.model.module),
        "gradients": sum(buffer.grad_data.nbytes for buffer in buffers),
        "optimizer": sum(tensor.nbytes for tensor in optimizer_tensors(policy.optimizer)),
        "reference": weight_bytes(trainer.reference.model.module),
        "vllm_weights": engine.llm.apply_model(weight_bytes)[0],
        "files": psutil.Process().memory_info().shared,
    }
    found = {f"{part}_gb": size / 1e9 for part, size in sizes.items()}
    peak = metrics["memory/peak_gb"]
    phases = {f"{name}_peak_gb": metrics[f"memory/{name}_gb"] for name in PHASES}
    cache = {"kv_cache_gb": trainer.config.rollout.memory_gb * 2**30 / 1e9}
    return {"peak_gb": peak, **phases, **found, "rest_gb": peak - sum(found.values()), **cache}


def example(options: Any, model: Path, folder: Path, distributed: str) -> list[str]:
    """The arguments of the run."""
    files = {"original": "train_original.parquet", "rephrased": "train_rewrite_Qwen3-32B.parquet"}
    return [
        str(EXAMPLE),
        *(f"data.{key}={options.data}/{file}" for key, file in files.items()),
        f"model.path={model}",
        f"run.output_dir={folder}/run-{distributed}",
        "run.export_hf=false",
        f"optimizer.distributed={distributed}",
    ]


def measure(arguments: list[str], spec: dict[str, Any], repeats: int) -> Series:
    steps = trl_line.steps_of_ours(
        spec | {"arguments": [*arguments, f"run.steps={trl_line.WARM_UP + repeats}"], "holdings": True}
    )
    names = [name for name in steps[0][0] if name.endswith("_gb")]
    return {name: [max(rank[name] for rank in step) for step in steps] for name in names}


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="a toy model")
    trl_line.add_inputs(parser)
    options, console = parser.parse_args(), Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = trl_line.model_folder(options, folder)
        spec = {"new_tokens": 64, "kv_block": 0, "floor": False}
        found = {}
        for way, distributed in WAYS.items():
            found[way] = measure(example(options, model, folder, distributed), spec, options.repeats)
            console.print(f"{way}: {found[way]}")
    whole, shared = found
    title = "distributed / on each rank"
    record = Record(
        row="memory",
        settings={"model": model.name, "ranks": 2, "example": EXAMPLE.parent.name},
        ways=found,
        ratios={title: (shared, whole)},
        goals={title: "peak at most 6 GB by at most 7 GB"},
        notes={"parts of the peak": ", ".join((*PARTS, "rest"))},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
