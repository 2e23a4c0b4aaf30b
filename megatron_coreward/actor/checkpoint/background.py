"""Writes the shards of a checkpoint in the background: one forked process per rank, and nothing else.

Megatron hands the results of its writing processes over through a manager process that it starts by
importing `__main__` (seconds, and a signal to the process group ends it), and it waits for ever for a writer
that was killed. Here results come back through a file in memory, and a writer that died is an error.

The fork has a copy-on-write view of the tensors: training may change them as soon as `start` has returned.
"""

import os
import pickle
import queue
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from megatron_coreward.actor.checkpoint.folder import measure
from megatron_coreward.utils.replaced import replaced


class ShardWriting:
    """The writing of one checkpoint's shards, under way. Collective to make: all ranks do the same."""

    def __init__(self, sharded_state: dict[str, Any], folder: Path) -> None:
        self._handover = _Handover()
        self._calls = AsyncCallsQueue(persistent=False)
        with _no_signals(), replaced(filesystem_async, _results_queue=self._handover):
            request = dist_checkpointing.save(
                sharded_state, str(folder), _ForkedWrites("torch_dist", 1), async_sharded_save=True
            )
            self._calls.schedule_async_request(request)

    def is_done(self, wait: bool) -> bool:
        """Tells whether all ranks have written; then Megatron's metadata is written too. A collective.

        Raises:
            CheckpointException: on every rank, when one could not write or its writer died.
        """
        return bool(self._calls.maybe_finalize_async_calls(blocking=wait))

    def files(self) -> dict[str, dict[str, int]]:
        """Sizes and checksums of the files that this rank has written; after is_done."""
        return self._handover.files()


class _Handover:
    """Stands in for the queue that Megatron reads its writers' results from. Never on a disk that is full."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("checkpoint"), "w+b")

    def put(self, results: dict | Exception, files: dict[str, dict[str, int]]) -> None:
        """Called by the forked writer."""
        pickle.dump((results, files), self._file)
        self._file.flush()

    def get_nowait(self) -> dict | Exception:
        """Called by Megatron. Raises queue.Empty if the writer left nothing."""
        if not self._has_content():
            raise queue.Empty
        return self._read()[0]

    def files(self) -> dict[str, dict[str, int]]:
        return self._read()[1] if self._has_content() else {}

    def _has_content(self) -> bool:
        return os.fstat(self._file.fileno()).st_size > 0

    def _read(self) -> tuple[Any, dict[str, dict[str, int]]]:
        self._file.seek(0)
        return pickle.load(self._file)


class _ForkedWrites(TorchDistSaveShardedStrategy):
    """Megatron's strategy with `_write` in place of its own tree of processes."""

    def __init__(self, backend: str, version: int) -> None:
        super().__init__(backend, version, thread_count=1)

    def _get_save_and_finalize_callbacks(self, writer: Any, save_state_dict_ret: Any) -> AsyncRequest:
        request = super()._get_save_and_finalize_callbacks(writer, save_state_dict_ret)
        if request.async_fn is None:  # a rank that has nothing to write
            return request
        return request._replace(async_fn=partial(_write, [writer.transforms]))


def _write(transforms: list[Any], rank: int, buckets: list[Any], handover: _Handover) -> None:
    """Writes this rank's files and measures them. Runs in the forked process."""
    results: dict[int, Any] = {}
    files: dict[str, dict[str, int]] = {}
    for index, bucket in enumerate(buckets):
        outcomes: queue.SimpleQueue = queue.SimpleQueue()
        busy: queue.Queue = queue.Queue()
        busy.put(index)
        filesystem_async.FileSystemWriterAsync.write_preloaded_data(
            transforms, index, bucket, outcomes, busy, use_fsync=True
        )
        _, outcome = outcomes.get()
        if isinstance(outcome, Exception):
            handover.put(outcome, {})
            return
        results[index] = outcome
        file = Path(bucket[0])
        files |= measure(file.parent, [file.name])
    handover.put(results, files)


@contextmanager
def _no_signals() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back. A child inherits that, and torchrun signals the whole process group:
    the writers finish, and this process sees the signal afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
