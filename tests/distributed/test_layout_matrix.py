"""A checkpoint of any layout loads at any other, bit for bit: weights, Adam's moments and step count.

Every dense family is tested at all (TP, PP) of {1, 2, 4} x {1, 2} on eight ranks, 36 pairs; a model that only
three divides, on three ranks; a Mixture of Experts, whose experts are divided as well, on four. The walk of
one model:

    a policy of one layout makes some updates and writes the checkpoint `origin`;
    every layout loads the Hugging Face folder and exports it again, loads `origin` and saves it;
    every layout loads what each layout has saved, and makes one more update.

After each load all shards of a rank are compared with those cut from `origin`'s whole tensors, with their
padding, and the export with the whole tensors. Before each load all values are set to zero. To save time the
optimizer is loaded only from `origin` and from the previous layout in the list, the weights from all. Half of
the layouts have the distributed optimizer, so checkpoints cross between the two optimizers as well.
"""

import gc
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.model_state import load_weights
from megatron_coreward.actor.checkpoint.optimizer_state import MOMENTS, _parts
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.saver import load_checkpoint
from megatron_coreward.actor.weights.kinds import merge, split
from megatron_coreward.actor.weights.load import local_entries, source_names
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import (
    SAVED,
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

SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 301}
FAMILIES = {
    "llama untied": SIZES | {"family": "llama", "tied": False, "layers": 2},
    "qwen2 untied": SIZES | {"family": "qwen2", "tied": False, "layers": 2},
    "qwen3 tied": SIZES | {"family": "qwen3", "tied": True, "layers": 3},
}
"""2 key/value heads are fewer than TP4 has ranks, TP2 and TP4 pad 301 tokens, 3 layers are 2 and 1 at PP2."""
NINE_HEADS = {
    "nine heads": {"family": "llama", "heads": 9, "kv_heads": 3, "head_dim": 8, "vocab": 301, "layers": 4}
}
"""4 layers are 2, 1 and 1 at PP3."""
MIXTURE = {"mixture": SIZES | {"family": "qwen3_moe", "tied": False, "layers": 3}}


@dataclass(frozen=True)
class Place:
    """One layout of the walk."""

    tensor: int
    pipeline: int
    distributed: bool = False
    expert: int = 1

    def __str__(self) -> str:
        optimizer = " distributed" if self.distributed else ""
        return f"TP{self.tensor} PP{self.pipeline} EP{self.expert}{optimizer}"


EIGHT = [
    Place(1, 1),
    Place(2, 1, distributed=True),
    Place(4, 1),
    Place(1, 2, distributed=True),
    Place(2, 2, distributed=True),
    Place(4, 2),
]
FOUR = [
    Place(1, 1),
    Place(1, 1, expert=4, distributed=True),
    Place(2, 1, expert=2),
    Place(1, 2, expert=2, distributed=True),
    Place(2, 2, expert=2, distributed=True),
]
THREE = [Place(1, 1, distributed=True), Place(3, 1), Place(1, 3)]

UPDATE_TOLERANCE = 5e-3  # of one update, as a vector, tensor by tensor; measured 6e-5


@dataclass
class Seen:
    """What one rank found; empty lists and sets are what it should find."""

    not_exported: list[str] = field(default_factory=list)
    """Layouts where Hugging Face -> actor -> Hugging Face changed a tensor."""
    wrong: dict[str, list[str]] = field(default_factory=dict)
    """By pair of layouts: what differs from `origin`."""
    update_gap: dict[str, float] = field(default_factory=dict)
    """By layout: the largest difference of the next update from the straight run's."""


@dataclass(frozen=True)
class Origin:
    """Whole tensors by Hugging Face names, on every rank."""

    path: Path
    weights: Tensors
    moments: dict[str, Tensors]
    update: Tensors
    """What the straight run's next update changes."""


def walk_all(rank: int, root: Path, models: Sequence[str], places: Sequence[Place]) -> dict[str, Seen]:
    return {name: walk(root / name, places) for name in models}


def walk(model: Path, places: Sequence[Place]) -> Seen:
    seen = Seen()
    origin = make_origin(model)
    source = load_file(model / "model.safetensors")
    saved = {}
    for place in places:
        policy = policy_at(place, model)
        if not same(weights_of(policy), source):
            seen.not_exported.append(str(place))
        seen.wrong[f"origin -> {place}"] = differences_after_loading(policy, origin.path, origin)
        saved[place] = save(model.parent / f"{model.name} {place}", policy)
        del policy
    for place in places:
        policy = policy_at(place, model)
        neighbour = places[places.index(place) - 1]
        for before, path in saved.items():
            if before != neighbour:
                seen.wrong[f"{before} -> {place}"] = differences_after_loading_weights(policy, path, origin)
        path = saved[neighbour]
        seen.wrong[f"{neighbour} -> {place}"] = differences_after_loading(policy, path, origin)
        train(policy, SAVED + 1)
        seen.update_gap[str(place)] = largest_gap(
            {name: weight - origin.weights[name] for name, weight in weights_of(policy).items()},
            origin.update,
        )
        del policy
    parallel.destroy()
    return seen


def policy_at(place: Place, model: Path) -> MegatronPolicy:
    parallel.destroy()
    gc.collect()  # the groups of the policy before, and their threads
    sequence = place.tensor > 1 and place.expert > 1
    config = config_of(model, ParallelConfig(place.tensor, place.pipeline, sequence, place.expert))
    config.optimizer.distributed = place.distributed
    return make_policy(config)


