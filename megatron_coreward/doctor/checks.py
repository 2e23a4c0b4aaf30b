"""The checks of a machine that has the packages. Each yields findings, and raises no error for one that is
not fit."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from megatron_coreward.doctor.packages import FAILED, OK, WARNING, Finding
from megatron_coreward.utils.failures import ERROR_FILE

GIB = 2**30

MATMUL, MATMULS = 2048, 8
WRITE_BYTES = 256 * 2**20
REDUCE_BYTES, REDUCES = 64 * 2**20, 5
SLOW_DISK, SMALL_SHM = 100e6, GIB
"""Bytes per second; bytes."""


_OF_RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", ERROR_FILE)
"""Variables of torchrun that the process of the training step must not take for its own."""


def findings(folder: Path, one_step: bool, timeout_s: float) -> Iterator[Finding]:
    """All checks in order; the network's is a collective of all ranks, the others are rank 0's."""
    is_first = int(os.environ.get("RANK", 0)) == 0
    if is_first:
        yield from memory()
        yield from devices()
        yield from speed()
        yield from disk(folder)
    yield from network()
    if is_first and one_step:
        yield from end_to_end(timeout_s)


def memory() -> Iterator[Finding]:
    """Of the machine."""
    free = psutil.virtual_memory()
    seen = f"{free.available / GIB:.1f} of {free.total / GIB:.1f} GiB free"
    good = free.available > 4 * GIB
    yield Finding(
        "memory",
        OK if good else WARNING,
        seen,
        "" if good else "a rank with vLLM takes 2 to 3 GiB: use fewer",
    )


def devices() -> Iterator[Finding]:
    """GPUs, and what their kind allows."""
    if not torch.cuda.is_available():
        yield Finding("GPU", OK, "none; float32 on the CPU")
        return
    for index in range(torch.cuda.device_count()):
        name, (major, minor) = torch.cuda.get_device_name(index), torch.cuda.get_device_capability(index)
        free, total = torch.cuda.mem_get_info(index)
        fp8 = "FP8" if (major, minor) >= (8, 9) else "no FP8"
        seen = f"{name}, SM {major}.{minor} ({fp8}), {free / GIB:.0f} of {total / GIB:.0f} GiB free"
        status, remedy = OK, ""
        if major < 8:
            status, remedy = FAILED, "bfloat16 needs compute capability 8.0: set model.dtype=float32"
        elif free < 0.9 * total:
            status, remedy = WARNING, "other programs hold memory: nvidia-smi shows which"
        yield Finding(f"GPU {index}", status, seen, remedy)


def speed() -> Iterator[Finding]:
    """A short matrix product, to see whether the device is as fast as its kind."""
    on_gpu = torch.cuda.is_available()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    a = torch.randn(MATMUL, MATMUL, dtype=dtype, device="cuda" if on_gpu else "cpu")
    seconds = _seconds(lambda: [a @ a for _ in range(MATMULS)], on_gpu)
    rate = 2 * MATMUL**3 * MATMULS / seconds
    yield Finding(
        f"matmul, {str(dtype).removeprefix('torch.')}",
        OK,
        f"{rate / 1e12:.2f} TFLOP/s, {torch.get_num_threads()} threads",
    )


def network() -> Iterator[Finding]:
    """An all-reduce between the ranks that torchrun has started."""
    if "RANK" not in os.environ:
        seen = "not checked: one process. Start it with torchrun, as a run is started"
        yield Finding("all-reduce", OK, seen)
        return
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    on_gpu = torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    tensor = torch.zeros(REDUCE_BYTES // 4, device="cuda" if on_gpu else "cpu")
    seconds = _seconds(lambda: [dist.all_reduce(tensor) for _ in range(REDUCES)], on_gpu)
    ranks = dist.get_world_size()
    moved = 2 * (ranks - 1) / ranks * REDUCE_BYTES * REDUCES  # what a ring sends per rank
    seen = f"{moved / seconds / 1e9:.2f} GB/s per rank, {ranks} ranks, {dist.get_backend()}"
    yield Finding("all-reduce", OK, seen)


def disk(folder: Path) -> Iterator[Finding]:
    """Writing speed and room where checkpoints go; shared memory, which NCCL and vLLM take."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    block = os.urandom(2**20)
    try:
        with tempfile.TemporaryFile(dir=existing) as file:
            started = time.perf_counter()
            for _ in range(WRITE_BYTES // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = WRITE_BYTES / (time.perf_counter() - started)
    except OSError as error:
        yield Finding(
            f"disk {existing}", FAILED, str(error.strerror), "choose another --folder and run.output_dir"
        )
        return
    free = shutil.disk_usage(existing).free
    slow = rate < SLOW_DISK
    seen = f"{rate / 1e6:.0f} MB/s written, {free / GIB:.0f} GiB free"
    remedy = "checkpoints will take long: write to a faster disk (run.output_dir)" if slow else ""
    yield Finding(f"disk {existing}", WARNING if slow else OK, seen, remedy)
    shm = Path("/dev/shm")
    if shm.exists():
        size = shutil.disk_usage(shm).total
        small = size < SMALL_SHM
        remedy = "give a container more: docker run --shm-size=8g, or --ipc=host" if small else ""
        yield Finding("/dev/shm", WARNING if small else OK, f"{size / GIB:.1f} GiB", remedy)


def end_to_end(timeout_s: float) -> Iterator[Finding]:
    """One training step of a tiny model in a process of its own: Megatron, vLLM, grader, export."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-c", _ONE_STEP, str(folder / "model"), str(folder / "run")]
        started = time.perf_counter()
        environment = {k: v for k, v in os.environ.items() if k not in _OF_RANKS}
        try:
            result = subprocess.run(
                command,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
            )
        except subprocess.TimeoutExpired:
            yield Finding(
                "one training step",
                FAILED,
                f"took more than {timeout_s:g} s",
                "raise --timeout, or free the machine",
            )
            return
    seconds = time.perf_counter() - started
    if result.returncode:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        yield Finding(
            "one training step",
            FAILED,
            last[:200],
            "see the findings above; run make quickstart for the whole log",
        )
    else:
        yield Finding("one training step", OK, f"{seconds:.0f} s, of which most is starting vLLM")


_ONE_STEP = """
import sys
from pathlib import Path
from megatron_coreward.doctor.toy_model import write_random_model
from megatron_coreward.train import main
write_random_model(Path(sys.argv[1]), seed=1)
keys = {"model.path": sys.argv[1], "run.output_dir": sys.argv[2], "run.steps": 1, "data.source": "synthetic",
        "data.batch_pairs": 2, "data.max_prompt_tokens": 96, "data.system_prompt": "", "rollout.samples": 2,
        "rollout.max_response_tokens": 16, "rollout.memory_gb": 0.1,
        "evaluation.limit": 2, "evaluation.samples": 1}
sys.exit(main([f"{key}={value}" for key, value in keys.items()]))
"""


def _seconds(work: Callable[[], object], on_gpu: bool) -> float:
    """Seconds of the second call; the first one warms up."""
    work()
    if on_gpu:
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - started
