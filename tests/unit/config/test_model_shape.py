"""config.json means to us what it means to transformers; the families are those of the folder families/."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from megatron_coreward import families
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.families.registry import FAMILIES, find_families
from tests.support.paths import ROOT

NEW_FAMILY = ROOT / "tests/cases/families/seed_oss.py"
LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 300,
}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


def write_config(folder: Path, settings: dict[str, Any]) -> Path:
    (folder / "config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"rope_theta": 5e5},
        {"rope_scaling": LLAMA3, "rope_theta": 5e5},
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 512}},
        {"rope_parameters": LLAMA3 | {"rope_theta": 7}, "rope_theta": 8},
        {"rope_parameters": {"rope_type": "default"}, "rope_theta": 77},
        {"rope_scaling": LLAMA3, "rope_parameters": {"rope_type": "default", "rope_theta": 3.0}},
    ],
)
def test_rope_is_read_as_transformers_reads_it(tmp_path: Path, settings: dict[str, Any]) -> None:
    from transformers import AutoConfig

    theirs = AutoConfig.from_pretrained(write_config(tmp_path, LLAMA | settings)).rope_parameters
    ours = read_shape(tmp_path)
    assert ours.rope_theta == theirs["rope_theta"]
    assert (ours.rope_scaling is not None) == (theirs["rope_type"] == "llama3")
    if ours.rope_scaling is not None:
        assert asdict(ours.rope_scaling).items() <= theirs.items()


def test_the_families_are_those_of_their_folder() -> None:
    names = ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Qwen3MoeForCausalLM"]
    assert list(FAMILIES) == list(find_families()) == names
    assert all(family.architecture == name for name, family in FAMILIES.items())


@pytest.fixture
def with_new_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(NEW_FAMILY, tmp_path)
    monkeypatch.setattr(families, "__path__", [*families.__path__, str(tmp_path)])
    for name, family in find_families().items():
        monkeypatch.setitem(FAMILIES, name, family)


SEED_OSS = LLAMA | {
    "architectures": ["SeedOssForCausalLM"],
    "num_key_value_heads": 2,
    "attention_bias": True,
    "attention_out_bias": False,
}


@pytest.mark.usefixtures("with_new_family")
def test_a_new_family_is_one_file(tmp_path: Path) -> None:
    shape = read_shape(write_config(tmp_path, SEED_OSS))
    assert (shape.head_dim, shape.max_positions, shape.family.qkv_bias) == (128, 524288, True)


@pytest.mark.usefixtures("with_new_family")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"attention_out_bias": True},
            "sets attention_out_bias=True, but SeedOssForCausalLM is supported with",
        ),
        (
            {"attention_bias": False},
            "sets attention_bias=False, but SeedOssForCausalLM is supported",
        ),
        ({"mlp_bias": True}, "sets mlp_bias=True, which is not supported for SeedOssForCausalLM"),
    ],
)
def test_a_new_family_refuses_what_it_does_not_compute(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    write_config(tmp_path, SEED_OSS | settings)
    with pytest.raises(ValueError, match=message):
        read_shape(tmp_path)


@pytest.mark.usefixtures("with_new_family")
def test_a_required_setting_must_be_given(tmp_path: Path) -> None:
    write_config(tmp_path, {key: value for key, value in SEED_OSS.items() if key != "attention_bias"})
    with pytest.raises(ValueError, match="does not set attention_bias, but SeedOssForCausalLM is supported"):
        read_shape(tmp_path)
