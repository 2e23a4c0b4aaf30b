"""What the planner's arithmetic says of the machine that a run is about to use."""

from dataclasses import replace

import torch

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import CPU, DEVICES, Cluster
from megatron_coreward.planning.layouts import memory_problems
from megatron_coreward.planning.memory import kv_cache_sequences, plan_memory
from megatron_coreward.preflight.costs import GIB

FEWEST, MOST = 256, 1024
"""Bounds of rollout.max_num_seqs=auto; vLLM's own choices, for small machines and for large ones."""


def check_gpu_memory(config: Config, shape: ModelShape, world_size: int) -> None:
    """Does nothing without a GPU. Plans with all of its memory, no reserve: what is refused here cannot run.

    Raises:
        ValueError: the first thing that does not fit, with the keys that it depends on.
    """
    cluster = _cluster(world_size)
    if not cluster.on_gpu:
        return
    problems = memory_problems(config, cluster, plan_memory(config, shape, cluster))
    if problems:
        raise ValueError(
            f"{problems[0]} `coreward plan --gpus {world_size} --memory-gib {cluster.memory_gib:g}` looks "
            "for settings that fit."
        )


def with_sequences(config: Config, shape: ModelShape, world_size: int, drawn: int = MOST) -> Config:
    """With the number that rollout.max_num_seqs=auto stands for; `drawn` are the most requests at once."""
    if config.rollout.max_num_seqs != "auto":
        return config
    held = kv_cache_sequences(config, shape, _cluster(world_size))
    number = min(max(held, FEWEST), MOST, max(drawn, 1))
    return replace(config, rollout=replace(config.rollout, max_num_seqs=number))


def _cluster(world_size: int) -> Cluster:
    if not torch.cuda.is_available():
        return Cluster(CPU, DEVICES[CPU], world_size)
    _, total = torch.cuda.mem_get_info()
    return Cluster(torch.cuda.get_device_name(), round(total / GIB, 1), world_size, reserve=0.0)
