"""What is read of a model's config.json is what transformers makes of it."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from megatron_coreward.config.hf_files import read_tensors
from megatron_coreward.config.hf_weights import expected_shapes
from megatron_coreward.config.model_shape import read_shape
from tests.support.models import FAMILIES, tiny_model
from tests.support.spoiled import LLAMA3, set_json


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"seed_oss"}))
@pytest.mark.parametrize("tied", [True, False])
def test_expected_shapes_are_those_of_transformers(tmp_path: Path, family: str, tied: bool) -> None:
    folder = tiny_model(tmp_path / "model", family, tied=tied, heads=4, kv_heads=2, vocab=301)
    expected = expected_shapes(read_shape(folder))
    assert expected == {name: info.shape for name, info in read_tensors(folder, "model.path").items()}


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": LLAMA3},
        {"rope_parameters": None, "rope_scaling": LLAMA3, "rope_theta": 7e4},
        {"rope_parameters": LLAMA3 | {"rope_theta": 6e5}, "rope_scaling": None},
    ],
)
def test_rope_is_what_transformers_makes_of_it(tmp_path: Path, rope: dict[str, Any]) -> None:
    model = tiny_model(tmp_path / "model")
    set_json("config.json", **rope)(model)
    ours, theirs = read_shape(model), AutoConfig.from_pretrained(model).rope_parameters
    assert ours.rope_theta == theirs["rope_theta"]
    assert (ours.rope_scaling is not None) == (theirs["rope_type"] == "llama3")
