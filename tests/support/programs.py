"""Starts the real programs as a user does, and reads their output files."""

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.synthetic import held_out, make_pairs
from megatron_coreward.utils.metrics import read_metrics
from tests.support.paths import ROOT

TRAIN = ("-m", "megatron_coreward.train")


def launch(ranks: int, *arguments: str, timeout_s: float = 400) -> subprocess.CompletedProcess[str]:
    """Runs Python with `arguments` on `ranks` ranks; stdout and stderr together in `.stdout`."""
    return subprocess.run(
        command(ranks, *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def start(ranks: int, *arguments: str) -> subprocess.Popen[str]:
    """Like launch, without waiting; messages come on stderr."""
    return subprocess.Popen(
        command(ranks, *arguments),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of a program and all its ranks, which torchrun starts in sessions of their own."""
    program = psutil.Process(process.pid)
    for one in [program, *program.children(recursive=True)]:
        one.kill()
    process.communicate(timeout=120)


def command(ranks: int, *arguments: str) -> list[str]:
    if ranks == 1:
        return [sys.executable, *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [*torchrun, *arguments]


def environment() -> dict[str, str]:
    """The user's, with one thread per rank, and without the variables of an outer torchrun."""
    outer = re.compile(r"^(RANK|WORLD_SIZE|LOCAL_RANK|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_.*)$")
    kept = {name: value for name, value in os.environ.items() if not outer.match(name)}
    return {**kept, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}


def settings(model: Path, output: Path, data: Path, **overrides: object) -> list[str]:
    """A small run as command-line overrides; `section__key=value` changes or adds one."""
    keys: dict[str, object] = {
        "model.path": model,
        "run.output_dir": output,
        "run.steps": 3,
        "data.original": data / "train_original.parquet",
        "data.rephrased": data / "train_rephrased.parquet",
        "data.batch_pairs": 16,
        "data.max_prompt_tokens": 96,
        "data.system_prompt": "",
        "rollout.samples": 8,
        "rollout.max_response_tokens": 24,
        "rollout.memory_gb": 0.25,
        "optimizer.lr": 1e-3,
        "optimizer.micro_batch_tokens": 2048,
        "logging.tensorboard": "false",
    }
    keys |= {name.replace("__", "."): value for name, value in overrides.items()}
    return [f"{key}={value}" for key, value in keys.items()]


def write_synthetic(folder: Path, count: int = 2000, seed: int = 1) -> None:
    """Writes train_original.parquet, train_rephrased.parquet and test.parquet to `folder`.

    The schema is the one load_pairs and load_questions read; test.parquet has every held-out problem.
    """
    pairs = make_pairs(count, seed)
    originals = [ViewRow(p.pair_id, p.original, p.answer, subject=p.subject) for p in pairs]
    rephrasings = [ViewRow(p.pair_id, p.rephrased, p.answer, subject=p.subject) for p in pairs]
    questions = [ViewRow(q.question_id, q.question, q.answer, subject=q.subject) for q in held_out()]
    folder.mkdir(parents=True, exist_ok=True)
    write_view(originals, folder / "train_original.parquet", "synthetic", "train")
    write_view(rephrasings, folder / "train_rephrased.parquet", "synthetic", "train")
    write_view(questions, folder / "test.parquet", "synthetic", "test")


def write_data(folder: Path, truth: str | None = None) -> Path:
    """Synthetic pairs as Parquet; `truth` poisons or empties the ground truths, or drops them ("absent")."""
    write_synthetic(folder, count=48)
    for name in ("train_original", "train_rephrased"):
        path = folder / f"{name}.parquet"
        table = pq.read_table(path)
        column = table.schema.get_field_index("reward_model")
        if truth == "absent":
            pq.write_table(table.remove_column(column), path)
        elif truth is not None:
            value = {"poisoned": "12345", "empty": ""}[truth]
            rows = pa.array(
                [{"ground_truth": value, "style": "rule"}] * len(table), type=table.schema.field(column).type
            )
            pq.write_table(table.set_column(column, "reward_model", rows), path)
    return folder


def without_times(run: Path) -> list[dict[str, float]]:
    """The figures of a run that must not depend on how fast it was."""
    changing = ("time/", "throughput/", "memory/", "sync/gb_per_second")
    return [{k: v for k, v in step.items() if not k.startswith(changing)} for step in read_metrics(run)]
