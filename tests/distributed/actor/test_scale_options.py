"""Training is the same bit for bit with recomputed activations and with overlapped communication."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_coreward.actor import parallel
from megatron_coreward.actor.model.attention import PackedAttention
from megatron_coreward.actor.saver import load_checkpoint
from megatron_coreward.config.schema import Config, ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import (
    FINAL,
    SAVED,
    VOCAB,
    Tensors,
    config_of,
    make_policy,
    same,
    save,
    train,
    weights_of,
)
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

LAYOUTS = {
    "dp2": ParallelConfig(),
    "tp2": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "selective": {"memory.recompute": "selective"},
    "full": {"memory.recompute": "full"},
    "overlap": {"optimizer.overlap": True},
    "all": {"memory.recompute": "full", "optimizer.overlap": True},
    "distributed": {"optimizer.distributed": True},
    "overlap, distributed": {"optimizer.overlap": True, "optimizer.distributed": True},
}
SAME_AS = {"overlap, distributed": "distributed"}
"""What an option is held against, if not plain."""


def configured(folder: Path, layout: ParallelConfig, options: dict[str, Any]) -> Config:
    config = config_of(folder, layout)
    for key, value in options.items():
        section, name = key.split(".")
        setattr(getattr(config, section), name, value)
    return config


def case(folder: Path, layout: ParallelConfig, options: dict[str, Any], target: Path) -> dict[str, Any]:
    policy = make_policy(configured(folder, layout, options))
    calls = 0

    def forward(self: PackedAttention, *args: Any, **kwargs: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return original(self, *args, **kwargs)

    original = PackedAttention.forward
    with mock.patch.object(PackedAttention, "forward", forward):
        train(policy, SAVED)
    save(target, policy)
    seen = {"calls": calls, "middle": weights_of(policy)}
    train(policy, FINAL)
    seen["end"] = weights_of(policy)
    parallel.destroy()
    return seen | {"saved": weights_saved(folder, layout, target)}


def weights_saved(folder: Path, layout: ParallelConfig, target: Path) -> Tensors:
    """What another, plain run finds in the checkpoint."""
    policy = make_policy(config_of(folder, layout))
    load_checkpoint(target / f"step_{SAVED:06d}", policy)
    weights = weights_of(policy)
    parallel.destroy()
    return weights


def work(rank: int, root: Path) -> dict[tuple[str, str], dict[str, Any]]:
    seen = {}
    for name, layout in LAYOUTS.items():
        for option, settings in OPTIONS.items():
            seen[name, option] = case(root / "model", layout, settings, root / f"{name} {option}")
    return seen


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], dict[str, Any]]]:
    root = tmp_path_factory.mktemp("scale")
    tiny_model(root / "model", "qwen3", vocab=VOCAB, kv_heads=2, layers=2)
    return run_ranks(2, work, root, timeout_s=240)


@pytest.mark.parametrize("option", [option for option in OPTIONS if option not in ("plain", "distributed")])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_and_checkpoints_are_the_same(layout, option, by_rank):
    for rank in by_rank:
        expected, found = rank[layout, SAME_AS.get(option, "plain")], rank[layout, option]
        assert same(found["middle"], expected["middle"])
        assert same(found["saved"], expected["middle"]), "the checkpoint has the weights of its step"
        assert same(found["end"], expected["end"])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_recomputing_runs_the_attention_twice(layout, by_rank):
    for rank in by_rank:
        plain = rank[layout, "plain"]["calls"]
        assert plain > 0
        for option in ("selective", "full", "all"):
            assert rank[layout, option]["calls"] == 2 * plain
