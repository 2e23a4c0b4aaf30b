"""In-memory stand-ins for roles."""

import pickle
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

TIMEOUT_S = 60.0


class ThreadCommunicator:
    """roles.Communicator among the threads of one process. Values are pickled, as between processes."""

    def __init__(self, rank: int, world_size: int, table: list[Any], barrier: threading.Barrier) -> None:
        self.rank = rank
        self.world_size = world_size
        self.bytes_sent = 0
        self._table = table
        self._barrier = barrier

    def all_to_all(self, outgoing: Sequence[Any]) -> list[Any]:
        assert len(outgoing) == self.world_size, f"{len(outgoing)} items for {self.world_size} ranks"
        others = [item for rank, item in enumerate(outgoing) if rank != self.rank]
        self.bytes_sent += sum(len(pickle.dumps(item, pickle.HIGHEST_PROTOCOL)) for item in others)
        return [items[self.rank] for items in self.all_gather(list(outgoing))]

    def all_gather(self, value: Any) -> list[Any]:
        self._table[self.rank] = pickle.dumps(value)
        self._barrier.wait(TIMEOUT_S)
        gathered = [pickle.loads(item) for item in self._table]
        self._barrier.wait(TIMEOUT_S)  # nobody writes the next value before all have read this one
        return gathered

    def gather(self, value: Any) -> list[Any]:
        received = self.all_to_all([value, *[None] * (self.world_size - 1)])
        return received if self.rank == 0 else []

    def broadcast(self, value: Any, source: int = 0) -> Any:
        return self.all_gather(value)[source]


def run_threads(world_size: int, work: Callable[[ThreadCommunicator], Any]) -> list[Any]:
    """`work(comm)` on every rank of a world of threads; the results by rank."""
    table: list[Any] = [None] * world_size
    barrier = threading.Barrier(world_size)

    def rank_main(rank: int) -> Any:
        try:
            return work(ThreadCommunicator(rank, world_size, table, barrier))
        except BaseException:
            barrier.abort()  # the others must not wait for this rank
            raise

    with ThreadPoolExecutor(world_size) as pool:
        futures = [pool.submit(rank_main, rank) for rank in range(world_size)]
        errors = [future.exception() for future in futures]
    own_errors = [e for e in errors if e is not None and not isinstance(e, threading.BrokenBarrierError)]
    if own_errors:
        raise own_errors[0]
    return [future.result() for future in futures]
