"""The lock on a run folder: one process at a time, however it ends."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_coreward.utils.folders import FolderLock, is_held, publish

HOLD = """
import os, sys, time
from pathlib import Path
from megatron_coreward.utils.folders import FolderLock
lock = FolderLock(Path(sys.argv[1]))
if os.fork() == 0:  # as the writer of a checkpoint, which outlives a killed run
    time.sleep(30)
print("held", flush=True)
time.sleep(30)
"""


@pytest.fixture
def holder(tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_a_second_process_is_told_who_holds_it(holder: subprocess.Popen, tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError, match=rf"run is in use by process {holder.pid} on \S+$"):
        FolderLock(tmp_path / "run")


def test_to_ask_takes_no_lock(holder: subprocess.Popen, tmp_path: Path) -> None:
    assert is_held(tmp_path / "run") and not is_held(tmp_path)
    holder.kill()
    holder.wait()
    assert not is_held(tmp_path / "run")


def test_the_lock_goes_with_the_process_though_its_child_lives(
    holder: subprocess.Popen, tmp_path: Path
) -> None:
    holder.kill()
    holder.wait()
    FolderLock(tmp_path / "run").release()


def test_a_released_folder_can_be_held_again(tmp_path: Path) -> None:
    FolderLock(tmp_path).release()
    FolderLock(tmp_path).release()


def test_publish_replaces_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for name, content in (("target", "old"), ("new", "new")):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "file").write_text(content)
    publish(tmp_path / "new", tmp_path / "target")
    assert (tmp_path / "target" / "inner" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
