"""Runs a function on several gloo ranks and returns what each rank returned.

    def work(rank: int, shift: int) -> int:          # importable, at the top level of a module
        total = torch.tensor([rank + shift])
        dist.all_reduce(total)
        return total.item()

    assert run_ranks(2, work, 10) == [21, 21]

Each rank is a process, forked from a server that has the imports of the ranks and no threads, so it starts at
once. Its result is pickled. A rank that raises fails the call with its traceback, and the time limit kills
all ranks, so a test can fail but never hang.
"""

import multiprocessing
import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

GRACE_S = 2.0
"""How long the other ranks may still run after one has failed: their errors often explain the first."""


class RankError(RuntimeError):
    """A rank raised, died or took too long."""


def run_ranks(world_size: int, function: Callable[..., Any], *args: Any, timeout_s: float = 120) -> list[Any]:
    """Calls `function(rank, *args)` on `world_size` ranks of a gloo group; returns the results by rank."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            context.Process(target=_rank_main, args=(rank, world_size, folder, timeout_s, function, args))
            for rank in range(world_size)
        ]
        try:
            for process in processes:
                process.start()
            _join(processes, timeout_s)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                if process.pid is not None:
                    process.join()
        _raise_failures(processes, folder, timeout_s)
        return [pickle.loads((folder / f"result_{rank}").read_bytes()) for rank in range(world_size)]


def _join(processes: Sequence[BaseProcess], timeout_s: float) -> None:
    """Waits until all have ended, until one has failed (plus a moment of grace) or until time is up."""
    deadline = time.monotonic() + timeout_s
    failed = False
    running = list(processes)
    while running and time.monotonic() < deadline:
        wait([process.sentinel for process in running], timeout=deadline - time.monotonic())
        running = [process for process in running if process.is_alive()]
        if not failed and any(process.exitcode not in (0, None) for process in processes):
            failed = True
            deadline = min(deadline, time.monotonic() + GRACE_S)


def _raise_failures(processes: Sequence[BaseProcess], folder: Path, timeout_s: float) -> None:
    raised = {
        rank: (folder / f"error_{rank}").read_text()
        for rank in range(len(processes))
        if (folder / f"error_{rank}").exists()
    }
    if raised:
        raise RankError("\n".join(f"rank {rank} raised:\n{text}" for rank, text in raised.items()))
    ended = [f"rank {r}: exit code {p.exitcode}" for r, p in enumerate(processes) if p.exitcode != 0]
    if ended:
        raise RankError(f"ended without a result within the limit of {timeout_s} s: {', '.join(ended)}")


def _rank_main(
    rank: int,
    world_size: int,
    folder: Path,
    timeout_s: float,
    function: Callable[..., Any],
    args: Sequence[Any],
) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(world_size))
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=timeout_s),
    )
    try:
        result = pickle.dumps(function(rank, *args))
    except BaseException:
        (folder / f"error_{rank}").write_text(traceback.format_exc())
        raise
    (folder / f"result_{rank}").write_bytes(result)
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
