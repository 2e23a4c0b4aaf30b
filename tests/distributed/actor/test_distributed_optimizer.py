"""The distributed optimizer makes the same updates as the plain one."""

from pathlib import Path

import pytest

from megatron_coreward.actor import parallel
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import (
    FINAL,
    VOCAB,
    Tensors,
    config_of,
    make_policy,
    train,
    weights_of,
)
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

MODELS = {"tied": {"family": "qwen3", "tied": True}, "untied": {"family": "qwen2", "tied": False}}
LAYOUTS = {"dp2": ParallelConfig(), "pp2": ParallelConfig(pipeline=2)}
TOLERANCE = 2e-3
"""Of the largest change of any weight; measured: 1.8e-4. The norms of slices are summed in another order, and
Adam makes much of the last bit of a small gradient."""


def trained(model: Path, layout: ParallelConfig, distributed: bool) -> tuple[Tensors, Tensors]:
    """Weights before and after four updates at lr 1e-2."""
    config = config_of(model, layout)
    config.optimizer.distributed = distributed
    policy = make_policy(config)
    before = weights_of(policy)
    train(policy, FINAL)
    after = weights_of(policy)
    parallel.destroy()
    return before, after


def work(rank: int, root: Path) -> dict[tuple[str, str], tuple[float, float]]:
    """By model and layout: the largest difference, and the largest change."""
    seen = {}
    for model in MODELS:
        for name, layout in LAYOUTS.items():
            before, plain = trained(root / model, layout, distributed=False)
            _, distributed = trained(root / model, layout, distributed=True)
            gap = max(float((distributed[key] - plain[key]).abs().max()) for key in plain)
            moved = max(float((plain[key] - before[key]).abs().max()) for key in plain)
            seen[model, name] = gap, moved
    return seen


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[tuple[str, str], tuple[float, float]]]:
    root = tmp_path_factory.mktemp("optimizers")
    for name, settings in MODELS.items():
        tiny_model(root / name, vocab=VOCAB, kv_heads=2, **settings)
    return run_ranks(2, work, root, timeout_s=120)


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_both_optimizers_take_the_same_updates(model, name, by_rank):
    for seen in by_rank:
        gap, moved = seen[model, name]
        assert moved > 1e-3
        assert gap <= TOLERANCE * moved
