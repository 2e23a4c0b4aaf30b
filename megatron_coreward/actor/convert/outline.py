"""A whole model without its weights: how its parameters lie in a checkpoint and in a Hugging Face folder.

The model is built on the meta device at TP1 and PP1, where every parameter is whole, so that Megatron itself
says under which names and in which pieces checkpoints store it. No weight takes memory here.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from torch import Tensor

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.model_state import sharded_tensors
from megatron_coreward.actor.device import actor_device
from megatron_coreward.actor.model.build import build_model
from megatron_coreward.actor.weights.hf_writer import TensorSpec
from megatron_coreward.actor.weights.load import Entry, hf_shapes, local_entries
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import ParallelConfig


@dataclass(frozen=True)
class Parameter:
    """One whole Megatron parameter."""

    entry: Entry
    stored: ShardedTensor | ShardedTensorFactory
    """Its form in a checkpoint, without data."""
    hf: dict[str, torch.Size]
    """The Hugging Face tensors that it is made of, and their shapes."""

    @property
    def numel(self) -> int:
        return self.entry.numel

    def specs(self, dtype: torch.dtype) -> list[TensorSpec]:
        """Its Hugging Face tensors in `dtype`."""
        return [TensorSpec(name, tuple(shape), dtype) for name, shape in self.hf.items()]

    def pieces(self, data: Tensor) -> list[ShardedTensor]:
        """The pieces that a checkpoint stores of `data`, which is the parameter's value."""
        if isinstance(self.stored, ShardedTensorFactory):
            return list(sharded_tensors({"": replace(self.stored, data=data)}))
        return [replace(self.stored, data=data, dtype=data.dtype)]

    def join(self, pieces: list[Tensor]) -> Tensor:
        """The parameter's value from its pieces' data."""
        return self.stored.merge_fn(pieces) if isinstance(self.stored, ShardedTensorFactory) else pieces[0]

    def pieces_without_data(self, dtype: torch.dtype) -> list[ShardedTensor]:
        return self.pieces(torch.empty(self.entry.shape, dtype=dtype, device="meta"))


@dataclass(frozen=True)
class Outline:
    """A model's parameters in the order of its layers, and what else Megatron puts into a checkpoint."""

    shape: ModelShape
    parameters: list[Parameter]
    objects: list[ShardedObject]

    @property
    def hf_shapes(self) -> dict[str, torch.Size]:
        """Every Hugging Face tensor and its shape."""
        return {name: shape for p in self.parameters for name, shape in p.hf.items()}

    def sharded_state(self) -> dict[str, Any]:
        """Everything under Megatron's names, without data."""
        tensors = {p.entry.local_name: p.stored for p in self.parameters}
        return {"model": {**tensors, **{item.unique_key: item for item in self.objects}}}


def outline_of(shape: ModelShape) -> Outline:
    """The outline of a model. A collective over all ranks."""
    layout = parallel.initialize(ParallelConfig())
    assert (layout.tp_size, layout.pp_size) == (1, 1), (
        "built at another layout; call parallel.destroy() before"
    )
    model = build_model(shape, layout, torch.float32, shapes_only=True)
    with actor_device():
        state = model.sharded_state_dict()
    by_name = {entry.local_name: entry for entry in local_entries(model, shape, layout)}
    return Outline(
        shape,
        [_parameter(by_name[name], state[name], shape) for name, _ in model.named_parameters()],
        [value for value in state.values() if isinstance(value, ShardedObject)],
    )


def _parameter(entry: Entry, stored: ShardedTensor | ShardedTensorFactory, shape: ModelShape) -> Parameter:
    shapes = hf_shapes(entry, shape, tp_size=1)
    return Parameter(entry, stored, dict(zip(entry.hf_names, shapes, strict=True)))
