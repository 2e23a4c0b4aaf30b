"""A new family is one file: the actor then loads, computes and exports its models.

The files of tests/cases/families/ are put beside the package's own. Seed-OSS has a class in transformers; the
other one is a Llama under other names, so the Llama that it was made from says what it must compute.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_coreward import families
from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.schema import ModelConfig, ParallelConfig
from megatron_coreward.families.registry import FAMILIES, find_families
from megatron_coreward.types import ScoredResponse, WeightedResponse
from tests.cases.families.renamed import other_name
from tests.distributed.actor.actor_runs import random_responses
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tests.support.paths import ROOT
from tests.support.ranks import run_ranks

LAYOUTS = {
    "TP2 PP1": ParallelConfig(tensor=2, sequence=True),
    "TP1 PP2": ParallelConfig(pipeline=2),
}
MODELS = ("seed_oss tied", "seed_oss untied", "renamed tied", "renamed untied")
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 8, "hidden_size": 24, "vocab": 301}
TOLERANCE = 4e-5  # as in test_parity.py


@dataclass(frozen=True)
class Seen:
    """One model on one layout."""

    log_probs: torch.Tensor
    wrong: list[str]
    """Tensors of the export that are not the folder's, bit for bit."""
    head: bool
    """Whether vLLM would get a head."""


def run_all(
    rank: int, folders: dict[str, Path], responses: Sequence[ScoredResponse]
) -> dict[tuple[str, str], Seen]:
    families.__path__.append(str(ROOT / "tests/cases/families"))
    FAMILIES.update(find_families())
    batch, seen = make_batch([WeightedResponse(r, weight=1.0) for r in responses]), {}
    for layout_name, config in LAYOUTS.items():
        layout = parallel.initialize(config)
        for name, folder in folders.items():
            model = load_model(ModelConfig(str(folder)), layout)
            file = load_file(folder / "model.safetensors")
            exporter = WeightExporter(model, layout, bucket_bytes=1 << 20)
            weights = {key: value.clone() for key, value in exporter.export(for_engine=False)}
            wrong = [key for key in weights.keys() | file.keys() if not same(weights, file, key)]
            head = model.shape.family.head in dict(exporter.export(for_engine=True))
            forward = PackedForward(
                model.module, layout, model.shape.vocab, 0.7, OptimizerConfig(micro_batch_tokens=60)
            )
            with torch.no_grad():
                seen[name, layout_name] = Seen(forward.log_probs(batch), wrong, head)
        parallel.destroy()
    return seen


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor], key: str) -> bool:
    return key in left and key in right and torch.equal(left[key], right[key])


def rename(llama: Path, folder: Path) -> Path:
    """The same model under the names of tests/cases/families/renamed.py."""
    folder.mkdir()
    settings = json.loads((llama / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"architectures": ["RenamedForCausalLM"]}))
    file = load_file(llama / "model.safetensors")
    save_file({other_name(name): tensor for name, tensor in file.items()}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def responses() -> tuple[ScoredResponse, ...]:
    return random_responses(seed=0, pairs=2, samples=2, vocab=300)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models that transformers can load."""
    root, family = tmp_path_factory.mktemp("models"), {"seed_oss": "seed_oss", "renamed": "llama"}
    return {
        name: tiny_model(root / name, family[name.split()[0]], tied=name.endswith(" tied"), **SIZES)
        for name in MODELS
    }


@pytest.fixture(scope="module")
def by_rank(originals, responses, tmp_path_factory) -> list[dict[tuple[str, str], Seen]]:
    root = tmp_path_factory.mktemp("renamed")
    folders = {
        name: rename(path, root / name) if name.startswith("renamed") else path
        for name, path in originals.items()
    }
    return run_ranks(2, run_all, folders, responses)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MODELS)
def test_a_new_family_is_one_file(name, layout, by_rank, originals, responses):
    model = oracle.load(originals[name])
    with torch.no_grad():
        expected = torch.cat([oracle.log_probs_of(model, r, 0.7) for r in responses])
    for seen in by_rank:
        torch.testing.assert_close(seen[name, layout].log_probs, expected, atol=TOLERANCE, rtol=0)
        assert seen[name, layout].wrong == []
        assert seen[name, layout].head
