"""Hugging Face folder -> actor -> export gives the same file bit for bit, on every layout."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_coreward.actor import parallel
from megatron_coreward.actor.weights.hf_folder import HfFolder
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.config.schema import ModelConfig, ParallelConfig
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

FAMILIES = ("llama", "qwen2", "qwen3")
LAYOUTS = {
    "TP1 PP1": ParallelConfig(),
    "TP2 PP1": ParallelConfig(tensor=2),
    "TP1 PP2": ParallelConfig(pipeline=2),
    "TP2 PP2": ParallelConfig(tensor=2, pipeline=2),
}
BUCKETS = {"a bucket for each tensor": 4096, "buckets of several": 50_000}  # bytes; the embedding has 19,264
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 301, "hidden_size": 16}


MODELS = {
    f"{family} {'tied' if tied else 'untied'}": {"family": family, "tied": tied}
    for family in FAMILIES
    for tied in (True, False)
}


def edited(folder: Path, target: Path, edit: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model folder with other tensors."""
    oracle.load(folder).save_pretrained(target)
    file = load_file(target / "model.safetensors")
    edit(file)
    save_file(file, target / "model.safetensors", metadata={"format": "pt"})
    return target


def cut_rows(name: str, rows: int) -> Callable[[dict[str, torch.Tensor]], None]:
    def cut(file: dict[str, torch.Tensor]) -> None:
        file[name] = file[name][:rows].contiguous()

    return cut


def drop(name: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def remove(file: dict[str, torch.Tensor]) -> None:
        del file[name]

    return remove


Q, K, NORM = (
    f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm")
)
BROKEN = {  # edit of the file, what the message must say
    "norm missing": (drop(NORM), f"has no tensor {NORM}"),
    "embedding too short": (cut_rows(EMBEDDING, 300), rf"{EMBEDDING} .* \[300, 16\] .* \[301, 16\]"),
    "query too short": (cut_rows(Q, 31), rf"{Q} .* \[31, 16\] .* \[32, 16\]"),
    "half of the key heads": (cut_rows(K, 8), rf"{K} .* \[8, 16\] .* \[16, 16\]"),
    "a tensor too many": (
        lambda file: file.update({"value_head.weight": torch.ones(2)}),
        "does not know: value_head.weight. To leave them out, convert it there and back",
    ),
    "another head": (
        lambda file: file.update({HEAD: file[EMBEDDING] + 1}),
        f"{HEAD} .* differs from {EMBEDDING}",
    ),
    "norm too short": (cut_rows(NORM, 15), rf"{NORM} .* \[15\] .* \[16\]"),
}


@dataclass(frozen=True)
class Exported:
    """What one rank saw of an export."""

    names: list[str]
    wrong: list[str]
    """Tensors that are not the file's, bit for bit."""
    num_buckets: int


def export_all(folders: dict[str, Path]) -> dict[tuple[str, str, str, bool], Exported]:
    """By model, layout, bucket size and whether it is for an engine (of one rank)."""
    found = {}
    for layout_name, config in LAYOUTS.items():
        layout = parallel.initialize(config)
        for name, folder in folders.items():
            model = load_model(ModelConfig(str(folder)), layout)
            file = load_file(folder / "model.safetensors")
            file.setdefault(HEAD, file[EMBEDDING])
            for bucket_name, size in BUCKETS.items():
                exporter = WeightExporter(model, layout, bucket_bytes=size)
                for for_engine in (True, False):
                    weights = {key: value.clone() for key, value in exporter.export(for_engine=for_engine)}
                    wrong = [key for key, value in weights.items() if not torch.equal(value, file[key])]
                    found[name, layout_name, bucket_name, for_engine] = Exported(
                        list(weights), wrong, len(exporter.buckets)
                    )
        parallel.destroy()
    return found


def errors_of_loading(folders: dict[str, Path]) -> dict[str, str]:
    layout = parallel.initialize(ParallelConfig())
    messages = {}
    for name, folder in folders.items():
        with pytest.raises(ValueError) as error:
            load_model(ModelConfig(str(folder)), layout)
        messages[name] = str(error.value)
    parallel.destroy()
    return messages


def work(rank: int, folders: dict[str, Path], broken: dict[str, Path]) -> tuple[dict, dict]:
    return export_all(folders), errors_of_loading(broken)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, **SIZES, **settings) for name, settings in MODELS.items()}


@pytest.fixture(scope="module")
def by_rank(folders, tmp_path_factory) -> list[tuple[dict, dict]]:
    root = tmp_path_factory.mktemp("broken")
    broken = {name: edited(folders["llama tied"], root / name, edit) for name, (edit, _) in BROKEN.items()}
    return run_ranks(4, work, folders, broken, timeout_s=500)


@pytest.mark.parametrize("bucket", BUCKETS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_the_export_is_the_file(model, layout, bucket, by_rank, folders):
    names = set(load_file(folders[model] / "model.safetensors"))
    for for_engine in (True, False):
        exports = [exported[model, layout, bucket, for_engine] for exported, _ in by_rank]
        for exported in exports:
            assert exported.names == exports[0].names, "ranks disagree about the order"
            assert len(exported.names) == len(set(exported.names))
            assert set(exported.names) == (names | {HEAD} if for_engine else names)
            assert exported.wrong == []


def test_buckets_hold_one_or_several_tensors(by_rank):
    exports, _ = by_rank[0]
    one, several = (exports["llama untied", "TP1 PP1", bucket, False] for bucket in BUCKETS)
    assert 1 < several.num_buckets < one.num_buckets


@pytest.mark.parametrize("name", BROKEN)
def test_a_tensor_that_is_missing_or_misshapen_is_named(name, by_rank):
    for _, messages in by_rank:
        assert re.search(BROKEN[name][1], messages[name]), messages[name]


def test_reads_a_folder_of_several_files(folders, tmp_path):
    model = oracle.load(folders["qwen3 untied"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    source = HfFolder(tmp_path)
    assert len({info.file for info in source.tensors.values()}) > 1
    for name, weight in model.state_dict().items():
        assert torch.equal(source.tensor(name), weight)


def test_a_missing_or_broken_file_is_named(folders, tmp_path):
    with pytest.raises(ValueError, match="neither model.safetensors nor an index"):
        HfFolder(tmp_path)
    oracle.load(folders["qwen3 untied"]).save_pretrained(tmp_path, max_shard_size="20KB")
    source = HfFolder(tmp_path)
    name, file = next((name, info.file) for name, info in source.tensors.items())
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:-1])
    with pytest.raises(ValueError, match=f"{file} as safetensors"):
        HfFolder(tmp_path)
    (tmp_path / file).write_bytes(b"not a safetensors file")
    with pytest.raises(ValueError, match=f"{file} as safetensors"):
        HfFolder(tmp_path)
    with pytest.raises(ValueError, match=f"{file} ends within {name}"):
        source.tensor(name)
    (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=f"files that are missing: {file}"):
        HfFolder(tmp_path)
