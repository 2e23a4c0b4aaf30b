"""Computes terms in other processes, within a hard time limit.

math-verify guards itself with signals, which work in the main thread only and never reach C code; a hang then
stops the whole run. Here the operating system ends the process (math_worker.py) of a term that takes too
long: the caller gets TIMED_OUT for it, and a new process goes on with the next one. Terms are rare (none in
most steps), so a process lives for one call, which costs a second to start it, and nothing is left running.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

TIMED_OUT: Any = object()
"""Result of a term that took too long, that ended its process or that was left out."""
START_LIMIT_S = 120.0
WALL_FACTOR = 10.0
"""The limit is CPU time, so that a busy machine decides no reward; wall time may be this many times more."""
_SCRIPT = Path(__file__).with_name("math_worker.py")


def compute(terms: Sequence[Any], timeout_s: float, budget_s: float, workers: int = 1) -> list[Any]:
    """Results in the order of `terms`, each (text, letters) as in math_worker.read, or TIMED_OUT.

    Args:
        timeout_s: CPU seconds that a term may take.
        budget_s: CPU seconds that all of them may take; what comes after those is left out.
        workers: processes at a time.
    """
    shares = [terms[i::workers] for i in range(min(workers, len(terms)))]
    results: list[Any] = [TIMED_OUT] * len(terms)
    with ThreadPoolExecutor(workers) as threads:  # each waits for a process of its own
        for i, done in enumerate(threads.map(partial(_compute, timeout_s, budget_s / len(shares)), shares)):
            results[i::workers] = done
    return results


def _compute(timeout_s: float, budget_s: float, terms: Sequence[Any]) -> list[Any]:
    results: list[Any] = []
    while len(results) < len(terms) and budget_s > 0:
        ready, *answers = _printed(terms[len(results) :], timeout_s, budget_s).splitlines() or [""]
        if not ready:
            raise RuntimeError("a process for comparing answers did not start: is math-verify installed?")
        for numbers, cpu_s in map(json.loads, answers):
            results.append(numbers)
            budget_s -= cpu_s
        if len(results) < len(terms):
            results.append(TIMED_OUT)
            budget_s -= timeout_s
    return results + [TIMED_OUT] * (len(terms) - len(results))


def _printed(terms: Sequence[Any], timeout_s: float, budget_s: float) -> str:
    """What a process prints before it is through or ended."""
    # -P: the folder of this file must not shadow other packages. A session of its own keeps signals meant for
    # the run away from a process that is still needed to finish the step.
    command = [sys.executable, "-P", str(_SCRIPT), str(timeout_s), str(budget_s)]
    wall_s = START_LIMIT_S + WALL_FACTOR * (timeout_s + budget_s)
    asked, printed = json.dumps(terms).encode(), subprocess.PIPE
    try:
        done = subprocess.run(command, input=asked, stdout=printed, timeout=wall_s, start_new_session=True)
        return done.stdout.decode()
    except subprocess.TimeoutExpired as late:
        return (late.stdout or b"").decode()
