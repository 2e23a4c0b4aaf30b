"""How a program ends: one sentence, left for torchrun and said once, and the exit code."""

import json
import subprocess
import sys

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from megatron_coreward.utils.failures import (
    ERROR,
    ERROR_FILE,
    NOT_FINITE,
    RANKS,
    REFUSED,
    STALLED,
    STARTER,
    STOPPED,
    Failure,
    end,
    read_reasons,
)
from megatron_coreward.utils.logging import exit_code, setup_logging


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No rank of anything."""
    for name in ("RANK", ERROR_FILE, STARTER, "TORCHELASTIC_MAX_RESTARTS", "TORCHELASTIC_RESTART_COUNT"):
        monkeypatch.delenv(name, raising=False)


def raising(error):
    raise error


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
@pytest.mark.parametrize("error", [ValueError("--pairs is -1"), FileNotFoundError("--pairs is -1")])
def test_wrong_input_is_one_line_on_rank_0(error, rank, lines, monkeypatch, capsys):
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert exit_code(raising, error) == REFUSED == 2
    assert capsys.readouterr().err == "error: --pairs is -1\n" * lines


def test_an_exit_code_is_handed_on_and_a_bug_is_not_hidden():
    assert exit_code(divmod(7, 4).__getitem__, 1) == 3
    with pytest.raises(KeyError):
        exit_code({}.__getitem__, "absent")


def test_in_the_work_that_a_program_leaves_a_value_error_is_a_bug_and_a_failure_an_end(capsys):
    assert exit_code(lambda: lambda: 0) == 0
    with pytest.raises(ValueError, match="a bug"):
        exit_code(lambda: lambda: raising(ValueError("a bug")))
    assert exit_code(lambda: lambda: raising(Failure("the loss\nis NaN", NOT_FINITE))) == NOT_FINITE
    assert capsys.readouterr().err == "error: the loss is NaN\n"


def test_a_rank_leaves_its_first_reason_where_torchrun_shows_it(tmp_path, monkeypatch):
    file = tmp_path / "1" / "error.json"
    file.parent.mkdir()
    monkeypatch.setenv(ERROR_FILE, str(file))
    monkeypatch.setenv("RANK", "1")
    end("data.original is wrong", REFUSED)
    end("a consequence", ERROR)
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(file))
    assert "traceback : data.original is wrong" in str(ChildFailedError("train", {1: failure}))
    [reason] = read_reasons(tmp_path)
    assert (reason.sentence, reason.code) == ("data.original is wrong", REFUSED)
    assert [path.name for path in file.parent.iterdir()] == ["error.json"]


def test_the_first_of_several_reasons(tmp_path):
    for rank, time in enumerate((3.5, 3.25, 3.75)):
        file = tmp_path / str(rank) / "error.json"
        file.parent.mkdir()
        reason = {"sentence": f"rank {rank}", "code": 2, "time": time, "trace": ""}
        file.write_text(json.dumps({"reason": reason}))
    assert [reason.sentence for reason in read_reasons(tmp_path)] == ["rank 1", "rank 0", "rank 2"]
    command = [sys.executable, "-m", "megatron_coreward.launch.first_reason", str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "3.250 2 rank 1\n"


@pytest.mark.parametrize(
    ("code", "restarts", "attempt", "is_said"),
    [(REFUSED, 1, 0, False), (ERROR, 1, 0, True), (STALLED, 1, 0, True), (ERROR, 1, 1, False)],
)
def test_where_the_starter_says_it_a_rank_says_only_what_a_restart_follows(
    code, restarts, attempt, is_said, monkeypatch, capsys
):
    monkeypatch.setenv(STARTER, "run.sh")
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", str(restarts))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(attempt))
    assert end("a reason", code) == code
    assert capsys.readouterr().err == "error: a reason\n" * is_said


def test_ranks_that_end_alike_do_not_seem_to_fail_to_what_ends_all_when_one_fails(monkeypatch):
    monkeypatch.setenv(STARTER, RANKS)
    assert [end("a reason", code) for code in (REFUSED, STOPPED, NOT_FINITE, STALLED)] == [2, 0, 0, 5]
    monkeypatch.setenv(STARTER, "run.sh")
    assert [end("a reason", code) for code in (STOPPED, NOT_FINITE)] == [3, 4]


def test_the_reason_is_in_the_log_of_the_run_and_once_on_the_console(tmp_path, capfd):
    setup_logging(0, tmp_path)
    end("the loss is NaN", NOT_FINITE)
    assert capfd.readouterr().err == "error: the loss is NaN\n"
    assert "ERROR the loss is NaN" in (tmp_path / "train.log").read_text()


PROGRAM = """
import sys
from megatron_coreward.utils.failures import run_program
def main(arguments): {body}
sys.modules["program"] = sys.modules["__main__"]
sys.exit(run_program("program", []))
"""


@pytest.mark.parametrize(
    ("body", "code", "last", "has_traceback"),
    [
        ('raise RuntimeError("out of memory\\nTried to allocate")', 1, "RuntimeError: out of memory", True),
        ("raise KeyboardInterrupt", -2, "interrupted", False),
        ("return 7", 7, None, False),
        ("import megatron_coreward.absent", 1, "ModuleNotFoundError: No module named", True),
    ],
)
def test_what_nobody_expected_is_a_traceback_and_last_one_line(body, code, last, has_traceback):
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)], capture_output=True, text=True, check=False
    )
    assert result.returncode == code, result.stderr
    lines = result.stderr.splitlines()
    assert ("Traceback (most recent call last):" in lines) == has_traceback
    assert lines == [] if last is None else lines[-1].startswith(f"error: {last}")
