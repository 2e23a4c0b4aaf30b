"""A key space of their own in torchrun's store for ranks that may have been started anew.

After a crash torchrun starts all ranks again with the same store (torch 2.13, rendezvous c10d), which still
has the addresses of those that died: new groups would wait for them. Its count of restarts cannot tell the
attempts apart, since it rises on the node of the rank that crashed and stays on the others.
"""

import time
import uuid
from datetime import timedelta

import torch.distributed as dist

POLL_S = 0.02


def of_this_attempt(store: dist.Store, rank: int, world_size: int, timeout: timedelta) -> dist.PrefixStore:
    """The part of `store` that this attempt's ranks alone use: all of them call this.

    Rank 0 draws the attempt's name. The others cannot know it from one that an earlier rank 0 has left in
    the store, so each asks under its own name, and rank 0 answers until it has been thanked for this very
    answer.

    Raises:
        TimeoutError: on rank 0: a rank did not ask. On the others: torch's DistStoreError, nobody answered.
    """
    if rank > 0:
        own_name = uuid.uuid4().hex
        store.set(f"restarts/asks/{rank}", own_name)
        attempt = store.get(f"restarts/answer/{own_name}").decode()
        store.set(f"restarts/thanks/{own_name}", attempt)
        return dist.PrefixStore(attempt, store)
    attempt, deadline = f"attempt_{uuid.uuid4().hex}", time.monotonic() + timeout.total_seconds()
    silent = list(range(1, world_size))
    while silent:
        silent = [other for other in silent if not _answered(store, other, attempt)]
        if silent and time.monotonic() > deadline:
            raise TimeoutError(f"ranks {silent[:8]} of {world_size} did not start within {timeout}")
        if silent:
            time.sleep(POLL_S)
    return dist.PrefixStore(attempt, store)


def _answered(store: dist.Store, other: int, attempt: str) -> bool:
    """Answers what `other` asks; whether it has taken the answer."""
    if not store.check([f"restarts/asks/{other}"]):
        return False
    asks = store.get(f"restarts/asks/{other}").decode()
    store.set(f"restarts/answer/{asks}", attempt)
    thanks = f"restarts/thanks/{asks}"
    return store.check([thanks]) and store.get(thanks).decode() == attempt
