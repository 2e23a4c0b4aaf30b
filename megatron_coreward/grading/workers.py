"""A pool of processes that compute terms within a hard time limit.

math-verify guards itself with signals, which work in the main thread only and never reach C code; a hang then
stops the whole run. Here a task that takes too long ends with its process: the caller gets TIMED_OUT for that
task and the next one gets a new process.
"""

import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Pipe
from pathlib import Path
from typing import Any

TIMED_OUT: Any = object()
"""Result of a task that took too long, that ended its process or that was left out."""
WALL_FACTOR = 10.0
"""The limit is CPU time, so that a busy machine decides no reward; wall time may be this many times more."""
START_LIMIT_S = 120.0
MEMORY_LIMIT_BYTES = 2 << 30
_SCRIPT = Path(__file__).with_name("math_worker.py")


class WorkerPool:
    """Up to `count` processes, started when first needed. Not for use by several threads at once."""

    def __init__(self, count: int, timeout_s: float) -> None:
        assert count > 0 and timeout_s > 0, f"need workers and time, got {count=} {timeout_s=}"
        self._count, self._timeout_s = count, timeout_s
        self._idle: list[_Worker] = []

    def run(self, tasks: Sequence[tuple[Any, ...]], budget_s: float = math.inf) -> list[Any]:
        """Results in the order of `tasks`, each (text, letters) as in math_worker.read, or TIMED_OUT.

        Once they have taken `budget_s` of CPU time together, no other is begun: the rest is left out.
        """
        spent_s: list[float] = []

        def compute(task: tuple[Any, ...]) -> Any:
            if sum(spent_s) > budget_s:
                return TIMED_OUT
            try:
                worker = self._idle.pop()
            except IndexError:
                worker = _Worker(self._timeout_s)
            result, cpu_s = worker.ask(task)
            spent_s.append(cpu_s)
            if result is not TIMED_OUT:
                self._idle.append(worker)
            return result

        self._idle = [worker for worker in self._idle if worker.alive()]
        with ThreadPoolExecutor(self._count) as threads:  # each waits for a process of its own
            return list(threads.map(compute, tasks))

    def close(self) -> None:
        while self._idle:
            self._idle.pop().kill()


class _Worker:
    """One process and the socket to it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._connection, theirs = Pipe()
        # -P: the folder of this file must not shadow other packages. A session of its own keeps signals
        # meant for the run away from a worker that is still needed to finish the step.
        limits = (str(theirs.fileno()), str(timeout_s), str(MEMORY_LIMIT_BYTES))
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(_SCRIPT), *limits],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        if self._receive(START_LIMIT_S) is TIMED_OUT:  # it says that it is ready, which is no task's time
            raise RuntimeError("a process for comparing answers did not start: is math-verify installed?")

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, task: tuple[Any, ...]) -> tuple[Any, float]:
        """Result of a task and the CPU seconds that it took."""
        with suppress(BrokenPipeError):  # it has just died, which _receive sees as well
            self._connection.send(task)
        answer = self._receive(WALL_FACTOR * self._timeout_s)
        return (TIMED_OUT, self._timeout_s) if answer is TIMED_OUT else answer

    def _receive(self, wall_s: float) -> Any:
        """What it says next; TIMED_OUT, and the process is ended, if that does not come in time."""
        with suppress(EOFError, ConnectionResetError):
            if self._connection.poll(wall_s):
                return self._connection.recv()
        self.kill()
        return TIMED_OUT

    def kill(self) -> None:
        self._connection.close()
        self._process.kill()
        self._process.wait()
