"""Work of test_killed_saves.py's processes: save, be killed at a chosen moment, and resume."""

import errno
import os
import pickle
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncCallsQueue
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

from megatron_coreward.actor import saver as checkpoint
from megatron_coreward.actor.checkpoint import background as checkpoint_writing
from megatron_coreward.actor.checkpoint.folder import Retention, latest_checkpoint
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import config_of, make_policy, snapshot, train

torch.set_num_threads(1)
FIRST, SECOND = 1, 2
"""Steps of the checkpoint that is there, and of the one whose saving is cut short."""


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str) -> Any:
    """The process dies when `owner.name` is called."""
    return mock.patch.object(owner, name, die)


def after(owner: Any, name: str) -> Any:
    """The process dies when `owner.name` has returned."""
    original = getattr(owner, name)

    def then_die(*args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        die()

    return mock.patch.object(owner, name, then_die)


@contextmanager
def between_the_renames() -> Iterator[None]:
    """A checkpoint of the same step is there already and has been moved aside when the process dies."""
    rename, publish = Path.rename, checkpoint.publish

    def rename_once(path: Path, target: Path) -> None:
        rename(path, target)
        die()

    def over_another(new: Path, target: Path) -> None:
        shutil.copytree(target.with_name(f"step_{FIRST:06d}"), target)
        with mock.patch.object(Path, "rename", rename_once):
            publish(new, target)

    with mock.patch.object(checkpoint, "publish", over_another):
        yield


def half_a_shard(then: Callable[[], None]) -> Any:
    """The writer has written half of its first tensor when `then` happens to it."""

    def write(_: Any, __: int, bucket: Any, results: Any, ___: Any, use_fsync: bool) -> None:
        tensor = bucket[2][1][0][1]
        Path(bucket[0]).write_bytes(bytes(tensor.nbytes // 2))
        try:
            then()
        except OSError as error:  # as the function in whose place this stands does
            results.put((0, error))

    return mock.patch.object(FileSystemWriterAsync, "write_preloaded_data", staticmethod(write))


def unreadable() -> Any:
    """What is written cannot be read back: it happens outside Megatron's own `try`."""

    def measure(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    return mock.patch.object(checkpoint_writing, "measure", measure)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def slow_writer() -> Any:
    original = FileSystemWriterAsync.write_preloaded_data

    def write(*args: Any, **kwargs: Any) -> None:
        time.sleep(1)
        original(*args, **kwargs)

    return mock.patch.object(FileSystemWriterAsync, "write_preloaded_data", staticmethod(write))


@contextmanager
def killed_while_the_writer_writes() -> Iterator[None]:
    """The run dies as soon as its writer has been started; the writer is slow, and goes on as an orphan."""
    with slow_writer(), after(AsyncCallsQueue, "schedule_async_request"):
        yield


MOMENTS: dict[str, tuple[Callable[[], Any], int]] = {
    "folder made, nothing written": (lambda: after(checkpoint, "_make_room"), FIRST),
    "common.pt written": (lambda: after(TorchCommonSaveStrategy, "save_common"), FIRST),
    "the writer is at work": (killed_while_the_writer_writes, FIRST),
    "shards written, not .metadata": (lambda: before(checkpoint_writing._Handover, "get_nowait"), FIRST),
    ".metadata written": (lambda: after(FileSystemWriterAsync, "finish"), FIRST),
    "metadata.json written": (lambda: before(checkpoint, "_complete"), FIRST),
    "hf/ written": (lambda: after(checkpoint, "copy_hf_files"), FIRST),
    "state.json written, not renamed": (lambda: before(checkpoint, "publish"), FIRST),
    "between the renames, replacing": (between_the_renames, FIRST),
    "renamed": (lambda: after(checkpoint, "publish"), SECOND),
    "pruning, the old one renamed": (lambda: before(shutil, "rmtree"), SECOND),
}
"""Moment of the kill -> what makes it, and the step that the next run must find."""


def run(work: Callable[..., Any], rank: int, ranks: int, folder: Path, *args: Any) -> None:
    """`work` on one of the ranks; what it returns is pickled."""
    store = folder.parent / f"store_{os.getppid()}_{work.__name__}"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    (folder.parent / f"result_{rank}").write_bytes(pickle.dumps(work(folder, *args)))
    os._exit(0)


def save_twice(folder: Path, model: Path, moment: str, in_background: bool) -> dict[str, Any]:
    """The first checkpoint in peace; the second is cut short at `moment`. Writes down both states before."""
    policy = make_policy(config_of(model, ParallelConfig()))
    saver = CheckpointSaver(folder, policy, Retention(last=1), in_background=in_background)
    train(policy, FIRST)
    saver.save(FIRST, {"step": FIRST})
    saver.finish()
    states = {FIRST: snapshot(policy)}
    train(policy, SECOND)
    states[SECOND] = snapshot(policy)
    (folder.parent / "states").write_bytes(pickle.dumps(states))
    with MOMENTS[moment][0]():
        saver.save(SECOND, {"step": SECOND})
        saver.poll()
        saver.finish()
    raise AssertionError(f"the process survived the moment: {moment}")


def go_on(folder: Path, model: Path) -> dict[str, Any]:
    """A new run: what it finds, what it loads, and the folder after its next checkpoint."""
    policy = make_policy(config_of(model, ParallelConfig()))
    left = sorted(path.name for path in folder.iterdir())
    found = latest_checkpoint(folder, policy.comm)
    assert found is not None, left
    state = load_checkpoint(found, policy)
    loaded = snapshot(policy)
    CheckpointSaver(folder, policy, Retention(last=1)).save(3, {"step": 3})
    return {
        "left": left,
        "found": found.name,
        "state": state,
        "loaded": loaded,
        "after": sorted(path.name for path in folder.iterdir()),
    }


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "its writer is killed": (
        lambda: half_a_shard(die),
        "the writing process was killed by SIGKILL (the machine may have run out of memory)",
    ),
    "its writer crashes": (
        lambda: half_a_shard(lambda: os.kill(os.getpid(), signal.SIGSEGV)),
        "the writing process was killed by SIGSEGV.",
    ),
    "its writer leaves": (lambda: half_a_shard(lambda: os._exit(3)), "ended with exit code 3 and without"),
    "the disk is full": (
        lambda: half_a_shard(disk_full),
        "OSError: [Errno 28] No space left on device",
    ),
    "its file cannot be read back": (unreadable, "OSError: [Errno 5] Input/output error"),
}
"""What happens to a writer, and the reason in the error."""


def fail_and_go_on(folder: Path, model: Path, fault: str) -> dict[str, Any]:
    """A save in which the writer of the last rank fails half way, and the next one."""
    policy = make_policy(config_of(model, ParallelConfig(pipeline=dist.get_world_size())))
    saver = CheckpointSaver(folder, policy, Retention(last=2), in_background=True)
    saver.save(1, {"step": 1})
    with ExitStack() as stack:
        if dist.get_rank() == dist.get_world_size() - 1:
            stack.enter_context(FAULTS[fault][0]())
        saver.save(2, {"step": 2})
    with pytest.raises(OSError) as error:
        saver.finish()
    left = sorted(path.name for path in folder.iterdir())
    saver.save(3, {"step": 3})
    saver.finish()
    return {"error": str(error.value), "left": left, "after": sorted(path.name for path in folder.iterdir())}


ONE_OF_TWO: dict[str, tuple[int, Callable[[], Any]]] = {
    "rank 1 before its shards": (1, lambda: before(checkpoint, "sharded_state")),
    "rank 1 while its writer writes": (1, killed_while_the_writer_writes),
    "rank 0 while its writer writes": (0, killed_while_the_writer_writes),
    "rank 1 when its shards are written": (1, lambda: before(checkpoint_writing._Handover, "get_nowait")),
    "rank 0 before the rename": (0, lambda: before(checkpoint, "publish")),
}
"""Which of two ranks is killed, and when."""


def one_rank_dies(folder: Path, model: Path, moment: str) -> None:
    """A first save in peace, and a second one in which one rank is killed."""
    policy = make_policy(config_of(model, ParallelConfig(pipeline=2)))
    saver = CheckpointSaver(folder, policy, Retention(last=1), in_background=True)
    saver.save(FIRST, {"step": FIRST})
    saver.finish()
    victim, fault = ONE_OF_TWO[moment]
    with ExitStack() as stack:
        if dist.get_rank() == victim:
            stack.enter_context(fault())
        saver.save(SECOND, {"step": SECOND})
        saver.finish()


def train_while_saving(folder: Path, model: Path) -> dict[str, Any]:
    """Updates between the begin and the end of a save in the background."""
    policy = make_policy(config_of(model, ParallelConfig()))
    saver = CheckpointSaver(folder, policy, Retention(last=0), in_background=True)
    train(policy, 1)
    begun = snapshot(policy)
    with slow_writer():
        saver.save(1, {"step": 1})
        train(policy, 3)
        saver.poll()
        during = [path.name for path in folder.glob("step_*")]
    saver.finish()
    moved = snapshot(policy)
    load_checkpoint(folder / "step_000001", policy)
    return {"begun": begun, "during": during, "moved": moved, "loaded": snapshot(policy)}
