"""Metrics that merge over micro-batches and ranks, and the metrics file."""

import ast
import fnmatch
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.utils.metrics import (
    Figures,
    MetricsWriter,
    read_metrics,
    three_digits,
    wandb_mode,
)
from tests.support.metric_names import METRICS, undocumented
from tests.support.paths import ROOT

DOCS = ROOT / "docs" / "metrics.md"


def test_figures_merge_to_what_one_would_hold():
    first, second, whole = Figures(), Figures(), Figures()
    for figures, value in ((first, 1.0), (second, 4.0), (second, 7.0)):
        for target in (figures, whole):
            target.add_sum("loss", value)
            target.add_mean("kl", value, 1)
            target.add_max("worst", value)
    first.merge(pickle.loads(pickle.dumps(second)))
    assert first == whole
    assert first.as_dict() == {"loss": 12.0, "kl": 4.0, "worst": 7.0}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0.5, "0.500"), (0.45849, "0.458"), (-0.00002, "-2.00e-05"), (16.0, "16.0"), (372.0, "372")],
        *[(999.4, "999"), (999.6, "1,000"), (14_750.2, "14,750"), (2.5e6, "2.50e+06"), (0.0, "0.00")],
        *[(math.nan, "nan"), (-math.inf, "-inf"), (1e-100, "1.00e-100")],
    ],
)
def test_three_digits(value, text):
    assert three_digits(value) == text


def test_a_mean_over_nothing_is_left_out():
    figures = Figures()
    figures.add_mean("kl", 0.0, 0)
    assert figures.as_dict() == {}


@given(st.permutations([1.0, math.nan, 3.0]))
def test_nan_shows_in_a_maximum(values):
    figures = Figures()
    for value in values:
        figures.add_max("worst", value)
    assert math.isnan(figures.as_dict()["worst"])


def test_every_metric_is_documented_and_nothing_else():
    cells = re.findall(r"^\| (`[^|]+`) \|", DOCS.read_text(), flags=re.MULTILINE)
    documented = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    assert sorted(documented) == sorted(METRICS)


def names_logged_by_the_package() -> list[str]:
    """First arguments of add_sum, add_mean and add_max; what is filled in at run time as `*`."""
    names = []
    for path in (DOCS.parents[1] / "megatron_coreward").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            name = node.args[0]
            if node.func.attr not in ("add_sum", "add_mean", "add_max"):
                continue
            if isinstance(name, ast.Constant):
                names.append(name.value)
            elif isinstance(name, ast.JoinedStr):
                names.append("".join(p.value if isinstance(p, ast.Constant) else "*" for p in name.values))
    return names


def test_every_name_that_the_package_logs_is_documented():
    names = names_logged_by_the_package()
    assert "policy/kl" in names
    assert [name for name in names if not fnmatch.filter(METRICS, name)] == []


def test_undocumented_names_are_found():
    assert undocumented(["eval/maj@8", "policy/kl", "policy/kI", "eval/maj@x"]) == ["policy/kI", "eval/maj@x"]


def test_writes_one_line_per_call_and_reads_one_record_per_step(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.log(0, {"eval/pass@1": 0.5})
    writer.log(1, {"policy/kl": math.inf})
    writer.log(1, {"eval/pass@1": 0.6})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"step": 0, "eval/pass@1": 0.5},
        {"step": 1, "policy/kl": None},
        {"step": 1, "eval/pass@1": 0.6},
    ]  # readable while the run goes on: not closed yet
    writer.close()
    records = read_metrics(tmp_path)
    assert [record["step"] for record in records] == [0, 1]
    assert math.isnan(records[1]["policy/kl"])
    assert records[1]["eval/pass@1"] == 0.6


def test_no_metrics_yet(tmp_path):
    assert read_metrics(tmp_path) == []


def write_steps(folder: Path, steps: range) -> None:
    writer = MetricsWriter(folder, resumed_step=steps.start - 1)
    for step in steps:
        writer.log(step, {"policy/lr": float(step)})
    writer.close()


def test_resume_removes_what_was_logged_after_the_checkpoint(tmp_path):
    write_steps(tmp_path, range(6))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "poli')  # the run was killed here
    write_steps(tmp_path, range(4, 7))
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 1, 2, 3, 4, 5, 6]


def test_a_checkpoint_knows_the_position_and_the_wandb_run(tmp_path, caplog):
    (tmp_path / "wandb_id").write_text("abc")
    writer = MetricsWriter(tmp_path)
    for step in range(4):
        writer.log(step, {"policy/lr": 0.1})
    saved = writer.state_dict()
    writer.close()
    assert saved == {"lines": 4, "wandb_id": "abc"}
    (tmp_path / "wandb_id").unlink()
    MetricsWriter(tmp_path, resumed_step=3, saved=saved).close()
    assert (tmp_path / "wandb_id").read_text() == "abc" and not caplog.text
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    MetricsWriter(tmp_path, resumed_step=3, saved=saved).close()
    assert "lacks 3 lines" in caplog.text


def test_a_new_run_starts_with_an_empty_file(tmp_path):
    write_steps(tmp_path, range(3))
    MetricsWriter(tmp_path).close()
    assert read_metrics(tmp_path) == []


def test_tensorboard_hides_the_steps_a_resumed_run_repeats(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for resumed_step, steps in ((None, range(4)), (1, range(2, 5))):
        writer = MetricsWriter(tmp_path, tensorboard=True, resumed_step=resumed_step)
        for step in steps:
            writer.log(step, {"policy/lr": float(step)})
        writer.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("policy/lr")] == [0, 1, 2, 3, 4]


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return tmp_path / "netrc"


def test_wandb_is_offline_unless_logged_in(logged_out, monkeypatch):
    assert wandb_mode() == "offline"
    logged_out.write_text("machine api.wandb.ai login user password secret\n")
    logged_out.chmod(0o600)
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert wandb_mode() == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert wandb_mode() == "online"
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_mode() is None


def test_a_broken_netrc_is_not_a_login(logged_out):
    logged_out.write_text("this is no netrc")
    assert wandb_mode() == "offline"


def test_an_offline_wandb_run_is_written_into_the_run_folder(tmp_path, logged_out):
    pytest.importorskip("wandb")
    writer = MetricsWriter(tmp_path / "run", wandb={"project": "test"}, config={"lr": 1.0})
    writer.log(1, {"policy/kl": 0.5})
    writer.close()
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))
    assert (tmp_path / "run" / "wandb_id").exists()


def test_figures_need_no_torch():
    code = "import sys, megatron_coreward.utils.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=DOCS.parents[1]).returncode == 0


def test_wandb_knows_the_names_of_a_run(tmp_path, logged_out, caplog):
    """And an offline run says how it gets there."""
    pytest.importorskip("wandb")
    names = {"project": "test", "name": "seed 1", "entity": "us", "group": "seeds"}
    with caplog.at_level("INFO"):
        writer = MetricsWriter(tmp_path / "run", wandb=names)
        run = writer._wandb
        writer.close()
    assert {"project": run.project, "name": run.name, "entity": run.entity, "group": run.group} == names
    assert f"wandb sync {tmp_path / 'run' / 'wandb'}/offline-run-*" in caplog.text
