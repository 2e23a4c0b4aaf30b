"""Every recipe of examples/gpu/ at its full size, on worlds of up to 4,096 ranks that are not there."""

import json
import multiprocessing
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from megatron_coreward.actor.compute.grouping import Size
from megatron_coreward.actor.compute.sharding import balanced_owners
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.config.schema import Config, ParallelConfig
from megatron_coreward.preflight.costs import count_parameters_on_stage
from tests.support import fake_world
from tests.support.fake_world import FakeRank
from tests.unit.examples.test_recipes import LARGE, MODELS, RECIPES

HEAD = "lm_head.weight"
EXPERTS = ".mlp.experts."


@dataclass(frozen=True)
class World:
    """A recipe on so many ranks; `layout` in place of its own."""

    recipe: str
    ranks: int
    layout: tuple[int, int] | None = None

    def config(self, folder: Path) -> Config:
        config = load_config([RECIPES / f"{self.recipe}.yaml"], [f"model.path={folder}"])
        if self.layout:
            config = replace(config, parallel=ParallelConfig(*self.layout, sequence=self.layout[0] > 1))
        return config


WORLDS = [
    *(World(recipe, ranks) for recipe in MODELS for ranks in LARGE.get(recipe, (4, 32))),
    World("llama3.3_70b_instruct", 4096, (8, 8)),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with the published config.json for every recipe."""
    root = tmp_path_factory.mktemp("configs")
    for recipe, (settings, _) in MODELS.items():
        (root / recipe).mkdir()
        model_type = settings["architectures"][0].removesuffix("ForCausalLM").lower().replace("moe", "_moe")
        (root / recipe / "config.json").write_text(json.dumps({"model_type": model_type, **settings}))
    return {recipe: root / recipe for recipe in MODELS}


def sampled(world: World, config: Config) -> list[int]:
    """Of one replica of the model every pipeline stage, there all tensor ranks or the first and the last; all
    ranks that share experts."""
    tensor, pipeline, expert = config.parallel.tensor, config.parallel.pipeline, config.parallel.expert
    per_stage = world.ranks // pipeline
    tp_ranks = range(tensor) if tensor * pipeline <= 4 else (0, tensor - 1)
    if expert > 1:
        tp_ranks = range(max(tensor, expert))
    return [stage * per_stage + tp_rank for stage in range(pipeline) for tp_rank in tp_ranks]


def build(world: World, folder: Path, target: Path) -> dict[int, FakeRank]:
    """By rank; two at a time, each in a process of its own."""
    config = world.config(folder)
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["tests.support.preloaded"])
    ranks = sampled(world, config)
    found: dict[int, Any] = {}
    for first in range(0, len(ranks), 2):
        pair = ranks[first : first + 2]
        processes = [
            forks.Process(target=fake_world.main, args=(world.ranks, r, folder, config, target / f"{r}.json"))
            for r in pair
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0] * len(pair)
        found |= {r: FakeRank(**json.loads((target / f"{r}.json").read_text())) for r in pair}
    return found


@pytest.mark.parametrize("world", WORLDS, ids=lambda w: f"{w.recipe} on {w.ranks}")
def test_a_recipe_is_built_at_its_full_size(world: World, folders: dict[str, Path], tmp_path: Path) -> None:
    config = world.config(folders[world.recipe])
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    data = world.ranks // (tensor * pipeline)
    shape = read_shape(folders[world.recipe])
    settings, published = MODELS[world.recipe]
    found = build(world, folders[world.recipe], tmp_path)

    plans: dict[tuple[int, int], dict[str, list[int]]] = {}
    for rank, one in found.items():
        assert rank == one.tp_rank + tensor * (one.dp_rank + data * one.pp_rank)
        expert = config.parallel.expert
        assert tuple(one.sizes) == (tensor, pipeline, data, expert)
        start = rank - one.ep_rank
        assert one.groups["expert"] == list(range(start, start + expert)) and start % expert == 0
        first = rank - one.tp_rank
        assert one.groups["tensor"] == list(range(first, first + tensor))
        stride = tensor * data
        assert one.groups["pipeline"] == [rank % stride + stride * stage for stage in range(pipeline)]
        assert one.parameters == count_parameters_on_stage(shape, tensor, pipeline, one.pp_rank, expert)
        assert 0 < one.optimized <= one.parameters
        if not config.optimizer.distributed:
            assert one.optimized == one.parameters
        plan = plans.setdefault((one.pp_rank, one.ep_rank), one.tensors)
        assert plan == one.tensors, "TP ranks differ in their plan"

    tied = settings.get("tie_word_embeddings", False)
    names = [
        name
        for (_, ep_rank), plan in plans.items()
        for name in plan
        if (ep_rank == 0 or EXPERTS in name) and not (tied and name == HEAD)
    ]
    assert len(names) == len(set(names)), "a tensor would be sent twice"
    shapes = {name: shape for plan in plans.values() for name, shape in plan.items()}
    assert sum(prod(shapes[name]) for name in names) == published

    for stage in range(pipeline):
        replica = [one for one in found.values() if one.pp_rank == stage]
        for name in (name for name in replica[0].needed if EXPERTS not in name):
            shards = {shard for one in replica for shard in one.needed[name]}
            if len(replica) == tensor:
                assert shards == set(range(tensor)), f"{name}: vLLM's ranks take the shards {shards} only"
            else:  # with equal tensor-parallel sizes every rank of vLLM takes its own
                assert shards >= {0, tensor - 1}


@pytest.mark.parametrize("ranks", [4, 16, 64])
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.2])
def test_the_ranks_get_equally_many_tokens(ranks: int, spread: float) -> None:
    """2,048 responses with log-normal lengths around 600 tokens, cut at 3,072, and prompts of 50 to 512."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(600 * np.exp(spread * rng.standard_normal(2048)), 3072).astype(int)
    prompts = rng.integers(50, 513, 2048)
    sizes = {
        (i // 16, "original", i % 16): Size(i // 16, int(prompts[i // 16]), int(n))
        for i, n in enumerate(lengths)
    }
    load, met = np.zeros(ranks), set()
    for key, rank in balanced_owners(sizes, ranks, OptimizerConfig()).items():
        load[rank] += sizes[key].response_tokens
        if (rank, key[0]) not in met:  # at least once; a group that is cut repeats its prompt
            met.add((rank, key[0]))
            load[rank] += sizes[key].prompt_tokens
    assert load.max() / load.mean() < 1.08
