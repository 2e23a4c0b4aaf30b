"""The frozen reference policy of the KL penalty: the start model on the actor's own layout."""

from collections.abc import Iterator
from multiprocessing.process import BaseProcess

import torch

from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.compute.offload import HostCopies
from megatron_coreward.actor.model.precision import of_frozen_model
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.config.schema import Config


class MegatronReference:
    """roles.Reference on Megatron-Core."""

    def __init__(self, config: Config, layout: Layout, *, constant: bool = True) -> None:
        self.model = load_model(config.model, layout, fp8=of_frozen_model(config.fp8))
        self.model.module.requires_grad_(False)
        self._forward = PackedForward(
            self.model.module,
            layout,
            self.model.shape.vocab,
            config.rollout.temperature,
            config.optimizer,
        )
        self._weights = HostCopies(self._tensors, constant=constant)

    def offload(self) -> None:
        """roles.Reference.offload."""
        self._weights.offload()

    def onload(self) -> None:
        """roles.Reference.onload."""
        self._weights.onload()

    def lend(self, reader: BaseProcess | None) -> None:
        """A forked process reads what is offloaded; the next `offload` waits for its end."""
        self._weights.lend(reader)

    def log_probs(self, batch: TrainBatch) -> torch.Tensor:
        """Float32 [T], on the CPU."""
        assert self._weights.on_device, "the reference is offloaded: call onload() first"
        with torch.no_grad():
            return self._forward.log_probs(batch)

    def _tensors(self) -> Iterator[torch.Tensor]:
        """The tensors that offloading moves."""
        yield from self.model.module.parameters()
