"""Which rank logs what to which place, and the progress display of a run."""

import io
import logging

import pytest
from rich.console import Console

from megatron_coreward.run.progress import RunProgress, format_seconds
from megatron_coreward.utils.logging import setup_logging


def test_rank_0_tells_the_story_on_stderr_and_in_the_file(tmp_path, capfd):
    setup_logging(0, tmp_path)
    logging.getLogger("megatron_coreward.trainer").info("step 1 [done]")
    assert "INFO step 1 [done]" in capfd.readouterr().err
    assert "step 1 [done]" in (tmp_path / "train.log").read_text()


def test_other_ranks_report_only_trouble_with_their_rank(tmp_path, capfd):
    setup_logging(3, tmp_path)
    logging.getLogger("megatron_coreward.trainer").info("quiet")
    logging.getLogger("megatron_coreward.trainer").warning("trouble")
    shown = capfd.readouterr().err
    assert "quiet" not in shown
    assert "[rank 3]" in shown and "trouble" in shown
    assert not (tmp_path / "train.log").exists()


def test_a_second_set_up_does_not_double_the_messages(capfd):
    setup_logging(0)
    setup_logging(0)
    logging.getLogger("megatron_coreward").info("once")
    assert capfd.readouterr().err.count("once") == 1


def test_progress_writes_a_plain_line_per_step_without_a_terminal(caplog):
    output = io.StringIO()
    caplog.set_level(logging.INFO, logger="megatron_coreward")
    with RunProgress(Console(file=output), total=12, done=10) as progress:
        progress.phase("rollout", "64 responses")
        progress.step(11, {"reward/mean": 0.25, "policy/kl": 0.00012})
    assert output.getvalue().strip() == ""
    line = caplog.messages[-1]
    assert line.startswith("step 11/12  reward 0.250  kl 1.20e-04")
    assert "ETA" in line


def test_progress_shows_step_and_phase_on_a_terminal():
    output = io.StringIO()
    with RunProgress(Console(file=output, force_terminal=True, width=120), total=12, done=10) as progress:
        progress.phase("rollout", "64 responses")
        progress.step(11, {})
    assert "11/12" in output.getvalue()
    assert "rollout (64 responses)" in output.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2s"), (185, "3m05s"), (59.99, "1m00s"), (7800, "2h10m"), (3599.8, "1h00m")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
