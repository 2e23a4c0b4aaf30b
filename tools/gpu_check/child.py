"""The process of one check, or one of its ranks.

    python -m tools.gpu_check.child FUNCTION FOLDER RESULT SECONDS

Calls FUNCTION (module:function) with FOLDER; rank 0 writes its figures to the file RESULT as JSON. When
nearly all of SECONDS are over, every thread's stack goes to stderr, which tells where a check hangs.
"""

import ctypes
import faulthandler
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from tools.gpu_check.table import Function

PR_SET_PDEATHSIG = 1


def load(function: str) -> Function:
    module, _, name = function.partition(":")
    return vars(importlib.import_module(module))[name]


def main(function: str, folder: str, result: str, seconds: str) -> None:
    # torchrun starts ranks in sessions of their own, out of the reach of who ends the check's session.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    faulthandler.dump_traceback_later(0.9 * float(seconds), exit=False)
    rank = os.environ.get("RANK", "0")
    own = Path(folder) / f"rank_{rank}"
    own.mkdir(parents=True)
    figures = load(function)(own)
    if rank == "0":
        Path(result).write_text(json.dumps(figures))


if __name__ == "__main__":
    run: Callable[..., None] = main
    if "TORCHELASTIC_RUN_ID" in os.environ:
        from torch.distributed.elastic.multiprocessing.errors import record

        run = record(main)  # torchrun ends its messages with the traceback of the rank that failed first
    run(*sys.argv[1:])