def make_origin(model: Path) -> Origin:
    policy = policy_at(Place(1, 1), model)
    train(policy, SAVED)
    path = save(model.parent / f"{model.name} origin", policy)
    weights, moments = weights_of(policy), {name: whole_moments(policy, name) for name in MOMENTS}
    train(policy, SAVED + 1)
    update = {name: weight - weights[name] for name, weight in weights_of(policy).items()}
    return Origin(path, weights, moments, update)


def whole_moments(policy: MegatronPolicy, moment: str) -> Tensors:
    """By Hugging Face names; of a plain optimizer where every parameter is whole."""
    model, adam = policy.model, policy.optimizer.optimizer.state
    parameters = dict(model.module.named_parameters())
    whole = {}
    for entry in local_entries(model.module, model.shape, policy.layout):
        tensor = adam[parameters[entry.local_name]][moment]
        tensors = merge(entry.mapping.kind, [tensor], model.shape)
        whole |= {name: tensor.clone() for name, tensor in zip(entry.hf_names, tensors, strict=True)}
    return whole


def differences_after_loading_weights(policy: MegatronPolicy, path: Path, origin: Origin) -> list[str]:
    set_to_zero(policy.model.module.parameters())
    load_weights(path, policy.model.module, policy.model.shape)
    return wrong_weights(policy, origin)


def differences_after_loading(policy: MegatronPolicy, path: Path, origin: Origin) -> list[str]:
    set_to_zero(policy.model.module.parameters())
    for _, part in _parts(policy.optimizer):
        set_to_zero(part.tensors.values())
    load_checkpoint(path, policy)
    return wrong_weights(policy, origin) + wrong_moments(policy, origin)


@torch.no_grad()
def set_to_zero(tensors: Iterable[torch.Tensor]) -> None:
    for tensor in tensors:
        tensor.zero_()


def wrong_weights(policy: MegatronPolicy, origin: Origin) -> list[str]:
    shards = shards_of(policy, origin.weights)
    named = policy.model.module.named_parameters()
    wrong = [name for name, parameter in named if not torch.equal(parameter, shards[name])]
    return wrong if same(weights_of(policy), origin.weights) else [*wrong, "export"]


def wrong_moments(policy: MegatronPolicy, origin: Origin) -> list[str]:
    shards = {name: shards_of(policy, whole) for name, whole in origin.moments.items()}
    names = {id(parameter): name for name, parameter in policy.model.module.named_parameters()}
    chain = policy.optimizer.chained_optimizers
    steps = {int(adam["step"]) for one in chain for adam in one.optimizer.state.values()}
    wrong = [] if (steps, policy.num_updates) == ({SAVED}, SAVED) else ["step"]
    for optimizer, part in _parts(policy.optimizer):
        for moment in MOMENTS:
            shard = shards[moment][names[id(part.parameter)]]
            if part.pieces:
                shard = shard.flatten()[part.pieces[optimizer.data_parallel_group.rank()]]
            if not torch.equal(part.tensors[moment], shard):
                wrong.append(f"{moment} of {names[id(part.parameter)]}")
    return wrong


def shards_of(policy: MegatronPolicy, whole: Tensors) -> Tensors:
    """This rank's shards of whole tensors, by the parameters' local names."""
    model, layout = policy.model, policy.layout
    return {
        entry.local_name: split(
            entry.mapping.kind,
            [whole[name] for name in source_names(entry, model.shape)],
            model.shape,
            layout.tp_rank,
            layout.tp_size,
        )
        for entry in local_entries(model.module, model.shape, layout)
    }


def largest_gap(found: Tensors, expected: Tensors) -> float:
    return max(float((found[name] - change).norm() / change.norm()) for name, change in expected.items())


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Seen]]:
    """What every rank saw, by model."""
    root = tmp_path_factory.mktemp("matrix")
    for name, settings in {**FAMILIES, **NINE_HEADS}.items():
        tiny_model(root / name, **settings)
    ranks: list[dict[str, Any]] = run_ranks(8, walk_all, root, list(FAMILIES), EIGHT, timeout_s=900)
    walks = {name: [seen[name] for seen in ranks] for name in FAMILIES}
    ranks = run_ranks(3, walk_all, root, list(NINE_HEADS), THREE, timeout_s=300)
    return walks | {name: [seen[name] for seen in ranks] for name in NINE_HEADS}


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FAMILIES, *NINE_HEADS])
def test_every_layout_loads_what_any_other_saved(walks: dict[str, list[Seen]], name: str) -> None:
    check(walks[name], THREE if name in NINE_HEADS else EIGHT)


def test_experts_load_at_any_layout(tmp_path: Path) -> None:
    (name,) = MIXTURE
    tiny_model(tmp_path / name, **MIXTURE[name])
    ranks: list[dict[str, Any]] = run_ranks(4, walk_all, tmp_path, [name], FOUR, timeout_s=500)
    check([seen[name] for seen in ranks], FOUR)


def check(walked: list[Seen], places: list[Place]) -> None:
    for rank, seen in enumerate(walked):
        assert seen.not_exported == [], f"rank {rank}"
        assert len(seen.wrong) == len(places) * (1 + len(places))
        assert {pair: wrong for pair, wrong in seen.wrong.items() if wrong} == {}, f"rank {rank}"
        assert max(seen.update_gap.values()) <= UPDATE_TOLERANCE, seen.update_gap
