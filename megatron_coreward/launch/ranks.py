"""Starts the ranks of one machine, hands one signal on to them, and says why they ended.

torchrun's agent does the work: a free port, restarts, an end for all ranks when one has failed. What is
added: a second Ctrl-C does not leave ranks behind, the exit code is that of the rank that failed first, and
its reason is the last line.
"""

import logging
import os
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from megatron_coreward.utils.failures import ERROR, RANKS, STARTER, Reason, read_reasons, say

SHUTDOWN_S = 600
"""Seconds for which a stopped run may complete its step, evaluate and save."""
CONSEQUENCE_S = 5.0
"""A rank that is killed makes others fail within this time, who then leave the only message."""


def start_ranks(ranks: int, module: str, arguments: Sequence[str], max_restarts: int) -> int:
    """Runs `python -m module arguments` on `ranks` ranks of this machine; the exit code of the run."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable(logging.ERROR)  # the agent's: it is all said at the end
    os.environ[STARTER] = RANKS
    os.environ.update(environment_of(ranks, os.environ))
    failures: list[ProcessFailure] = []
    signals: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if signals:
            sys.stderr.write("stopping already: the ranks complete their step and save\n")
            return
        signals.append(number)
        to_ranks = signal.SIGINT if number == signal.SIGINT else signal.SIGTERM
        raise SignalException(f"signal {number}", to_ranks)

    with tempfile.TemporaryDirectory(prefix="coreward_ranks_") as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=ranks,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=max_restarts,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=SHUTDOWN_S,
            signals_to_handle="SIGQUIT",  # the agent's own handler would leave the ranks at a second signal
        )
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, stop)
        try:
            elastic_launch(config, sys.executable)("-m", module, *arguments)
        except ChildFailedError as error:
            failures = list(error.failures.values())
        except SignalException:
            pass
        attempts = sorted(Path(folder).glob("*/attempt_*"), key=lambda path: int(path.name[8:]))
        reasons = read_reasons(attempts[-1]) if attempts else []
    died = [(failure.local_rank, failure.exitcode, failure.timestamp) for failure in failures]
    reason = first_reason(reasons, died, signals)
    if reason is None:
        return 0
    say(reason)
    return reason.code


def environment_of(ranks: int, given: Mapping[str, str]) -> dict[str, str]:
    """Variables that the ranks of this machine start with, those of `given` left out.

    Each takes its share of the cores. On a CPU glibc asks for huge pages, without which a product that
    streams weights, as in a rollout, waits for the page table; a process cannot ask for itself later.
    """
    import torch

    made = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // ranks))}
    if not torch.cuda.is_available():
        made["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return {name: value for name, value in made.items() if name not in given}


def first_reason(
    reasons: Sequence[Reason], died: Sequence[tuple[int, int, float]], signals: Sequence[int]
) -> Reason | None:
    """Why the run ended, from what its ranks left and from how they died; None if it reached its end.

    `died` has rank, exit code and time of each rank that did not end with 0. What is killed leaves no reason:
    it comes first unless it followed on one. SIGTERM is how the agent ends ranks when another has failed.
    """
    killed = [
        (rank, -code, when)
        for rank, code, when in died
        if code < 0 and code != -signal.SIGTERM and (not reasons or when < reasons[0].time + CONSEQUENCE_S)
    ]
    if killed:
        rank, number, when = min(killed, key=lambda death: death[2])
        why = " (the machine may have run out of memory)" if number == signal.SIGKILL else ""
        return Reason(f"rank {rank} was killed by {signal.Signals(number).name}{why}", ERROR, when)
    if reasons:
        return reasons[0]
    if signals:
        name = signal.Signals(signals[0]).name
        return Reason(f"stopped by {name} before a step was completed; nothing was saved", ERROR, time.time())
    if died:
        rank, code, when = min(died, key=lambda death: death[2])
        return Reason(f"rank {rank} ended with exit code {code} and without a reason", ERROR, when)
    return None
