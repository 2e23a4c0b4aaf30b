"""A pool of processes that compute terms within a hard time limit.

math-verify guards itself with signals, which work in the main thread only and never reach C code; a hang then
stops the whole run. Here a task that takes too long ends with its process: the caller gets TIMED_OUT for that
task and the next one gets a new process.
"""

import math
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe, wait
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
        results: list[Any] = [TIMED_OUT] * len(tasks)
        spent_s = 0.0
        waiting = deque(enumerate(tasks))
        busy: dict[Connection, tuple[_Worker, int, float]] = {}
        self._start(min(self._count, len(tasks)))
        try:
            while waiting or busy:
                while waiting and len(busy) < self._count:
                    self._start(1)
                    index, task = waiting.popleft()
                    worker = self._idle.pop()
                    worker.send(task)  # waits for a new process to be ready, which is not the task's time
                    busy[worker.connection] = worker, index, time.monotonic() + WALL_FACTOR * self._timeout_s
                patience = min(deadline for _, _, deadline in busy.values()) - time.monotonic()
                wait(list(busy), timeout=max(0.0, patience))
                for connection, (worker, index, deadline) in list(busy.items()):
                    if not connection.poll() and time.monotonic() < deadline:
                        continue
                    answer = worker.receive() if connection.poll() else TIMED_OUT
                    del busy[connection]
                    if answer is TIMED_OUT:
                        spent_s += self._timeout_s
                        worker.kill()
                    else:
                        results[index], cpu_s = answer
                        spent_s += cpu_s
                        self._idle.append(worker)
                if spent_s > budget_s:
                    waiting.clear()
        finally:
            for worker, _, _ in busy.values():  # interrupted: their answers would go to the wrong task
                worker.kill()
        return results

    def _start(self, count: int) -> None:
        """Makes sure that `count` live workers are idle."""
        self._idle = [worker for worker in self._idle if worker.alive()]
        self._idle += [_Worker(self._timeout_s) for _ in range(count - len(self._idle))]

    def close(self) -> None:
        while self._idle:
            self._idle.pop().kill()


class _Worker:
    """One process and the socket to it."""

    def __init__(self, timeout_s: float) -> None:
        self.connection, theirs = Pipe()
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
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, task: tuple[Any, ...]) -> None:
        if not self._ready:
            if not self.connection.poll(START_LIMIT_S) or self.receive() is TIMED_OUT:
                self.kill()
                raise RuntimeError("a process for comparing answers did not start: is math-verify installed?")
            self._ready = True
        with suppress(BrokenPipeError):  # it has just died: receive() will say so
            self.connection.send(task)

    def receive(self) -> Any:
        """What it says next: that it is ready, or a result and the CPU seconds that it took."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            return TIMED_OUT

    def kill(self) -> None:
        self.connection.close()
        self._process.kill()
        self._process.wait()
