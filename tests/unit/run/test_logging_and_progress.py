"""Which rank logs what to which place, and the progress display of a run."""

import io
import logging

import pytest
from rich.console import Console
from rich.text import Text

from megatron_coreward.run.progress import SHOWN, RunProgress, format_seconds
from megatron_coreward.utils.logging import TerminalHandler, setup_logging
from tests.support.paths import ROOT


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


@pytest.mark.parametrize("done", [0, 9_998])
@pytest.mark.parametrize("width", [60, 80, 200])
def test_a_step_is_one_line_on_a_terminal(done, width):
    metrics = {"reward/mean": 0.25, "coreward/agreement": 0.5, "original/response_tokens": 1234.5}
    metrics |= {"policy/kl": 0.00012, "mismatch/mean_abs": 1e-7}
    console = Console(file=io.StringIO(), force_terminal=True, width=width)
    handler = TerminalHandler(console)
    logger = logging.getLogger("megatron_coreward")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with RunProgress(console, total=10_000, done=done) as progress:
            progress.step(done + 1, metrics)
    finally:
        logger.removeHandler(handler)
    (line,) = [
        line for line in Text.from_ansi(console.file.getvalue()).plain.splitlines() if "reward" in line
    ]
    assert f"step {done + 1}/10000  reward 0.250  " in line and len(line) <= width
    assert ("agreement 0.50  tokens 1234" in line) == (width >= 80)
    assert ("kl 1.20e-04  mismatch 1.0e-07" in line) == (width == 200)


def test_the_words_of_a_step_stand_on_the_page():
    page = (ROOT / "docs" / "metrics.md").read_text()
    for label, metric, _ in SHOWN:
        assert f"| {label} | `{metric}` |" in page


def test_warnings_are_named_on_a_terminal_and_news_are_not():
    console = Console(file=io.StringIO(), force_terminal=True, width=40)
    handler = TerminalHandler(console)
    for level, message in ((logging.INFO, "loud INFO [x]"), (logging.WARNING, "word " * 20 + "end")):
        handler.emit(logging.LogRecord("a", level, "", 0, message, (), None))
    news, warning = Text.from_ansi(console.file.getvalue()).plain.splitlines()
    assert news[len("00:00:00 ") :] == "loud INFO [x]"
    assert warning[len("00:00:00 ") :].startswith("WARNING word") and warning.endswith("end"), "not wrapped"


def test_third_parties_news_is_silenced_and_their_trouble_is_not():
    setup_logging(0)
    triton = logging.getLogger("torch._library.triton")
    assert not triton.isEnabledFor(logging.WARNING) and triton.isEnabledFor(logging.ERROR)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(4.21, "4.2s"), (185, "3m05s"), (59.99, "1m00s"), (7800, "2h10m"), (3599.8, "1h00m")],
)
def test_durations(seconds, text):
    assert format_seconds(seconds) == text
