"""`coreward sft` as a user starts it: it learns, repeats to the bit at any layout, and its folder is used."""

import json
import re
from pathlib import Path

import pytest

from megatron_coreward.data.synthetic import held_out, supervised_examples
from megatron_coreward.doctor.toy_model import write_random_model
from megatron_coreward.utils.metrics import read_metrics
from tests.support.programs import launch

COREWARD = ("-m", "megatron_coreward.cli.main")
STEPS = 6
KEYS = (
    *("data.system_prompt=", "data.max_prompt_tokens=96", "data.batch_pairs=32", f"run.steps={STEPS}"),
    *("rollout.max_response_tokens=32", "rollout.memory_gb=0.1", "logging.tensorboard=false"),
    *("optimizer.lr=3e-3", "optimizer.schedule=constant"),
)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("sft")
    write_random_model(folder / "model", seed=1)
    rows = [{"question": q, "response": r} for q, r in supervised_examples(100, seed=1)]
    (folder / "examples.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return [*KEYS, f"model.path={folder / 'model'}", f"data.original={folder / 'examples.jsonl'}"]


def sft(output: Path, *arguments: str) -> tuple[list[float], str]:
    """The losses, and the fingerprint that is logged."""
    result = launch(1, *COREWARD, "sft", *arguments, f"run.output_dir={output}")
    assert result.returncode == 0, result.stdout
    losses = [record["policy/loss"] for record in read_metrics(output)]
    found = re.search(r"SHA-256 of the weights in \S+: (\w{64})", (output / "train.log").read_text())
    assert len(losses) == STEPS and found
    return losses, found[1]


@pytest.fixture(scope="module")
def trained(keys: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float], str]:
    output = tmp_path_factory.mktemp("trained") / "run"
    return output, *sft(output, *keys)


def test_it_learns_and_repeats_to_the_bit(
    keys: list[str], trained: tuple[Path, list[float], str], tmp_path: Path
) -> None:
    _, losses, weights = trained
    assert losses[-1] < losses[0] - 0.5
    assert sft(tmp_path / "again", *keys) == (losses, weights)
    assert sft(tmp_path / "other", *keys, "run.seed=2")[1] != weights


@pytest.mark.parametrize("layout", [(), ("parallel.tensor=2",)], ids=["data", "tensor"])
def test_two_ranks_and_small_micro_batches_change_rounding_only(
    keys: list[str], trained: tuple[Path, list[float], str], tmp_path: Path, layout: tuple[str, ...]
) -> None:
    losses, _ = sft(tmp_path / "run", *keys, "--ranks", "2", "optimizer.micro_batch_tokens=256", *layout)
    assert losses == pytest.approx(trained[1], abs=2e-3)


def test_evaluate_and_train_take_its_folder(
    keys: list[str], trained: tuple[Path, list[float], str], tmp_path: Path
) -> None:
    model = trained[0] / "hf"
    questions = tmp_path / "questions.jsonl"
    questions.write_text(
        "\n".join(json.dumps({"question": q.question, "answer": q.answer}) for q in held_out()[:4])
    )
    settings = json.loads((model / "coreward.json").read_text())["config"]
    assert settings["data.system_prompt"] == "" and settings["rollout.max_response_tokens"] == 32
    evaluated = launch(
        *(1, *COREWARD, "evaluate", "--model", str(model), "--file", str(questions), "--greedy-only"),
        "rollout.memory_gb=0.1",
    )
    assert evaluated.returncode == 0, evaluated.stdout
    result = launch(
        *(1, *COREWARD, "train", *KEYS, f"model.path={model}", "data.source=synthetic", "run.steps=1"),
        *("data.batch_pairs=2", "rollout.samples=2", "evaluation.limit=2", "evaluation.samples=1"),
        f"run.output_dir={tmp_path / 'train'}",
    )
    assert result.returncode == 0, result.stdout
