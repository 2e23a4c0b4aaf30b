"""Peak memory of this rank, and reuse of what it has freed."""

import contextlib
import ctypes
import logging
import os
import resource
from pathlib import Path

import torch

logger = logging.getLogger(__name__)

_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""See proc(5)."""
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = -1
"""See mallopt(3)."""


def keep_freed_memory() -> None:
    """From now on this process keeps the host memory that it frees and uses it for the next tensor.

    glibc returns large blocks to the system, and each new one costs a page fault per 4 KiB, which takes as
    long as reading a tensor into it. For programs that make one tensor after the other, on a CPU. Who has set
    one of glibc's variables keeps that choice; with another C library nothing changes.
    """
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(OSError, TypeError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
        libc.mallopt(_M_MMAP_MAX, 0)
        logger.info("memory that this process frees stays reserved for its next tensors (mallopt)")


class PeakMemory:
    """Most memory used: since the last `restart`, and in all. In GB.

    With a GPU that is what torch has allocated there. Without, it is the resident memory of the process;
    where the system does not let a process reset its peak, both figures are the peak in all.
    """

    def __init__(self) -> None:
        self._in_all = 0.0

    def restart(self) -> None:
        self._in_all = self.in_all_gb()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
            return
        with contextlib.suppress(OSError):  # not Linux, or a container that forbids it
            _CLEAR_REFS.write_text(_RESET_PEAK)

    def since_restart_gb(self) -> float:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated() / 1e9
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9

    def in_all_gb(self) -> float:
        return max(self._in_all, self.since_restart_gb())
