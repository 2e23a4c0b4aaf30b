"""Folders that appear under their name only when they are complete, and errors that all ranks share."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Gathering(Protocol):
    """The part of a communicator that is needed here."""

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank."""


@contextmanager
def errors_on_all_ranks(comm: Gathering) -> Iterator[None]:
    """An OSError or ValueError that the body raises on one rank is raised on all of them. A collective.

    The body itself must not communicate: the ranks meet at its end.
    """
    error = None
    try:
        yield
    except (OSError, ValueError) as raised:
        error = raised
    errors = [found for found in comm.all_gather(error) if found is not None]
    if error is not None:
        raise error
    if errors:
        raise errors[0]


def temporary_name(target: Path) -> Path:
    """Where `target` is written until it is complete: a hidden neighbour, on the same file system."""
    return target.with_name(f".{target.name}.tmp")


def replaced_name(target: Path) -> Path:
    """Where a folder that is being replaced lives until the new one has its name."""
    return target.with_name(f".{target.name}.replaced")


def publish(new: Path, target: Path) -> None:
    """Gives the finished folder `new` the name `target`, after its content has reached the disk.

    A folder that is there already is moved aside first and deleted last.
    """
    for path in [*new.iterdir(), new]:
        _to_disk(path)
    old = replaced_name(target)
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    new.rename(target)
    _to_disk(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
