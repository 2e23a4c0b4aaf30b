"""Runs checks one after the other, each in processes of its own and within its share of the time."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tools.gpu_check.table import Check, Figures

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, IMPOSSIBLE = "passed", "failed", "not possible here"
LOG_LINES = 60
LEAST_S = 5.0
"""With less time left a check is not started: not even its imports would end."""
GRACE_S = 5.0
ENVIRONMENT = {
    # A single node: what gloo exchanges stays on it.
    "GLOO_SOCKET_IFNAME": "lo",
    # Container images switch TF32 on, and float32 would not be float32.
    "NVIDIA_TF32_OVERRIDE": "0",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "0",
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "PYTHONUNBUFFERED": "1",
    # Otherwise torchrun says so at every start.
    "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "4"),
}


@dataclass(frozen=True)
class Outcome:
    """What became of a check. `reason` says why it did not pass, `log_end` is what it wrote last."""

    name: str
    about: str
    status: str
    seconds: float = 0.0
    figures: Figures = field(default_factory=dict)
    reason: str = ""
    log_end: str = ""


def check_loopback() -> None:
    """Raises ValueError if the machine does not reach itself, as the processes of a check must by TCP."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5.0).close()
    except OSError as error:
        raise ValueError(
            f"this machine does not reach itself at 127.0.0.1 ({error}); bring its loopback interface up "
            "(ip link set lo up)"
        ) from error


def choose(checks: Sequence[Check], only: Sequence[str]) -> list[Check]:
    """The checks to run: the first, which describes the machine, and those named, or all.

    Raises:
        ValueError: there is no check of that name.
    """
    names = [check.name for check in checks]
    for name in only:
        if name not in names:
            raise ValueError(f"there is no check {name!r}. Checks: {', '.join(names)}")
    return [check for check in checks if not only or check.name in only or check is checks[0]]


def run_all(checks: Sequence[Check], budget_s: float, output: Path) -> Iterator[Outcome]:
    """Yields outcomes as they come; the first check's figures say what is possible for the others.

    Of the time left a check gets a share by what it and the possible ones after it are expected to take: one
    that hangs takes nothing from the others, and what one leaves over goes to all that follow.
    """
    deadline = time.monotonic() + budget_s
    machine: Figures = {}
    for number, check in enumerate(checks):
        if reason := check.impossible(machine):
            yield Outcome(check.name, check.about, IMPOSSIBLE, reason=reason)
            continue
        waiting = sum(later.seconds for later in checks[number:] if not later.impossible(machine))
        limit_s = (deadline - time.monotonic()) * check.seconds / waiting
        if limit_s < LEAST_S:
            reason = f"the budget of {budget_s:.0f} s is used up. Repeat it alone: ONLY={check.name}"
            yield Outcome(check.name, check.about, IMPOSSIBLE, reason=reason)
            continue
        outcome = run(check, limit_s, output, int(machine.get("GPUs", 0)))
        if number == 0:
            machine = outcome.figures
        yield outcome


def run(check: Check, limit_s: float, output: Path, gpus: int) -> Outcome:
    """Runs one check for at most `limit_s`; its log stays in `output`/logs."""
    log, folder = output / "logs" / f"{check.name}.log", output / "work" / check.name
    result = folder / "figures.json"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    ranks = check.ranks or gpus
    program = ["-m", "tools.gpu_check.child", check.function, str(folder), str(result), str(limit_s)]
    if ranks > 1:
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        program = [*torchrun, *program]
    started = time.monotonic()
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, *program],
            cwd=ROOT,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        reason = _wait(process, limit_s)
    seconds = time.monotonic() - started
    figures = json.loads(result.read_text()) if not reason and result.is_file() else {}
    if not reason and not figures:
        reason = "it ended without figures"
    shutil.rmtree(folder, ignore_errors=True)
    if not reason:
        return Outcome(check.name, check.about, PASSED, seconds, figures)
    end = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])
    return Outcome(check.name, check.about, FAILED, seconds, reason=reason, log_end=end)


def _environment() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}


def _wait(process: subprocess.Popen, limit_s: float) -> str:
    """Waits for the end, or brings it about; returns what is wrong, "" for nothing."""
    try:
        code = process.wait(limit_s)
        reason = ""
        if code:
            reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    except subprocess.TimeoutExpired:
        reason = f"not done within its {limit_s:.0f} s"
        _signal(process, signal.SIGTERM)  # torchrun ends its ranks, which are not in this session
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            _signal(process, signal.SIGKILL)
            process.wait()
    _signal(process, signal.SIGKILL)  # what it left running
    return reason


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
