"""A run of the first version (tests/fixtures/first_run) is resumed, shown, reported, evaluated and converted.

Its checkpoint was written on two ranks with the distributed optimizer and a teacher; it is resumed on one.
"""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from megatron_coreward.cli import report, summarize
from megatron_coreward.config.run_settings import read_run_settings
from megatron_coreward.run import show
from megatron_coreward.utils.metrics import read_metrics
from tests.support.paths import FIXTURES
from tests.support.programs import TRAIN, launch

FIRST = FIXTURES / "first_run"
START = FIRST / "start"
CHECKPOINT = FIRST / "run" / "checkpoints" / "step_000003"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A copy that may be written to."""
    return shutil.copytree(FIRST / "run", tmp_path / "run")


def test_resume(run: Path) -> None:
    before = (run / "metrics.jsonl").read_text()
    resumed = launch(
        1,
        *(*TRAIN, "--config", str(run / "config.yaml"), "run.resume=true", f"run.output_dir={run}"),
        *(f"model.path={START}", "run.steps=4"),
    )
    assert resumed.returncode == 0, resumed.stdout
    assert "resumed after step 3" in resumed.stdout
    assert (run / "metrics.jsonl").read_text().startswith(before), "what was there is kept"
    [step] = [line for line in read_metrics(run) if line["step"] == 4 and "reward/mean" in line]
    assert step["mismatch/max_abs"] < 1e-3, "the weights that were read are those that draw"
    assert step["policy/grad_norm"] > 0
    assert 0.99 <= step["teacher/alpha"] < 1
    assert {path.name for path in (run / "checkpoints").glob("step_*")} == {"step_000003", "step_000004"}


def test_show_and_report(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main([str(run), "--step", "3"]) == 0
    assert "step 3: 128 responses to 8 pairs" in capsys.readouterr().out
    assert summarize.main([str(run)]) == 0
    heads = [(folder / "summary.md").read_text().splitlines()[:5] for folder in (run, FIRST / "run")]
    assert heads[0] == heads[1], "the held-out measures; the windows of the training figures overlapped then"
    assert report.main([str(run), "--output", str(run / "report.html")]) == 0
    assert "co_rewarding_3" in (run / "report.html").read_text()


def test_convert(tmp_path: Path) -> None:
    """The checkpoint and the exported folder hold the same weights, there and back."""
    converted = tmp_path / "hf"
    for arguments in (
        ("megatron-to-hf", "--checkpoint", str(CHECKPOINT), "--output", str(converted)),
        ("verify", "--hf", str(FIRST / "run" / "hf"), "--checkpoint", str(CHECKPOINT)),
    ):
        result = launch(1, "tools/convert_checkpoint.py", *arguments)
        assert result.returncode == 0, result.stdout
    ours, first = (load_file(f / "model.safetensors") for f in (converted, FIRST / "run" / "hf"))
    assert ours.keys() == first.keys()
    assert all((ours[name] == first[name]).all() for name in first)
    settings = read_run_settings(converted)
    assert settings is not None and settings.values["data.system_prompt"] == ""


def test_evaluate(tmp_path: Path) -> None:
    file = tmp_path / "questions.jsonl"
    lines = [{"question": f"What is {n} plus {n + 5}?", "answer": str(2 * n + 5)} for n in range(10, 14)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = launch(
        1,
        *("-m", "megatron_coreward.evaluate", "--checkpoint", str(CHECKPOINT), "--file", str(file)),
        *("--samples", "2", "--output", str(tmp_path / "out"), "rollout.memory_gb=0.25"),
    )
    assert result.returncode == 0, result.stdout
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["benchmarks"]["questions"]["questions"] == 4
    assert (summary["system_prompt"], summary["max_response_tokens"]) == ("", 32), "those of the run"
