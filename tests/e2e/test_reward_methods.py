"""Complete runs with every reward method, and a teacher that is saved and resumed."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.utils.metrics import read_metrics
from tests.support.metric_names import undocumented
from tests.support.programs import TRAIN, launch, settings, write_data

ONE_VIEW = [name for name, method in METHODS.items() if not method.both_views]


def teacher_settings(model: Path, output: Path, data: Path) -> list[str]:
    return settings(
        model,
        output,
        data,
        reward__method="co_rewarding_3",
        teacher__alpha_start=0.8,
        run__steps=3,
        parallel__tensor=2,
        algorithm__kl_coef=0.01,
        weight_sync__verify="true",
        checkpoint__every=1,
        checkpoint__keep_last=0,
    )


def test_a_teacher_is_saved_resumed_and_reaches_vllm(apprentice: Path, tmp_path: Path) -> None:
    """The last step again, from the checkpoint before it, gives the same weights and figures."""
    output = tmp_path / "run"
    arguments = teacher_settings(apprentice, output, write_data(tmp_path / "data"))
    straight = launch(2, *TRAIN, *arguments)
    assert straight.returncode == 0, (
        straight.stdout
    )  # weight_sync.verify has compared the teacher's log-probs
    weights, records = load_file(output / "hf" / "model.safetensors"), read_metrics(output)
    assert [r["teacher/alpha"] for r in records] == sorted(r["teacher/alpha"] for r in records)
    assert records[0]["policy/kl"] == pytest.approx(0, abs=1e-6), "at first the teacher is the policy"
    assert records[-1]["policy/kl"] > 1e-6 and records[-1]["policy/grad_norm"] > 0

    shutil.rmtree(output / "checkpoints" / "step_000003")
    shutil.rmtree(output / "hf")
    resumed = launch(2, *TRAIN, *arguments, "run.resume=true")
    assert resumed.returncode == 0, resumed.stdout
    again = load_file(output / "hf" / "model.safetensors")
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    last = read_metrics(output)[-1]
    assert {
        k: v for k, v in last.items() if k.startswith(("policy/", "reward/", "teacher/", "coreward/"))
    } == {
        k: v for k, v in records[-1].items() if k.startswith(("policy/", "reward/", "teacher/", "coreward/"))
    }


@pytest.mark.parametrize("method", ONE_VIEW)
def test_methods_of_one_wording_need_originals_only(method: str, apprentice: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    arguments = settings(
        *(apprentice, tmp_path / "run", data),
        reward__method=method,
        data__rephrased="",
        data__batch_pairs=48,
        run__steps=1,
        run__export_hf="false",
        algorithm__kl_coef=0.0,
    )
    result = launch(1, *TRAIN, *arguments)
    assert result.returncode == 0, result.stdout
    [record] = read_metrics(tmp_path / "run")
    assert not undocumented(record.keys() - {"step"})
    assert record["original/signal_groups"] > 0 and record["policy/grad_norm"] > 0
    assert not [name for name in record if name.startswith("rephrased/")]
    assert ("teacher/alpha" in record) == METHODS[method].teacher


def test_a_method_whose_options_ask_for_a_teacher_and_masked_answers(
    apprentice: Path, tmp_path: Path
) -> None:
    arguments = settings(
        *(apprentice, tmp_path / "run", write_data(tmp_path / "data")),
        reward__method="consensus",
        reward__options__judges="teacher_other",
        reward__options__subset=3,
        reward__min_entropy=0.1,
        teacher__samples=4,
        run__steps=1,
        run__export_hf="false",
        algorithm__advantage="rloo",
        algorithm__mask_answer="true",
    )
    result = launch(1, *TRAIN, *arguments)
    assert result.returncode == 0, result.stdout
    [record] = read_metrics(tmp_path / "run")
    assert not undocumented(record.keys() - {"step"})
    assert record["rephrased/signal_groups"] > 0 and record["policy/grad_norm"] > 0
    assert record["coreward/in_band"] > 0 and record["original/answer_tokens"] > 0.5
    assert "teacher/alpha" in record
    assert "diagnostics/reward_accuracy" not in record, "a share of votes is no verdict"


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"reward__method": "ground_truth"}, ["none of 48 pairs has a ground truth", "reward.method"]),
        ({"reward__method": "co_rewarding"}, ["must be one of", "Did you mean co_reward"]),
        ({"data__rephrased": ""}, ["data.original", "coreward rephrase", "majority_voting"]),
        ({"teacher__samples": 4}, ["teacher.samples is 4", "co_rewarding_2"]),
    ],
)
def test_what_a_method_lacks_is_said_before_anything_is_built(
    overrides: dict[str, object], words: list[str], apprentice: Path, tmp_path: Path
) -> None:
    data = write_data(tmp_path / "data", truth="absent")
    result = launch(1, *TRAIN, *settings(apprentice, tmp_path / "run", data, **overrides))
    assert result.returncode == 2 and "Traceback" not in result.stdout
    assert all(word in result.stdout for word in words), result.stdout
    assert not (tmp_path / "run").exists()
