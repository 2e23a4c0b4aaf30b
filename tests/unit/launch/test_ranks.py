"""Ranks of one machine, with programs that need no torch: how they end, and what is said of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from megatron_coreward.launch.options import parse_train
from megatron_coreward.launch.ranks import environment_of, first_reason
from megatron_coreward.utils.failures import ERROR, REFUSED, Reason

START = """
import sys
from megatron_coreward.launch.ranks import start_ranks
sys.exit(start_ranks({ranks}, "program", ["an argument"], {restarts}))
"""
RANK = """
import os, signal, sys, time
from pathlib import Path
from megatron_coreward.utils.failures import end, run_program
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
def main(arguments):
    assert arguments == ["an argument"]
    {body}
if __name__ == "__main__":
    sys.exit(run_program("program", sys.argv[1:]))
"""


def start(folder: Path, body: str, ranks: int = 2, restarts: int = 0) -> subprocess.Popen[str]:
    (folder / "program.py").write_text(RANK.format(body=body))
    command = [sys.executable, "-c", START.format(ranks=ranks, restarts=restarts)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    """Exit code and lines of stderr."""
    return process.wait(timeout=120), process.communicate()[1].splitlines()


@pytest.mark.parametrize(
    ("body", "code", "last"),
    [
        ("return 0", 0, None),
        # Rank 1 would be first to be ended, and rank 0 last to begin.
        ("time.sleep(3 * (rank == 0)); return end(f'of rank {rank}', 2)", 2, "error: of rank 1"),
        # Alike on all ranks, one of which takes long to close its files: it is not ended.
        (
            "end('not finite', 4); time.sleep(2 * rank); Path(f'closed_{rank}').touch(); return 0",
            *(4, "error: not finite"),
        ),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else time.sleep(100)", 1, "error: rank 1 was killed"),
        ("os._exit(9) if rank else time.sleep(100)", 1, "error: rank 1 ended with exit code 9 and without"),
        ("raise RuntimeError('a bug') if rank else time.sleep(100)", 1, "error: RuntimeError: a bug"),
    ],
)
def test_the_reason_of_the_first_rank_is_the_last_line_and_its_code_the_exit_code(body, code, last, tmp_path):
    returned, lines = ended(start(tmp_path, body))
    assert returned == code, lines
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:]
    assert last is None or lines[-1].startswith(last)
    assert any(line.startswith("Traceback") for line in lines) == ("raise" in body)
    assert code != 4 or {path.name for path in tmp_path.glob("closed_*")} == {"closed_0", "closed_1"}


@pytest.mark.parametrize(("ranks", "late"), [(2, 1), (4, 0), (4, 2)])
def test_a_reason_that_all_ranks_have_is_said_once_whichever_is_late(ranks, late, tmp_path):
    code, lines = ended(start(tmp_path, f"time.sleep(2 * (rank == {late})); return end('wrong', 2)", ranks))
    assert (code, lines) == (2, ["error: wrong"])


def test_a_crash_is_said_when_it_happens_and_a_restart_mends_it(tmp_path):
    body = "if rank + attempt == 0: raise RuntimeError('a crash')\n    return time.sleep(attempt == 0)"
    code, lines = ended(start(tmp_path, body, restarts=1))
    assert code == 0
    assert lines[-1] == "error: RuntimeError: a crash"


STOPS = """
    asked = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.append(1))
    Path(f"ready_{rank}").touch()
    while not asked:
        time.sleep(0.05)
    time.sleep(2)
    return end(f"stopped after {len(asked)} signal", 3)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_reaches_the_ranks_which_have_time_to_save_and_a_second_one_leaves_none_behind(
    number, tmp_path
):
    process = start(tmp_path, STOPS.strip(), ranks=2)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("ready_*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    for _ in range(2):
        process.send_signal(number)
        time.sleep(0.5)
    assert process.poll() is None
    code, lines = ended(process)
    assert code == 3, lines
    assert lines == [
        "stopping already: the ranks complete their step and save",
        "error: stopped after 1 signal",
    ]


@pytest.mark.parametrize(
    ("reasons", "died", "signals", "sentence"),
    [
        ([], [], [], None),
        ([Reason("refused", REFUSED, 10.0)], [(0, -15, 11), (1, 2, 10)], [], "refused"),
        # What is killed by the system makes the others fail, and is the cause all the same.
        ([Reason("closed", ERROR, 10.2)], [(0, 1, 10), (1, -9, 10)], [], "rank 1 was killed by SIGKILL"),
        # What hangs when another rank has failed is killed later, and is no cause.
        ([Reason("a bug", ERROR, 10.0)], [(0, 1, 10), (1, -9, 41)], [], "a bug"),
        ([], [], [signal.SIGINT], "stopped by SIGINT before a step was completed; nothing was saved"),
        ([], [(1, 7, 10), (0, -15, 12)], [], "rank 1 ended with exit code 7 and without a reason"),
    ],
)  # fmt: skip
def test_which_reason_is_the_first(reasons, died, signals, sentence):
    reason = first_reason(reasons, died, signals)
    assert reason is None if sentence is None else reason is not None and reason.sentence.startswith(sentence)


def test_files_and_keys_of_a_run_in_any_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("without_suffix").touch()
    words = ["a.yaml", "run.steps=3", "--ranks", "2", "b/c.yml", "without_suffix", "steps", "--config", "d"]
    options = parse_train(words)
    assert [str(file) for file in options.files] == ["d", "a.yaml", "b/c.yml", "without_suffix"]
    assert options.overrides == ("run.steps=3", "steps") and options.ranks == 2
    assert parse_train(options.of_a_rank()).files == options.files


def test_what_ranks_start_with_is_theirs_unless_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    huge_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    assert environment_of(2, {}) == {"OMP_NUM_THREADS": "4"} | huge_pages
    assert environment_of(16, {"GLIBC_TUNABLES": ""}) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert environment_of(2, {"PATH": ""}) == {"OMP_NUM_THREADS": "4"}
