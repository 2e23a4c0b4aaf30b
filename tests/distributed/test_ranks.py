"""The test helper itself: results by rank, errors shown, no hang."""

import os
import time

import pytest
import torch
import torch.distributed as dist

from tests.support.ranks import RankError, run_ranks


def summed(rank: int, shift: int) -> tuple[int, int]:
    total = torch.tensor([rank + shift])
    dist.all_reduce(total)
    return rank, int(total)


def raise_on_rank_1(rank: int) -> None:
    if rank == 1:
        raise ValueError("rank one is unhappy")
    dist.barrier()


def die(rank: int) -> None:
    os._exit(7)


def sleep_forever(rank: int) -> None:
    time.sleep(1000)


def test_returns_the_results_by_rank():
    assert run_ranks(2, summed, 10) == [(0, 21), (1, 21)]


def test_shows_the_traceback_of_the_failing_rank():
    with pytest.raises(RankError, match="rank 1 raised:(.|\n)*rank one is unhappy"):
        run_ranks(2, raise_on_rank_1)


def test_a_dead_rank_is_an_error():
    with pytest.raises(RankError, match="exit code 7"):
        run_ranks(1, die)


def test_the_time_limit_ends_a_hanging_rank():
    start = time.monotonic()
    with pytest.raises(RankError, match="limit of 8 s"):
        run_ranks(1, sleep_forever, timeout_s=8)
    assert time.monotonic() - start < 30
