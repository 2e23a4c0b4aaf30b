"""What NCCL moves between the GPUs."""

import statistics
import time
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_coreward.utils.distributed import initialize
from tools.gpu_check.table import Figures

NUM_BYTES = 2**30
WARM_UP, REPEATS = 3, 10


def all_reduce(_: Path) -> Figures:
    """Bus bandwidth as nccl-tests define it: what every GPU has to send, whatever their number."""
    initialize()
    ranks = dist.get_world_size()
    tensor = torch.ones(NUM_BYTES // 2, dtype=torch.bfloat16, device="cuda")
    dist.all_reduce(tensor)
    assert bool((tensor == ranks).all()), "NCCL's sum of ones is not the number of ranks"
    tensor.zero_()
    times = []
    for _repeat in range(WARM_UP + REPEATS):
        torch.cuda.synchronize()
        started = time.perf_counter()
        dist.all_reduce(tensor)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[WARM_UP:])
    dist.destroy_process_group()
    sent = 2 * (ranks - 1) / ranks * NUM_BYTES
    return {
        "ranks": ranks,
        "all-reduce of 1 GiB, ms": seconds * 1e3,
        "bus bandwidth, GB/s": sent / seconds / 1e9,
    }
