"""`evaluate` and `ask` as a user starts them: what was trained is evaluated; checkpoint, ranks, files.

test_training.py tests the same of a run on two ranks.
"""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_coreward.config.fields import SYSTEM_PROMPT
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import config_of, make_policy, save
from tests.support.models import tiny_model
from tests.support.programs import TRAIN, launch
from tests.support.ranks import run_ranks

MAX_TOKENS = 12
EVALUATE = ("-m", "megatron_coreward.evaluate")
COREWARD = ("-c", "import sys; from megatron_coreward.cli.main import main; sys.exit(main(sys.argv[1:]))")
QUESTIONS = ("data.source=synthetic", "--limit", "40", "--samples", "2")
"""Those of `trained`; its prompt, lengths and temperature are not repeated."""


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
    return [*files, "--samples", "2", f"rollout.max_response_tokens={MAX_TOKENS}", "rollout.memory_gb=0.1"]


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
    one = launch(1, *EVALUATE, "--model", str(model), "--output", str(tmp_path / "one"), *given)
    assert one.returncode == 0, one.stdout
    exported = ("--checkpoint", str(checkpoint), "--scratch", str(scratch))
    two = launch(2, *EVALUATE, *exported, "--output", str(tmp_path / "two"), *given)
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
        *(*EVALUATE, "--checkpoint", str(checkpoint)),
        *("--scratch", str(tmp_path), *arguments(tmp_path)),
    )
    assert result.returncode == 2, result.stdout
    assert f"{file.name} does not have the checksum" in result.stdout and "Traceback" not in result.stdout
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model that solves half of the problems, if it is asked without a system turn."""
    output = tmp_path_factory.mktemp("trained") / "run"
    result = launch(
        1,
        *(*TRAIN, "--config", "examples/arithmetic_arms/first_experiment/config.yaml"),
        f"run.output_dir={output}",
        *("run.steps=1", "run.export_hf=true", "data.batch_pairs=8", "optimizer.lr=1e-4"),
        *("evaluation.limit=40", "evaluation.samples=2", "evaluation.temperature=0.7"),
        *("checkpoint.every=1", "evaluation.every=1", "checkpoint.keep_best=1"),
        "checkpoint.keep_best_by=evaluation",
    )
    assert result.returncode == 0, result.stdout
    accuracy = last_evaluation(output)["metrics"]["eval/greedy_pass@1"]["value"]
    assert 0.2 < accuracy < 0.8, "a model without right or without wrong answers proves nothing"
    assert f"best checkpoint by evaluation step_000001 ({accuracy:.3f})" in result.stdout
    state = json.loads((output / "checkpoints" / "step_000001" / "state.json").read_text())
    assert state["ratings"]["evaluation"] == accuracy and 0 < state["ratings"]["agreement"] < 1
    return output


def last_evaluation(run: Path) -> dict[str, Any]:
    return json.loads((run / "evaluations" / "step_000001.json").read_text())


def evaluated(output: Path, *arguments: str) -> tuple[dict[str, Any], str]:
    """The benchmark's part of summary.json, and what was printed."""
    result = launch(1, *EVALUATE, *arguments, "--output", str(output))
    assert result.returncode == 0, result.stdout
    return json.loads((output / "summary.json").read_text())["benchmarks"]["synthetic"], result.stdout


def test_the_exported_folder_gets_the_figures_of_its_run(trained: Path, tmp_path: Path) -> None:
    found, printed = evaluated(tmp_path, "--model", str(trained / "hf"), *QUESTIONS)
    assert found["outcomes"] == [{"seed": 1, **last_evaluation(trained)["outcomes"]}]
    assert "prompt: no system turn, up to 96 + 32 tokens, from the run's config\n" in printed
    assert "differs from the run's" not in printed


def test_a_checkpoint_gets_them_too(trained: Path, tmp_path: Path) -> None:
    checkpoint = trained / "checkpoints" / "step_000001"
    found, _ = evaluated(tmp_path, "--checkpoint", str(checkpoint), *QUESTIONS)
    assert found["outcomes"] == [{"seed": 1, **last_evaluation(trained)["outcomes"]}]
    converted = tmp_path / "converted"
    given = ("convert", "megatron-to-hf", "--checkpoint", str(checkpoint), "--output", str(converted))
    result = launch(1, *COREWARD, *given)
    assert result.returncode == 0, result.stdout
    carried = [(folder / "coreward.json").read_text() for folder in (converted, trained / "hf")]
    assert carried[0] == carried[1] and '"stop_token_ids": [\n    2\n  ]' in carried[0]


def test_another_prompt_is_said_and_gives_other_figures(trained: Path, tmp_path: Path) -> None:
    other = f"data.system_prompt={SYSTEM_PROMPT}"
    found, printed = evaluated(tmp_path, "--model", str(trained / "hf"), *QUESTIONS, "--greedy-only", other)
    assert found["outcomes"][0]["greedy"] != last_evaluation(trained)["outcomes"]["greedy"]
    assert f"system prompt differs from the run's: {SYSTEM_PROMPT!r} here, '' there" in printed


def test_ask(trained: Path) -> None:
    given = ("ask", "--model", str(trained / "hf"), "What is 12 plus 30?", "What is 40 minus 7?")
    result = launch(1, *COREWARD, *given, "--samples", "4")
    assert result.returncode == 0, result.stdout
    assert result.stdout.count("end of the response") == result.stdout.count("vote: ") == 2
    shares = re.findall(r"\((\d) of 4, \d+%\)", result.stdout)
    assert sum(map(int, shares)) == 8, "four responses to each question"
