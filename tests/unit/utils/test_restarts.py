"""The ranks of an attempt find each other in a store used by earlier attempts; ranks are threads here."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import torch.distributed as dist

from megatron_coreward.utils.restarts import of_this_attempt

RANKS = 3
PATIENCE = timedelta(seconds=20)


@pytest.fixture
def store() -> Iterator[dist.TCPStore]:
    yield dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=PATIENCE)


def join(store: dist.TCPStore, rank: int, timeout: timedelta = PATIENCE) -> dist.PrefixStore:
    """As a process of its own would: with its own connection."""
    own = dist.TCPStore("127.0.0.1", store.port, is_master=False, timeout=timeout)
    return of_this_attempt(own, rank, RANKS, timeout)


def attempt(store: dist.TCPStore, order: tuple[int, ...] = (0, 1, 2)) -> list[dist.PrefixStore]:
    with ThreadPoolExecutor(RANKS) as threads:
        joining = {rank: threads.submit(join, store, rank) for rank in order}
        return [joining[rank].result() for rank in range(RANKS)]


def test_every_attempt_has_keys_of_its_own(store: dist.TCPStore) -> None:
    for number, order in enumerate([(0, 1, 2), (2, 1, 0), (1, 0, 2)]):
        stores = attempt(store, order)
        assert not any(one.check(["address"]) for one in stores), "an earlier attempt's key shows"
        stores[0].set("address", str(number))
        assert [one.get("address") for one in stores] == [str(number).encode()] * RANKS


@pytest.mark.parametrize("died", [0, 1])
def test_a_rank_that_died_while_it_joined_disturbs_nobody(store: dist.TCPStore, died: int) -> None:
    """Rank 0 alone, or a rank without rank 0: what it leaves behind is no answer to the next attempt."""
    with ThreadPoolExecutor(1) as thread:
        error = thread.submit(join, store, died, timedelta(seconds=1)).exception()
    assert isinstance(error, TimeoutError | dist.DistStoreError)
    stores = attempt(store)
    stores[2].set("address", "here")
    assert stores[0].get("address") == b"here"


def test_rank_0_names_who_did_not_start(store: dist.TCPStore) -> None:
    with pytest.raises(TimeoutError, match=r"ranks \[1, 2\] of 3 did not start within 0:00:01"):
        join(store, 0, timedelta(seconds=1))
