"""The watchdog finds the rank that is behind from reports, and ends a process."""

import subprocess
import sys
from dataclasses import replace

import pytest

from megatron_coreward.run.watchdog import STALLED, Report, verdict

AT = Report(
    step=7,
    phase="update",
    entered=1000.0,
    reported=1090.0,
    place="actor/compute/forward.py:60 in x",
    waits=True,
)


def said(reports):
    """The verdict when every rank that `reports` gives twice has reported in between."""
    before = {
        rank: report if silent or report is None else replace(report, reported=0.0)
        for rank, (report, silent) in reports.items()
    }
    return verdict(before, {rank: report for rank, (report, _) in reports.items()}, timeout_s=60)


@pytest.mark.parametrize(
    ("reports", "behind", "waiting"),
    [
        (
            {0: (AT, False), 1: (AT, True)},
            ["Rank 1 does not answer any more; it was in phase update"],
            "rank 0.",
        ),
        ({0: (AT, False), 1: (None, True)}, ["Rank 1 has never been heard of"], "rank 0."),
        (
            {0: (AT, False), 1: (replace(AT, step=6, phase="sync", entered=900.0), False), 2: (AT, False)},
            ["Rank 1 has been in phase sync of step 6", "for 190 s"],
            "ranks 0, 2.",
        ),
        (
            {0: (AT, False), 1: (replace(AT, phase="log_probs", entered=995.0), False)},
            ["Rank 1 has been in phase log_probs of step 7"],
            "rank 0.",
        ),
        (
            {
                0: (AT, False),
                1: (replace(AT, waits=False, place="actor/compute/optimizer.py:9 in step"), False),
            },
            ["Rank 1 has been in phase update of step 7, at actor/compute/optimizer.py:9 in step, for 90 s"],
            "rank 0.",
        ),
    ],
)
def test_the_rank_that_is_behind_is_named(reports, behind, waiting):
    text = said(reports)
    assert all(words in text for words in behind), text
    assert f"Waiting for that: {waiting}" in text
    assert "run.stall_timeout_s=60" in text and "run.resume=true" in text


def test_where_nobody_is_behind_all_are_described():
    text = said({0: (AT, False), 1: (AT, False)})
    assert "Rank 0 has been" in text and "Rank 1 has been" in text and "in a collective" in text
    assert "Waiting for that" not in text


PROGRAM = """
import logging, time
from megatron_coreward.utils.distributed import initialize
from megatron_coreward.run.watchdog import watching
logging.basicConfig()
initialize()
with watching({timeout}) as watchdog:
    for step in range(3):
        watchdog.enter(step, "rollout")
        time.sleep({seconds})
print("reached the end")
"""


def run(timeout: float, seconds: float) -> subprocess.CompletedProcess[str]:
    program = PROGRAM.format(timeout=timeout, seconds=seconds)
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_phase_that_takes_too_long_ends_the_process():
    result = run(timeout=0.4, seconds=30)
    assert result.returncode == STALLED
    assert "Rank 0 has been in phase rollout of step 0, at a place outside this package" in result.stderr


@pytest.mark.parametrize("timeout", [0, 20])
def test_phases_that_end_in_time_are_left_alone(timeout):
    result = run(timeout, seconds=0.2)
    assert result.returncode == 0 and "reached the end" in result.stdout, result.stderr
