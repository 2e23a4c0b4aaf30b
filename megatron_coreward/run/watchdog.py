"""Finds the rank that stalls, and ends the run instead of letting it hang.

Every rank reports to a store which phase of which step it is in, and where in the code. A rank whose phase
takes longer than allowed reads the reports of all ranks, logs which rank is behind, and leaves; torchrun then
ends the others, and starts them anew with --max-restarts. All this happens in a thread of its own, since the
main thread is what waits.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch.distributed as dist

from megatron_coreward.utils.failures import STALLED, end

BEATS_PER_TIMEOUT = 20
LONGEST_BEAT_S = 5.0
MISSED_BEATS = 3
"""A rank that has not reported for so many beats is stopped, killed or unreachable."""
_PACKAGE = Path(__file__).parents[1]
_WAITING = os.path.join("torch", "distributed", "")


@dataclass(frozen=True)
class Report:
    """The last report of a rank on itself. Times are seconds since the epoch, by its own clock."""

    step: int
    phase: str
    entered: float
    reported: float
    place: str
    """Innermost line of this package that its main thread is in."""
    waits: bool
    """It is in a call of torch.distributed."""


class Watchdog:
    """Watches the phases of this rank; all ranks of a run make one.

    `timeout_s` is the longest that a phase may take; 0 watches nothing.
    """

    def __init__(self, timeout_s: float, rank: int, world_size: int, store: dist.Store) -> None:
        self._timeout_s = timeout_s
        self._beat_s = min(LONGEST_BEAT_S, timeout_s / BEATS_PER_TIMEOUT)
        self._rank = rank
        self._world_size = world_size
        self._store = store
        self._main = threading.get_ident()
        self._now = (0, "start", time.time())
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        if timeout_s > 0:
            self._report()
            self._thread.start()

    def enter(self, step: int, phase: str) -> None:
        """The main thread begins a phase."""
        self._now = (step, phase, time.time())

    def close(self) -> None:
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(self._beat_s):
            report = self._report()
            if report.reported - report.entered > self._timeout_s:
                self._give_up(report)

    def _give_up(self, report: Report) -> None:
        """Ends the process, unless the phase ends at last while the other ranks report."""
        before, entered = self._reports(), report.entered
        for _ in range(MISSED_BEATS):
            self._closed.wait(self._beat_s)
            report = self._report()
        if self._closed.is_set() or report.entered != entered:
            return
        end(verdict(before, self._reports(), self._timeout_s), STALLED)
        logging.shutdown()
        os._exit(STALLED)  # the main thread is stuck in a call that nothing else ends

    def _report(self) -> Report:
        """Writes this rank's report to the store, and returns it."""
        step, phase, entered = self._now
        place, waits = _where(sys._current_frames()[self._main])
        report = Report(step, phase, entered, time.time(), place, waits)
        self._store.set(str(self._rank), json.dumps(asdict(report)))
        return report

    def _reports(self) -> dict[int, Report | None]:
        """The last report of every rank; None where there is none yet."""
        return {
            rank: Report(**json.loads(self._store.get(str(rank)))) if self._store.check([str(rank)]) else None
            for rank in range(self._world_size)
        }


def verdict(before: Mapping[int, Report | None], after: Mapping[int, Report | None], timeout_s: float) -> str:
    """Says which ranks are behind, from two reports of every rank, some beats apart.

    These are the ranks that have not reported in between; else those that are in an earlier phase; else those
    that do not wait in a collective. If no rank is any of these, all are described.
    """
    reporting = {r: report for r, report in after.items() if report is not None and report != before[r]}
    behind = sorted(after.keys() - reporting.keys()) or _in_an_earlier_phase(reporting) or _at_work(reporting)
    parts = [f"No phase may take longer than run.stall_timeout_s={timeout_s:g} seconds, and this one does."]
    parts += [_describe(rank, after[rank], rank in reporting) for rank in behind or after]
    waiting = [str(rank) for rank in after if rank not in behind] if behind else []
    if waiting:
        parts.append(f"Waiting for that: rank{'s' if len(waiting) > 1 else ''} {', '.join(waiting)}.")
    return " ".join([*parts, "Ending the run; go on from the last checkpoint with run.resume=true."])


def _in_an_earlier_phase(reports: Mapping[int, Report]) -> list[int]:
    first = min(reports.values(), key=lambda report: (report.step, report.entered))
    behind = [r for r, report in reports.items() if (report.step, report.phase) == (first.step, first.phase)]
    return behind if len(behind) < len(reports) else []


def _at_work(reports: Mapping[int, Report]) -> list[int]:
    return [rank for rank, report in reports.items() if not report.waits]


def _describe(rank: int, report: Report | None, still_reports: bool) -> str:
    if report is None:
        return f"Rank {rank} has never been heard of."
    where = f"phase {report.phase} of step {report.step}, at {report.place}"
    if not still_reports:
        return f"Rank {rank} does not answer any more; it was in {where}."
    seconds = report.reported - report.entered
    return (
        f"Rank {rank} has been in {where}{', in a collective' if report.waits else ''}, for {seconds:.0f} s."
    )


def _where(frame: FrameType | None) -> tuple[str, bool]:
    """The innermost line of this package, and whether a call of torch.distributed is inside it."""
    waits = False
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(_PACKAGE):
            return f"{file.relative_to(_PACKAGE)}:{frame.f_lineno} in {frame.f_code.co_name}", waits
        waits = waits or _WAITING in str(file)
        frame = frame.f_back
    return "a place outside this package", waits


@contextlib.contextmanager
def watching(timeout_s: float) -> Iterator[Watchdog]:
    """A watchdog of this rank, as long as the block lasts. torch.distributed must be initialised."""
    store: dist.Store = dist.HashStore()
    if timeout_s > 0 and dist.get_world_size() > 1:
        # A connection of its own: the main thread holds the default one where it waits for it.
        default = dist.distributed_c10d._get_default_store()
        store = dist.PrefixStore("watchdog", default.clone())  # type: ignore[attr-defined]
    watchdog = Watchdog(timeout_s, dist.get_rank(), dist.get_world_size(), store)
    try:
        yield watchdog
    finally:
        watchdog.close()
