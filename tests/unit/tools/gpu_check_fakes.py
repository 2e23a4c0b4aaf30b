"""Checks that do what checks must not do, for test_gpu_check.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tools.gpu_check.table import Figures


def cpu_machine(_: Path) -> Figures:
    return {"GPUs": 0, "has there": 1, "has missing": 0}


def two_gpus(_: Path) -> Figures:
    return {"GPUs": 2, "GPU 0": "H100", "has there": 1, "has missing": 0}


def passes(folder: Path) -> Figures:
    assert folder.is_dir() and not list(folder.iterdir())
    return {"answer": 42.0, "rank": os.environ.get("RANK", "none")}


def raises(_: Path) -> Figures:
    raise AssertionError("gradients differ by 0.3, at most 0.1 is allowed")


def second_rank_raises(_: Path) -> Figures:
    if os.environ["RANK"] == "1":
        raise AssertionError("the second rank has no gradient")
    time.sleep(60)
    return {"never": 1.0}


def crashes(_: Path) -> Figures:
    os.kill(os.getpid(), signal.SIGSEGV)
    return {"never": 1.0}


def hangs(folder: Path) -> Figures:
    """With a child that hangs, too, and tells its number."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    (folder.parents[2] / "child").write_text(str(child.pid))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(60)
    return {"never": 1.0}
