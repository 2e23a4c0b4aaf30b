"""One rank of a simulated world: groups, model and optimizer at full size, on the meta device.

torch's fake process group completes every collective at once and moves no data, so this shows shapes and
partitions, not values. Each rank is a process.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch.testing._internal.distributed.fake_pg import FakeStore

from megatron_coreward.actor import device as cpu
from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.optimizer import build_optimizer, wrap_ddp
from megatron_coreward.actor.model.build import build_model
from megatron_coreward.actor.weights.load import hf_shapes, local_entries
from megatron_coreward.actor.weights.shares import EngineRank, needed_shards
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.config.schema import Config


@dataclass
class FakeRank:
    """What one rank has."""

    tp_rank: int
    pp_rank: int
    dp_rank: int
    ep_rank: int
    sizes: tuple[int, int, int, int]
    """Of its tensor, pipeline, data-parallel and expert-parallel groups."""
    groups: dict[str, list[int]]
    """Global ranks of its tensor, pipeline and expert groups."""
    parameters: int
    optimized: int
    """Parameters in the optimizer's groups."""
    tensors: dict[str, list[int]]
    """Hugging Face tensors that this stage has, with their whole shapes."""
    needed: dict[str, list[int]]
    """By their first name, the tensor-parallel shards that this rank's part of the engine takes rows of."""


def main(world_size: int, rank: int, folder: Path, config: Config, target: Path) -> None:
    """Writes a FakeRank as JSON."""
    with mock.patch.object(cpu, "_CPU", torch.device("meta")), without_gloo():
        target.write_text(json.dumps(asdict(fake_rank(world_size, rank, folder, config))))


def fake_rank(world_size: int, rank: int, folder: Path, config: Config) -> FakeRank:
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world_size)
    layout = parallel.initialize(config.parallel)
    shape = read_shape(folder)
    module = build_model(shape, layout, torch.bfloat16, shapes_only=True)
    entries = local_entries(module, shape, layout)
    ddp = wrap_ddp(config.optimizer, module)
    optimizer = build_optimizer(config.optimizer, ddp)
    size = config.rollout.tensor_parallel_size
    engine = EngineRank(rank % size, size)
    return FakeRank(
        layout.tp_rank,
        layout.pp_rank,
        layout.dp_rank,
        layout.ep_rank,
        (layout.tp_size, layout.pp_size, layout.dp_size, layout.ep_size),
        {
            "tensor": dist.get_process_group_ranks(layout.tp_group),
            "pipeline": dist.get_process_group_ranks(layout.pp_group),
            "expert": dist.get_process_group_ranks(layout.ep_group),
        },
        sum(p.numel() for p in module.parameters()),
        sum(p.numel() for group in optimizer.param_groups for p in group["params"]),
        {
            name: list(size)
            for entry in entries
            for name, size in zip(entry.hf_names, hf_shapes(entry, shape, layout.tp_size), strict=True)
        },
        {entry.hf_names[0]: sorted(needed_shards(entry, shape, layout.tp_size, engine)) for entry in entries},
    )


@contextmanager
def without_gloo() -> Iterator[None]:
    """Megatron makes a gloo group beside every other one, which needs the other ranks."""
    original = parallel_state.initialize_model_parallel

    def initialize(**settings: Any) -> None:
        original(**settings, create_gloo_process_groups=False)

    with mock.patch.multiple(
        parallel_state,
        initialize_model_parallel=initialize,
        get_data_parallel_group_gloo=parallel_state.get_data_parallel_group,
        get_expert_data_parallel_group_gloo=parallel_state.get_expert_data_parallel_group,
    ):
        yield
