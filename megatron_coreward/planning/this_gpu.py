"""Whether a run fits into the GPU that it is about to use, by the planner's arithmetic."""

import torch

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import Cluster
from megatron_coreward.planning.layouts import memory_problems
from megatron_coreward.planning.memory import plan_memory
from megatron_coreward.preflight.costs import GIB


def check_gpu_memory(config: Config, shape: ModelShape, world_size: int) -> None:
    """Does nothing without a GPU. Plans with all of its memory, no reserve: what is refused here cannot run.

    Raises:
        ValueError: the first thing that does not fit, with the keys that it depends on.
    """
    if not torch.cuda.is_available():
        return
    _, total = torch.cuda.mem_get_info()
    cluster = Cluster(torch.cuda.get_device_name(), round(total / GIB, 1), world_size, reserve=0.0)
    problems = memory_problems(config, cluster, plan_memory(config, shape, cluster))
    if problems:
        raise ValueError(
            f"{problems[0]} `coreward plan --gpus {world_size} --memory-gib {cluster.memory_gib:g}` looks "
            "for settings that fit."
        )
