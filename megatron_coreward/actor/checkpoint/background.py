"""Writes the shards of a checkpoint in the background: one forked process per rank, and nothing else.

Megatron hands the results of its writing processes over through a manager process that it starts by
importing `__main__` (seconds, and a signal to the process group ends it), and it waits for ever for a writer
that was killed. Here results come back through a file in memory, and so does whatever ends a writer early; of
one that was killed the signal is named. All ranks are told.

The fork has a copy-on-write view of the tensors: training may change them as soon as `start` has returned.
"""

import os
import pickle
import queue
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import apply_factories
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue, AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.api import CheckpointException

from megatron_coreward.actor.checkpoint.folder import measure
from megatron_coreward.actor.checkpoint.model_state import sharded_tensors
from megatron_coreward.actor.compute.offload import on_its_own
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.replaced import replaced


class ShardWriting:
    """The writing of one checkpoint's shards, under way. Collective to make: all ranks do the same."""

    def __init__(self, sharded_state: dict[str, Any], folder: Path, comm: Communicator) -> None:
        self._comm = comm
        self._handover = _Handover()
        self._calls = AsyncCallsQueue(persistent=False)
        _without_copies(sharded_state)
        with _no_signals(), replaced(filesystem_async, _results_queue=self._handover):
            request = dist_checkpointing.save(
                sharded_state, str(folder), _ForkedWrites("torch_dist", 1), async_sharded_save=True
            )
            self._calls.schedule_async_request(request)
        self.writer = self._handover.writer = self._calls.async_calls[-1].async_caller.process

    def is_done(self, wait: bool) -> bool:
        """Tells whether all ranks have written; then Megatron's metadata is written too. A collective.

        Raises:
            CheckpointException: on every rank, when one could not write or its writer died; with the reasons.
        """
        try:
            return bool(self._calls.maybe_finalize_async_calls(blocking=wait))
        except CheckpointException as error:  # Megatron tells rank 0 alone why
            raise CheckpointException("write", self._comm.broadcast(error.failures)) from error

    def files(self) -> dict[str, dict[str, int]]:
        """Sizes and checksums of the files that this rank has written; after is_done."""
        return self._handover.files()


def _without_copies(sharded_state: dict[str, Any]) -> None:
    """Lets the writer read in place what is in main memory: parts of a matrix or of a buffer, too."""
    apply_factories(sharded_state)
    for tensor in sharded_tensors(sharded_state):
        if tensor.data.is_cpu and tensor.data.is_contiguous():
            tensor.data = on_its_own(tensor.data)


class _Handover:
    """Stands in for the queue that Megatron reads its writers' results from. Never on a disk that is full.

    The forked writer enters it and puts its results; an exception that leaves the block goes over instead.
    """

    def __init__(self) -> None:
        self._file = os.fdopen(os.memfd_create("checkpoint"), "w+b")
        self.writer: BaseProcess | None = None
        """None: this rank has nothing to write."""

    def __enter__(self) -> "_Handover":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if error is not None:
            traceback.print_exception(error)  # the log has it all, the run's error one line
            self.put(RuntimeError(traceback.format_exception_only(error)[-1].strip()), {})
        return True

    def put(self, results: dict | Exception, files: dict[str, dict[str, int]]) -> None:
        self._file.write(pickle.dumps((results, files)))
        self._file.flush()

    def get_nowait(self) -> dict | Exception:
        """Called by Megatron, when the writer has ended."""
        assert self.writer is not None, "Megatron asks for results of a writer that it has not started"
        code = self.writer.exitcode
        return self._read()[0] if code == 0 else RuntimeError(_death(code))

    def files(self) -> dict[str, dict[str, int]]:
        return self._read()[1] if self.writer is not None else {}

    def _read(self) -> tuple[Any, dict[str, dict[str, int]]]:
        self._file.seek(0)
        return pickle.load(self._file)


def _death(code: int | None) -> str:
    """How a writer ended that has left no reason. Negative codes are signals."""
    if code is None or code >= 0:
        return f"the writing process ended with exit code {code} and without a reason"
    why = " (the machine may have run out of memory)" if -code == signal.SIGKILL else ""
    return f"the writing process was killed by {signal.Signals(-code).name}{why}"


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
    with handover:
        for index, bucket in enumerate(buckets):
            outcomes: queue.SimpleQueue = queue.SimpleQueue()
            busy: queue.Queue = queue.Queue()
            busy.put(index)
            filesystem_async.FileSystemWriterAsync.write_preloaded_data(
                transforms, index, bucket, outcomes, busy, use_fsync=True
            )
            _, outcome = outcomes.get()
            if isinstance(outcome, Exception):
                raise outcome
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
