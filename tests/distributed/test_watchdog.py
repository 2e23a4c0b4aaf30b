"""If one of two real ranks stalls, the other names it and torchrun ends both."""

import re
from pathlib import Path

import pytest

from tests.support.programs import launch

PROGRAM = """
import logging, os, signal, sys, time
import torch, torch.distributed as dist
from megatron_coreward.utils.distributed import initialize
from megatron_coreward.run.watchdog import watching

logging.basicConfig(format="rank " + os.environ["RANK"] + " says: %(message)s")
initialize()
with watching(3) as watchdog:
    for step in range(2):
        watchdog.enter(step, "update")
        if step == 1 and dist.get_rank() == 1:
            {fault}
        dist.all_reduce(torch.ones(1))
"""
FAULTS = {
    "sleeps": ("time.sleep(100)", "Rank 1 has been in phase update of step 1"),
    "is stopped": (
        "os.kill(os.getpid(), signal.SIGSTOP)",
        "Rank 1 does not answer any more; it was in",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_rank_that_stalls_is_named_and_the_run_ends(fault: str, tmp_path: Path) -> None:
    code, words = FAULTS[fault]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(fault=code))
    result = launch(2, str(program), timeout_s=120)
    assert result.returncode != 0
    # A rank that only sleeps may be the first to say so of itself; one that is stopped cannot.
    speaker = "rank [01]" if fault == "sleeps" else "rank 0"
    notice = f"{speaker} says: No phase may take longer than run.stall_timeout_s=3 seconds"
    assert re.search(notice, result.stdout), result.stdout
    assert words in result.stdout and "Waiting for that: rank 0." in result.stdout
