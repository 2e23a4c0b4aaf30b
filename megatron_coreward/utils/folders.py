"""Folders that appear under their name only when they are complete, and errors that all ranks share."""

import errno
import fcntl
import os
import shutil
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Gathers(Protocol):
    """The part of roles.Communicator that this module and require_same need."""

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank."""


@contextmanager
def errors_on_all_ranks(comm: Gathers) -> Iterator[None]:
    """An OSError or ValueError that the body raises on one rank is raised on all of them. A collective.

    The body itself must not communicate: the ranks meet at its end.
    """
    error = None
    try:
        yield
    except (OSError, ValueError) as raised:
        error = raised
    errors = [other for other in comm.all_gather(error) if other is not None]
    if error is not None:
        raise error
    if errors:
        raise errors[0]


def temporary_name(target: Path) -> Path:
    """The name of `target` until it is complete: a hidden neighbour, on the same file system."""
    return target.with_name(f".{target.name}.tmp")


def replaced_name(target: Path) -> Path:
    """The name of a folder that is being replaced until the new folder has its own."""
    return target.with_name(f".{target.name}.replaced")


def publish(new: Path, target: Path) -> None:
    """Gives the finished folder `new` the name `target`, after its content has reached the disk.

    A folder that is there already is moved aside first and deleted last.
    """
    for path in [*new.rglob("*"), new]:
        _to_disk(path)
    old = replaced_name(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    _to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def publish_file(new: Path, target: Path) -> None:
    """Gives the finished file `new` the name `target`, in the place of an earlier file, after it has reached
    the disk."""
    _to_disk(new)
    new.replace(target)
    _to_disk(target.parent)


class FolderLock:
    """Holds a folder for this process: as long as it lives, another's lock on the folder fails.

    A POSIX lock, so that the system lifts it however the process ends, and forked children do not keep it.

    Raises:
        BlockingIOError: another process holds it; the message says which.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / ".lock").open("a+")
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise BlockingIOError(f"{folder} is in use by {holder or 'another process'}") from error
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()

    def release(self) -> None:
        self._file.close()


def is_held(folder: Path) -> bool:
    """Whether another process holds the folder (FolderLock). Asks the system and takes no lock itself."""
    path = folder / ".lock"
    if not path.exists():
        return False
    with path.open() as file:
        wanted = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)  # struct flock: the whole file
        kind, *_ = struct.unpack("hhqqi", fcntl.fcntl(file, fcntl.F_GETLK, wanted))
    return kind != fcntl.F_UNLCK


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
