"""The actor's process groups: tensor (TP), pipeline (PP), data (DP) and expert parallel (EP).

Ranks are ordered tensor first, then data, then pipeline, as Megatron-Core does by default. The experts of a
Mixture of Experts are divided over `parallel.expert` neighbours of the same pipeline stage, across TP and
DP, and each is whole where it is (expert tensor parallelism 1).
"""

from dataclasses import dataclass

import torch
from megatron.core import parallel_state, tensor_parallel

from megatron_coreward.actor.device import actor_device
from megatron_coreward.config.schema import ParallelConfig


@dataclass(frozen=True)
class Layout:
    """This rank's place in the actor's layout, with the groups it talks in."""

    tp_rank: int
    tp_size: int
    pp_rank: int
    pp_size: int
    dp_rank: int
    dp_size: int
    sequence_parallel: bool
    ep_rank: int = 0
    ep_size: int = 1

    @property
    def is_first_stage(self) -> bool:
        return self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pp_size - 1

    @property
    def tp_group(self) -> torch.distributed.ProcessGroup:
        return parallel_state.get_tensor_model_parallel_group()

    @property
    def pp_group(self) -> torch.distributed.ProcessGroup:
        return parallel_state.get_pipeline_model_parallel_group()

    @property
    def ep_group(self) -> torch.distributed.ProcessGroup:
        return parallel_state.get_expert_model_parallel_group()

    def tp_global_rank(self, tp_rank: int) -> int:
        """Global rank of `tp_rank` in this rank's tensor group."""
        return torch.distributed.get_global_rank(self.tp_group, tp_rank)

    def pp_global_rank(self, stage: int) -> int:
        """Global rank of `stage` in this rank's pipeline."""
        return torch.distributed.get_global_rank(self.pp_group, stage)

    def ep_global_rank(self, ep_rank: int) -> int:
        """Global rank of `ep_rank` in this rank's expert group."""
        return torch.distributed.get_global_rank(self.ep_group, ep_rank)


def initialize(parallel: ParallelConfig) -> Layout:
    """Builds Megatron's groups on the initialised default process group."""
    with actor_device():
        if not parallel_state.model_parallel_is_initialized():
            parallel_state.initialize_model_parallel(
                tensor_model_parallel_size=parallel.tensor,
                pipeline_model_parallel_size=parallel.pipeline,
                expert_model_parallel_size=parallel.expert,
                expert_tensor_parallel_size=1,
            )
        # Weights are loaded, never drawn, and dropout is 0: the actor needs no random numbers, so the
        # tracker whose fork() does nothing serves on every device.
        tensor_parallel.random.initialize_rng_tracker(inference_rng_tracker=True, force_reset=True)
    return Layout(
        tp_rank=parallel_state.get_tensor_model_parallel_rank(),
        tp_size=parallel_state.get_tensor_model_parallel_world_size(),
        pp_rank=parallel_state.get_pipeline_model_parallel_rank(),
        pp_size=parallel_state.get_pipeline_model_parallel_world_size(),
        dp_rank=parallel_state.get_data_parallel_rank(),
        dp_size=parallel_state.get_data_parallel_world_size(),
        sequence_parallel=parallel.sequence and parallel.tensor > 1,
        ep_rank=parallel_state.get_expert_model_parallel_rank(),
        ep_size=parallel_state.get_expert_model_parallel_world_size(),
    )


def destroy() -> None:
    """Ends Megatron's groups, so that another layout can be built in the same process. A collective."""
    # No rank may close them while another still reads what it was sent.
    torch.distributed.barrier()
    # Megatron only forgets them, and every gloo group goes on with its threads and sockets.
    for group in parallel_state._global_process_group_list or []:
        if group is not None:  # the default group
            torch.distributed.destroy_process_group(group)
    parallel_state.destroy_model_parallel()
