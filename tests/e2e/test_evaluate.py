"""`python -m megatron_coreward.evaluate` as a user starts it: checkpoint, ranks, input and output files.

test_training.py tests that its results equal those of a training run's own evaluation.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import config_of, make_policy, save
from tests.support.models import tiny_model
from tests.support.programs import launch
from tests.support.ranks import run_ranks

MAX_TOKENS = 12


def save_at_tp2(_: int, model: Path, folder: Path) -> Path:
    """The model as a checkpoint of two tensor-parallel ranks, with its optimizer."""
    return save(folder, make_policy(config_of(model, ParallelConfig(tensor=2))))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("evaluate") / "model")


@pytest.fixture(scope="module")
def checkpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_ranks(2, save_at_tp2, model, tmp_path_factory.mktemp("saved"))[0]


def arguments(folder: Path) -> list[str]:
    """Two files of two formats, with two samples each."""
    rows = [{"question": f"{i}+{i}?", "answer": f"thinking #### {2 * i}", "level": i % 2} for i in range(6)]
    (folder / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "aime.json").write_text(
        json.dumps([{"prompt": "1?", "answer": "070", "source": "aime", "id": "0"}])
    )
    files = ["--file", str(folder / "sums.jsonl"), "--file", f"contest={folder / 'aime.json'}"]
    return [*files, "--samples", "2", "--max-response-tokens", str(MAX_TOKENS), "rollout.memory_gb=0.1"]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [
        row for name in ("sums", "contest") for row in pq.read_table(folder / f"{name}.parquet").to_pylist()
    ]


def test_a_checkpoint_on_two_ranks_says_what_its_folder_says_on_one(
    model: Path, checkpoint: Path, tmp_path: Path
) -> None:
    given = arguments(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program = ("-m", "megatron_coreward.evaluate")
    one = launch(1, *program, "--model", str(model), "--output", str(tmp_path / "one"), *given)
    assert one.returncode == 0, one.stdout
    exported = ("--checkpoint", str(checkpoint), "--scratch", str(scratch))
    two = launch(2, *program, *exported, "--output", str(tmp_path / "two"), *given)
    assert two.returncode == 0, two.stdout
    assert "2 replica(s)" in two.stdout
    assert not list(scratch.iterdir()), "the exported folder is still there"

    drawn = rows(tmp_path / "one")
    assert len(drawn) == (6 + 1) * (1 + 2)
    assert len({row["text"] for row in drawn}) > len(drawn) // 2, "control: it says different things"
    assert rows(tmp_path / "two") == drawn
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two")]
    assert summaries[0]["benchmarks"] == summaries[1]["benchmarks"]
    assert [summary["model"] for summary in summaries] == [str(model), str(checkpoint)]
    assert summaries[0]["benchmarks"]["sums"]["levels"].keys() == {"0", "1"}
    for shown in (one.stdout, (tmp_path / "one" / "summary.md").read_text()):
        assert "sums" in shown and "contest" in shown and "by level" in shown


def test_a_damaged_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    [file, *_] = sorted(checkpoint.glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    result = launch(
        1,
        *("-m", "megatron_coreward.evaluate", "--checkpoint", str(checkpoint)),
        *("--scratch", str(tmp_path), *arguments(tmp_path)),
    )
    assert result.returncode == 2, result.stdout
    assert f"{file.name} does not have the checksum" in result.stdout and "Traceback" not in result.stdout
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]
