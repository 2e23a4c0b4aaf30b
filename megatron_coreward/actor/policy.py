"""The trained policy: a Megatron-Core GPTModel under DDP with Megatron's optimizer."""

import math
from collections.abc import Iterator, Sequence
from multiprocessing.process import BaseProcess

import torch

from megatron_coreward.actor.compute.confidence import with_confidence
from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.compute.offload import HostCopies, drop, optimizer_tensors, restore_zeroed
from megatron_coreward.actor.compute.optimizer import (
    build_optimizer,
    clip_gradients,
    finish_gathering,
    learning_rate,
    master_weights,
    set_learning_rate,
    wrap_ddp,
)
from megatron_coreward.actor.compute.sharding import move_to_dp_ranks
from megatron_coreward.actor.device import actor_device
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.hf_writer import TensorSpec
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.algorithm.batch import TrainBatch, make_batch
from megatron_coreward.algorithm.objective import Objective
from megatron_coreward.config.schema import Config
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, Traffic, WeightedResponse
from megatron_coreward.utils.metrics import Figures


class MegatronPolicy:
    """roles.Policy on Megatron-Core.

    `total_updates` is the number of optimizer steps of the whole run (learning-rate schedule);
    `num_updates` counts those taken.
    """

    def __init__(self, config: Config, layout: Layout, comm: Communicator, total_updates: int) -> None:
        self.config = config
        self.layout = layout
        self.comm = comm
        self.total_updates = total_updates
        self.num_updates = 0
        self.model = load_model(config.model, layout, config.memory.recompute, config.fp8)
        self.ddp = wrap_ddp(config.optimizer, self.model.module)
        self.optimizer = build_optimizer(config.optimizer, self.ddp)
        self._forward = PackedForward(
            self.ddp,
            layout,
            self.model.shape.vocab,
            config.rollout.temperature,
            config.optimizer,
        )
        self._optimizer_state = HostCopies(lambda: optimizer_tensors(self.optimizer))
        self._exporter = WeightExporter(
            self.model, layout, config.weight_sync.bucket_mb * 2**20, config.rollout.tensor_parallel_size
        )

    def shard(self, held: Sequence[WeightedResponse]) -> TrainBatch:
        """roles.Policy.shard."""
        return make_batch(move_to_dp_ranks(held, self.layout, self.comm, self.config.optimizer))

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Float32 [T], on the CPU."""
        with torch.no_grad():
            return self._forward.log_probs(batch)

    def with_confidence(self, responses: Sequence[Response]) -> list[Response]:
        """roles.Policy.with_confidence."""
        return with_confidence(responses, self._forward, self.layout, self.comm, self.config.optimizer)

    def accumulate_gradients(self, batch: TrainBatch, objective: Objective) -> Figures:
        """Leaves the gradient, summed over all ranks and before clipping, in the gradient buffers."""
        assert self._optimizer_state.on_device, "the gradient buffers are offloaded: call onload() first"
        with actor_device():
            self.ddp.zero_grad_buffer()
            self.optimizer.zero_grad()
        return self._forward.gradients(batch, objective)

    def update(self, batch: TrainBatch, objective: Objective) -> Figures:
        """One optimizer step; figures of all ranks.

        Raises:
            FloatingPointError: on every rank: loss or gradient is not finite. Weights and optimizer are as
                they were, and the step counts as taken in the learning-rate schedule.
        """
        total = Figures.merged(self.comm.all_gather(self.accumulate_gradients(batch, objective)))
        lr = learning_rate(self.config.optimizer, self.num_updates, self.total_updates)
        self.num_updates += 1
        with actor_device():
            set_learning_rate(self.optimizer, lr)
            self.optimizer.prepare_grads()
            grad_norm = clip_gradients(self.optimizer, self.config.optimizer.clip_grad)
            loss = total.as_dict()["policy/loss"]
            if not (math.isfinite(grad_norm) and math.isfinite(loss)):
                raise FloatingPointError(f"the loss is {loss} and the gradient norm {grad_norm}")
            self.optimizer.step_with_ready_grads()
        total.add_mean("policy/grad_norm", grad_norm, 1)
        total.add_mean("policy/lr", lr, 1)
        return total

    @property
    def traffic(self) -> Traffic:
        """roles.Policy.traffic."""
        return self._exporter.traffic

    def weight_specs(self) -> list[TensorSpec]:
        """Names, shapes and types of the tensors of `export_weights(for_engine=False)`, in its order."""
        return self._exporter.specs()

    def export_weights(self, *, for_engine: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors under Hugging Face names; see WeightExporter.export. A collective."""
        self.settle()
        return self._exporter.export(for_engine=for_engine)

    @torch.no_grad()
    def float32_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """This rank's weights as the optimizer steps on them: a step may be too small to move bfloat16 ones.

        A collective over data-parallel ranks, among which the distributed optimizer divides them. The
        optimizer's state may be off the device.
        """
        self.settle()
        masters = master_weights(self.optimizer)
        for name, weight in self.model.module.named_parameters():
            value = weight.detach().float()
            if weight in masters:
                master = masters[weight]
                missing = torch.zeros_like(value).flatten()
                if master.piece is not None:
                    piece = self._optimizer_state.content_of(master.piece).flatten()
                    missing[master.place] = piece - value.flatten()[master.place]
                if master.group is not None:
                    torch.distributed.all_reduce(missing, group=master.group)
                value += missing.view_as(value)
            yield name, value

    def settle(self) -> None:
        """Waits for this rank's weights. Call it before anything but a forward pass reads them."""
        finish_gathering(self.ddp)

    def offload(self) -> None:
        """roles.Policy.offload. Until `onload` there is no update, and a checkpoint reads main memory."""
        if self._optimizer_state.on_device:
            drop(self._gradient_buffers())
            self._optimizer_state.offload()

    def onload(self) -> None:
        """roles.Policy.onload."""
        if not self._optimizer_state.on_device:
            self._optimizer_state.onload()
            restore_zeroed(self._gradient_buffers())

    def optimizer_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of the optimizer, or its copy in main memory while it is offloaded."""
        return self._optimizer_state.where_it_is(tensor)

    def lend(self, reader: BaseProcess | None) -> None:
        """A forked process reads what is offloaded; the next `offload` waits for its end."""
        self._optimizer_state.lend(reader)

    def _gradient_buffers(self) -> list[torch.Tensor]:
        return [buffer.grad_data for buffer in [*self.ddp.buffers, *self.ddp.expert_parallel_buffers]]
