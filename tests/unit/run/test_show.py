"""Rollouts on disk, and the command that shows them."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from megatron_coreward.run import show
from megatron_coreward.run.rollouts import read_rollouts, rollout_steps, write_rollouts
from megatron_coreward.run.show import pair_panel
from megatron_coreward.types import QuestionPair, ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.utils.metrics import MetricsWriter

PAIRS = [
    QuestionPair(7, "What is 3 + 4?", "Add 4 to 3.", (1,), (2,), answer="7"),
    QuestionPair(2, "What is 1 + 1?", "Double one.", (1,), (2,)),
]


def response(pair_id: int, view: View, sample: int, answer: str, label: str, reward: float) -> ScoredResponse:
    length = 2 if answer else 0
    return ScoredResponse(
        pair_id=pair_id,
        view=view,
        sample=sample,
        prompt_ids=(1,),
        response_ids=np.arange(length, dtype=np.int32),
        rollout_logps=np.array([-0.5, -1.5][:length], dtype=np.float32),
        text=f"thinking [bold] about it {'x' * 400} so \\boxed{{{answer}}}",
        finish_reason="stop" if answer else "length",
        weights_version=4,
        answer=answer,
        pseudo_label=label,
        reward=reward,
        advantage=reward - 0.5,
    )


SCORED = [
    response(7, View.REPHRASED, 0, "7", "7", 1.0),
    response(7, View.ORIGINAL, 1, "", "7", 0.0),
    response(7, View.ORIGINAL, 0, "7", "7", 1.0),
    response(2, View.ORIGINAL, 0, "2", "", 0.0),
    response(2, View.REPHRASED, 0, "", "2", 0.0),
]


@pytest.fixture
def run(tmp_path):
    for step in (3, 4, 6):
        write_rollouts(tmp_path, step, PAIRS, SCORED, TorchCommunicator())
    return tmp_path


def output(capsys, *arguments) -> str:
    assert show.main([str(a) for a in arguments]) == 0
    return " ".join(capsys.readouterr().out.split())


def error(capsys, *arguments) -> str:
    assert show.main([str(a) for a in arguments]) == 2
    return " ".join(capsys.readouterr().err.split())


def test_rows_are_complete_and_in_canonical_order(run):
    rows = read_rollouts(run, 4)
    assert [(r["pair_id"], r["view"], r["sample"]) for r in rows] == sorted(r.key for r in SCORED)
    row = rows[2]
    assert row == {
        "step": 4,
        "pair_id": 7,
        "view": "original",
        "sample": 0,
        "question": "What is 3 + 4?",
        "text": SCORED[2].text,
        "answer": "7",
        "pseudo_label": "7",
        "reward": 1.0,
        "advantage": 0.5,
        "finish_reason": "stop",
        "response_tokens": 2,
        "mean_logp": -1.0,
        "weights_version": 4,
        "ground_truth": "7",
    }
    assert rows[3]["mean_logp"] is None
    assert rows[0]["ground_truth"] is None


def test_a_step_without_responses_keeps_its_columns(tmp_path):
    write_rollouts(tmp_path, 1, [], [], TorchCommunicator())
    assert read_rollouts(tmp_path, 1) == []
    assert "advantage" in pq.read_schema(tmp_path / "rollouts" / "step_000001.parquet").names


def test_a_file_being_written_is_no_step_yet(run):
    (run / "rollouts" / "step_000009.tmp").write_text("half")
    assert rollout_steps(run) == [3, 4, 6]


def test_the_newest_step_is_shown_by_default(run, capsys):
    shown = output(capsys, run)
    assert shown == output(capsys, run, "--latest")
    assert "step 6: 5 responses to 2 pairs" in shown
    assert "What is 3 + 4?" in shown and "Add 4 to 3." in shown
    assert "votes 7 x1, none x1" in shown
    assert "judged by label 7" in shown
    assert "no label: reward 0 for all" in shown
    assert "ground truth 7 (diagnostics only" in shown


def test_one_pair_is_shown_in_full(run, capsys):
    short = output(capsys, run, "--step", 3)
    shown = output(capsys, run, "--step", 3, "--pair", 7)
    assert "thinking [bold] about it" in shown and "thinking [bold] about it" not in short
    assert "What is 1 + 1?" not in shown


def test_pairs_beyond_the_limit_are_announced(run, capsys):
    shown = output(capsys, run, "--pairs", 1)
    assert "What is 3 + 4?" not in shown
    assert "1 more pairs: --pairs 0 shows all" in shown


def test_metrics_table_shows_the_last_steps(run, capsys):
    writer = MetricsWriter(run)
    for step in range(9):
        writer.log(step, {"policy/kl": step / 1000} | ({"eval/pass@1": 0.5} if step == 8 else {}))
    writer.close()
    shown = output(capsys, run, "--metrics", "--steps", 2)
    assert "policy/kl 0.00700 0.00800" in shown and "0.00600" not in shown
    assert "eval/pass@1 0.500" in shown


def test_figures_are_never_cut_off_there_are_fewer_of_them(run, capsys, monkeypatch):
    writer = MetricsWriter(run)
    names = ["loss", "diagnostics/rephrased/label_accuracy/level_2"]
    for step in range(1001, 1007):
        writer.log(step, {name: -4.191234e-11 / step for name in names})
    writer.close()
    for width in (80, 60, 40):
        monkeypatch.setenv("COLUMNS", str(width))
        assert show.main([str(run), "--metrics"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert "…" not in "".join(lines) and max(map(len, lines)) <= width
        steps = lines[0].split()
        assert steps[-1] == "1006" and len(steps) == 1 + max(1, (width - len(names[1])) // 11)
        assert "".join(lines).count("e-14") == 2 * (len(steps) - 1), "whole, where the name is wrapped, too"


def test_follow_shows_new_steps_until_the_run_has_ended(run, monkeypatch, capsys):
    hold = "import sys; from pathlib import Path; from megatron_coreward.utils.folders import FolderLock\n"
    hold += "lock = FolderLock(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdin and holder.stdout and holder.stdout.readline() == "held\n"
    naps = []

    def nap(seconds: float) -> None:
        """A step is written in the first pause; in the third another, and the run ends."""
        naps.append(seconds)
        if len(naps) in (1, 3):
            write_rollouts(run, 6 + len(naps), PAIRS, SCORED, TorchCommunicator())
        if len(naps) == 3:
            holder.communicate()

    monkeypatch.setattr(show.time, "sleep", nap)
    shown = output(capsys, run, "--follow")
    assert [shown.count(f"step {step}:") for step in (3, 4, 6, 7, 9)] == [0, 0, 1, 1, 1]
    assert "the run has ended: no process is at work in" in shown and len(naps) == 3


def test_errors_say_what_there_is(run, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert "is not a folder" in error(capsys, tmp_path / "absent")
    assert "is not a run folder" in error(capsys, tmp_path / "empty")
    assert "no rollouts of step 5: it has 3-4, 6" in error(capsys, run, "--step", 5)
    assert "pair 9 is not in step 6; it has 2, 7" in error(capsys, run, "--pair", 9)
    assert "no figures yet" in error(capsys, run, "--metrics")


def test_a_run_without_rollouts_says_which_key_turns_them_on(tmp_path, capsys):
    MetricsWriter(tmp_path).close()
    assert "logging.rollouts=true" in error(capsys, tmp_path)


def test_rewards_without_a_label_are_not_said_to_be_none():
    rows = [
        {
            **dict(pair_id=1, view="original", sample=i, question="q", text="t", answer="3", pseudo_label=""),
            **dict(reward=-0.5 - i, advantage=0.0, finish_reason="stop", response_tokens=1, mean_logp=-0.1),
            "ground_truth": None,
        }
        for i in range(2)
    ]
    console = Console(record=True, width=100)
    console.print(pair_panel(rows))
    shown = console.export_text()
    assert "a measure of each response, no label" in shown and "reward 0 for all" not in shown
