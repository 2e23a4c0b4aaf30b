"""Hugging Face -> checkpoint -> Hugging Face is bit-exact, and the checkpoint between is an ordinary one."""

import filecmp
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from megatron_coreward.actor.checkpoint.folder import find_problem, read_state
from megatron_coreward.actor.checkpoint.inspect import inspect
from megatron_coreward.actor.convert.stream import balanced_shares
from tests.distributed.convert.convert_runs import (
    LAYOUTS,
    MODELS,
    SHARD_BYTES,
    peak_memory,
    same_bits,
    two_ranks,
)
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

INDEX = "model.safetensors.index.json"
CASES = [(layout, model) for layout in LAYOUTS for model in MODELS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("convert")
    for name, settings in MODELS.items():
        tiny_model(root / name, **settings)
    return root


@pytest.fixture(scope="module")
def by_rank(root: Path) -> list[dict[str, Any]]:
    return run_ranks(2, two_ranks, root, timeout_s=400)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def stored(folder: Path) -> dict[str, Any]:
    """The model's part of a checkpoint's metadata, in a comparable form."""
    found = FileSystemReader(folder).read_metadata().state_dict_metadata
    return {
        name: (entry.size, entry.properties.dtype, sorted((*c.offsets, *c.sizes) for c in entry.chunks))
        if "chunks" in vars(entry)
        else "object"
        for name, entry in found.items()
        if not name.startswith("optimizer.")
    }


@pytest.mark.parametrize("model", MODELS)
def test_there_and_back_is_bit_exact(model, root, by_rank):
    assert same_bits(weights(root / model), weights(root / "back" / model)) == []
    compared = by_rank[0]["equal"][model]
    assert compared.differences == []
    assert compared.tensors == len(weights(root / model))


@pytest.mark.parametrize("model", MODELS)
def test_everything_but_the_weights_is_carried_along(model, root, by_rank):
    start, back = root / model, root / "back" / model
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert filecmp.cmp(start / name, back / name, shallow=False), name
    assert json.loads((start / "config.json").read_text()) == json.loads((back / "config.json").read_text())
    text = [{"role": "user", "content": "Grüße, 12 + 3?"}]
    ids = [
        AutoTokenizer.from_pretrained(path).apply_chat_template(text)["input_ids"] for path in (start, back)
    ]
    assert ids[0] == ids[1]
    assert GenerationConfig.from_pretrained(start) == GenerationConfig.from_pretrained(back)


@pytest.mark.parametrize("model", MODELS)
def test_files_keep_to_the_limit_and_the_index_finds_every_tensor(model, root, by_rank):
    back = root / "back" / model
    index = json.loads((back / INDEX).read_text())
    files = sorted(path.name for path in back.glob("*.safetensors"))
    assert set(index["weight_map"].values()) == set(files)
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in weights(back).values())
    for file in files:
        with safe_open(back / file, framework="pt") as opened:
            names = list(opened.keys())
        assert {name for name, place in index["weight_map"].items() if place == file} == set(names)
        size = sum(weights(back)[name].nbytes for name in names)
        assert size <= SHARD_BYTES or len(names) == 1


@pytest.mark.parametrize("model", MODELS)
def test_both_ranks_write(model, root, by_rank):
    converted = root / "converted" / model
    assert sorted(path.name for path in converted.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    total = sum(tensor.nbytes for tensor in weights(root / model).values())
    shares = [seen["shares"][model][-1] for seen in by_rank]
    assert [done for done, _ in shares] == [share for _, share in shares]
    assert sum(done for done, _ in shares) == total
    pieces = len(FileSystemReader(converted).read_metadata().storage_data)
    size = sum(path.stat().st_size for path in converted.glob("*.distcp"))
    assert total < size < total + 2000 * pieces, "nothing is written twice"


@pytest.mark.parametrize("model", MODELS)
def test_a_converted_checkpoint_is_like_a_saved_one(model, root, by_rank):
    converted, saved = root / "converted" / model, root / "saved" / "dp2" / model / "step_000002"
    assert stored(converted) == stored(saved)
    assert find_problem(converted) is None
    state, other = read_state(converted), read_state(saved)
    assert (state["step"], state["contents"], state["trainer"]) == (0, ["model"], None)
    assert state.keys() == other.keys()
    for key in ("architecture", "dims", "versions"):
        assert state[key] == other[key]
    names = {str(path.relative_to(converted)) for path in converted.rglob("*") if path.is_file()}
    assert names == {*state["files"], "state.json"}


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_a_run_loads_what_was_converted(layout, model, root, by_rank):
    assert same_bits(by_rank[0]["loaded"][layout, model], weights(root / model)) == []


@pytest.mark.parametrize(("layout", "model"), CASES)
def test_what_a_run_saved_is_exported(layout, model, root, by_rank):
    trained = by_rank[0]["trained"][layout, model]
    assert same_bits(trained, weights(root / "exported" / layout / model)) == []
    assert len(same_bits(trained, weights(root / model))) == len(trained), "every tensor was trained"


@pytest.mark.parametrize("model", MODELS)
def test_the_export_says_the_same_as_the_original(model, root, by_rank):
    prompt = torch.arange(10, 40)[None]
    texts = [
        AutoModelForCausalLM.from_pretrained(path)
        .generate(prompt, max_new_tokens=24, do_sample=False)
        .tolist()
        for path in (root / model, root / "back" / model, root / "exported" / "tp2" / model)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2], "control: other weights, other text"


def test_inspect_separates_model_and_optimizer(root, by_rank):
    found = inspect(root / "saved" / "tp2" / "qwen2" / "step_000002")
    assert (found["step"], found["layout"]) == (2, {"tensor": 2, "pipeline": 1, "data": 1})
    assert found["config"]["model"]["path"] == str(root / "qwen2")
    by_part = {part: [t for t in found["tensors"] if t["part"] == part] for part in ("model", "optimizer")}
    embedding = next(t for t in by_part["model"] if t["name"] == "embedding.word_embeddings.weight")
    assert (embedding["shape"], embedding["dtype"], embedding["pieces"]) == ([302, 128], "float32", 2)
    assert sum(t["bytes"] for t in by_part["optimizer"]) >= 2 * sum(t["bytes"] for t in by_part["model"])


def test_memory_does_not_grow_with_the_model(tmp_path):
    [seen] = run_ranks(1, peak_memory, tmp_path, timeout_s=200)
    limit = 1.3 * seen["largest"] + 8 * 2**20
    assert seen["model"] > 3 * limit, "control: the whole model would not fit"
    assert max(seen["peaks"].values()) < limit, seen


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_shares_are_consecutive_and_about_equal(ranks):
    sizes = [100, *[7, 3, 11, 9] * 20, 100]
    owners = balanced_shares(sizes, ranks)
    assert owners == sorted(owners)
    loads = [sum(size for size, owner in zip(sizes, owners, strict=True) if owner == r) for r in range(ranks)]
    assert max(loads) - min(loads) <= 2 * max(sizes)
