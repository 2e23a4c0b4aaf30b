"""The example of one's own questions with a file of other columns, from the command to the report."""

import json
from pathlib import Path

import pytest

from megatron_coreward.cli import report, summarize
from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.utils.metrics import read_metrics
from tests.support.paths import ROOT
from tests.support.programs import TRAIN, launch

EXAMPLE = ROOT / "examples/own_data"


def test_a_file_of_ones_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns of other names, answers that cannot be read: trained, evaluated, and said in the last line."""
    pairs = load_pairs(str(EXAMPLE / "questions.jsonl"))
    lines = [{"text": pair.original, "again": pair.rephrased, "key": ["1", "2"]} for pair in pairs]
    file, run = tmp_path / "mine.jsonl", tmp_path / "run"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    named = ("data.question_column=text", "data.rephrased_column=again", "data.answer_column=key")
    done = launch(
        *(1, *TRAIN, "--config", str(EXAMPLE / "config.yaml"), f"data.original={file}", *named),
        *(f"run.output_dir={run}", "run.steps=2", "evaluation.limit=20", "evaluation.samples=2"),
    )
    assert done.returncode == 0, done.stdout
    last = done.stdout.partition("done: ")[2].splitlines()[0]
    assert last.startswith(f"{run}, with 2 warnings: ")
    assert "ground truths not read (look at data.original (its answers))" in last
    assert "no box is asked for (look at data.system_prompt)" in last
    figures = read_metrics(run)
    assert len([line for line in figures if "reward/mean" in line]) == 2
    assert len([line for line in figures if "eval/greedy_pass@1" in line]) == 2, "before and after"
    assert summarize.main([str(run)]) == 0
    assert "greedy_pass@1" in capsys.readouterr().out
    assert report.main([str(run), "--output", str(run / "report.html")]) == 0
    assert (run / "report.html").stat().st_size > 10_000 and (run / "hf" / "model.safetensors").is_file()
