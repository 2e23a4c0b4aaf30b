"""Checkpoints and exports of tiny models.

One rank saves, two ranks load and save in every layout, and one rank loads those again (checkpoint_runs.py).
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_coreward.actor.checkpoint.folder import Retention, find_problem, latest_checkpoint, prune
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.checkpoint.checkpoint_runs import (
    LAYOUTS,
    MODELS,
    SAVED,
    TRAINER,
    VOCAB,
    one_rank,
    one_rank_again,
    same,
    two_ranks,
)
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

ALONE = TorchCommunicator()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    for name, settings in MODELS.items():
        tiny_model(folder / name, **({"vocab": VOCAB, "heads": 2, "kv_heads": 2} | settings))
    return folder


@pytest.fixture(scope="module")
def one(root: Path) -> dict[str, Any]:
    return run_ranks(1, one_rank, root)[0]


@pytest.fixture(scope="module")
def two(root: Path, one: dict[str, Any]) -> list[dict[str, Any]]:
    return run_ranks(2, two_ranks, root, timeout_s=240)


@pytest.mark.parametrize("case", ["tied", "untied", "bfloat16"])
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(one: dict[str, Any], case: str) -> None:
    seen = one[case]
    assert seen["num_updates"] == SAVED
    assert seen["trainer"] == TRAINER
    assert same(seen["loaded_state"], seen["saved_state"])
    assert same(seen["resumed_state"], seen["final_state"])
    assert not same(seen["saved_state"], seen["final_state"])


def test_a_checkpoint_before_the_first_update(one: dict[str, Any]) -> None:
    assert one["fresh"]


def test_adams_settings_come_from_the_configuration(one: dict[str, Any]) -> None:
    assert one["settings"] == {((0.9, 0.9), 0.5, True), ((0.9, 0.9), 0.0, True)}
    assert one["settings_moments"] == SAVED


@pytest.mark.parametrize("model", ["tied", "untied"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_other_layouts(one: dict[str, Any], two: list[dict[str, Any]], layout: str, model: str) -> None:
    seen = two[0][layout, model]
    assert same(seen["loaded"], one[model]["saved"])
    assert seen["bits"], "saving and resuming in this layout must not change a bit"
    for name, weight in one[model]["final"].items():
        if name.endswith("k_proj.bias"):
            continue  # its gradient is 0 but for rounding, which Adam blows up to the learning rate
        moved = (weight - one[model]["saved"][name]).abs().max()
        torch.testing.assert_close(seen["final"][name], weight, rtol=0, atol=float(moved) / 20, msg=name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_new_run_starts_from_a_checkpoints_weights(
    one: dict[str, Any], two: list[dict[str, Any]], layout: str
) -> None:
    assert same(two[0][layout, "start"], one["tied"]["saved"])
    assert not same(one["tied"]["saved"], one["tied"]["start"])


def test_nothing_is_lost_on_the_way_through_other_layouts(
    one: dict[str, Any], two: list[dict[str, Any]], root: Path
) -> None:
    for (layout, model), state in run_ranks(1, one_rank_again, root)[0].items():
        assert same(state, one[model]["saved_state"]), (layout, model)


def test_another_model_is_refused(one: dict[str, Any], two: list[dict[str, Any]], root: Path) -> None:
    refused = one["refused"]
    assert "architecture is Qwen3ForCausalLM in the checkpoint and Qwen2ForCausalLM" in refused["untied"]
    assert (
        "decoder.layers.mlp.linear_fc1.weight is (2, 192, 64) in the checkpoint and (2, 128, 64) in the model"
        in refused["small_mlp"]
    )
    assert "heads is 2 in the checkpoint and 1 in the model" in refused["other_heads"]
    assert "vocab is 301 in the checkpoint and 303 in the model" in refused["other_vocab"]
    assert all("model.path" in text and "run.output_dir" in text for text in refused.values())
    assert two[0]["refused"] == two[1]["refused"], "every rank says the same"


def test_a_full_disk_leaves_what_was_there(two: list[dict[str, Any]], root: Path) -> None:
    assert "could not be written" in two[0]["full"] and "MiB free): rank 0: " in two[0]["full"]
    # Each rank looks at the disk for itself, and others write to it too.
    said = [re.sub(r"\d+ MiB free", "N MiB free", rank["full"]) for rank in two]
    assert said[1] == said[0], "every rank says why"
    assert two[0]["after_full"] == ["step_000002"]
    assert find_problem(root / "pp2/untied/step_000002") is None
    assert latest_checkpoint(root / "room_again", ALONE) is not None


def test_a_checkpoint_that_will_not_fit_is_not_begun(one: dict[str, Any]) -> None:
    assert re.search(r"needs \d+ MiB and .* has 0 MiB free", one["no_room"])
    assert one["left"] == []


@pytest.fixture
def folder(one: dict[str, Any], root: Path, tmp_path: Path) -> Path:
    """Complete checkpoints of steps 2, 10 and 100."""
    for step in (2, 10, 100):
        shutil.copytree(root / "one/tied/step_000002", tmp_path / "run" / f"step_{step:06d}")
    return tmp_path / "run"


def test_latest_is_the_highest_complete_step(folder: Path, tmp_path: Path) -> None:
    assert latest_checkpoint(folder, ALONE) == folder / "step_000100"
    assert latest_checkpoint(tmp_path / "nothing", ALONE) is None
    (folder / "step_000100").rename(folder / ".step_000200.tmp")
    assert latest_checkpoint(folder, ALONE) == folder / "step_000010"
    (folder / "step_000010").rename(folder / ".step_000010.replaced")
    assert latest_checkpoint(folder, ALONE) == folder / ".step_000010.replaced"


@pytest.mark.parametrize(
    "file", ["__0_0.distcp", "common.pt", ".metadata", "metadata.json", "hf/config.json", "state.json"]
)
@pytest.mark.parametrize("fault", ["missing", "truncated", "empty"])
def test_latest_names_and_skips_an_incomplete_one(
    folder: Path, caplog: pytest.LogCaptureFixture, file: str, fault: str
) -> None:
    victim = folder / "step_000100" / file
    if fault == "missing":
        victim.unlink()
    else:
        victim.write_bytes(victim.read_bytes()[:-1] if fault == "truncated" else b"")
    assert latest_checkpoint(folder, ALONE) == folder / "step_000010"
    assert str(folder / "step_000100") in caplog.text and file in caplog.text


def test_another_format_is_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = folder / "step_000100/state.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))
    assert latest_checkpoint(folder, ALONE) == folder / "step_000010"
    assert "format 1" in caplog.text


def test_prune_counts_complete_checkpoints_only(folder: Path) -> None:
    prune(folder, Retention(last=0), ALONE)
    assert len(list(folder.iterdir())) == 3
    (folder / "step_000100/.metadata").unlink()
    prune(folder, Retention(last=1), ALONE)
    assert sorted(path.name for path in folder.iterdir()) == ["step_000010", "step_000100"]
    prune(folder, Retention(last=1), ALONE)
    assert find_problem(folder / "step_000010") is None


def test_saving_and_exporting_over_what_is_there(one: dict[str, Any]) -> None:
    seen = one["over"]
    assert seen["folder"] == ["step_000002", "step_000010", "step_000100"]
    assert seen["updates"] == 0, "the copy of another step was not replaced"
    assert "__0_0.distcp is missing" in seen["incomplete"]
    assert "holds weights only" in seen["weights_only"] and "model.checkpoint" in seen["weights_only"]
    assert "no model folder" in seen["foreign"]
    assert "its own source" in seen["itself"]
    assert "config.json" in seen["no_model"]
    assert "cannot write" in seen["full"]
    assert seen["exports"] == ["hf", "notes"]


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_an_export_equals_its_source(one: dict[str, Any], root: Path, name: str) -> None:
    source, output = root / name, root / "hf" / name
    files = sorted(output.glob("*.safetensors"))
    exported = {key: tensor for file in files for key, tensor in load_file(file).items()}
    assert same(exported, load_file(source / "model.safetensors"))
    assert (len(files) > 1) == (name == "tied") == (output / "model.safetensors.index.json").exists()
    assert all(file.stat().st_size < 45_000 or len(load_file(file)) == 1 for file in files) or len(files) == 1
    for file in source.glob("*.json"):
        if file.name != "config.json":
            assert (output / file.name).read_bytes() == file.read_bytes()
    ids = torch.arange(40)[None]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype="auto") for path in (source, output)]
    with torch.no_grad():
        a, b = (model(ids).logits for model in models)
    assert torch.equal(a, b)
    assert (
        AutoTokenizer.from_pretrained(output).chat_template
        == AutoTokenizer.from_pretrained(source).chat_template
    )


def test_an_export_after_training_over_two_stages(two: list[dict[str, Any]], root: Path) -> None:
    assert same(load_file(root / "hf/pp2/model.safetensors"), two[0]["pp2", "untied"]["final"])
