"""A whole model without its weights: how its parameters lie in a checkpoint and in a Hugging Face folder.

The model is built on the meta device at TP1 and PP1, where every parameter is whole, so that Megatron itself
says under which names and in which pieces checkpoints store it. No weight takes memory here.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.mapping import ShardedObject, ShardedTensor, ShardedTensorFactory
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.model_state import sharded_tensors
from megatron_coreward.actor.device import actor_device
from megatron_coreward.actor.model.build import build_model, model_dims
from megatron_coreward.actor.model.families.mapping import Dims, Family
from megatron_coreward.actor.model.families.registry import family_of
from megatron_coreward.actor.weights.hf_writer import TensorSpec
from megatron_coreward.actor.weights.load import Entry, hf_shapes, local_entries
from megatron_coreward.config.schema import ParallelConfig


@dataclass(frozen=True)
class Parameter:
    """One whole Megatron parameter."""

    entry: Entry
    stored: ShardedTensor | ShardedTensorFactory
    """How a checkpoint stores it; without data."""
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

    hf: PretrainedConfig
    family: Family
    dims: Dims
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


def outline_of(folder: Path) -> Outline:
    """The outline of the model that `folder`/config.json describes. A collective over all ranks.

    Raises:
        ValueError: its architecture is not supported.
    """
    layout = parallel.initialize(ParallelConfig())
    assert (layout.tp_size, layout.pp_size) == (1, 1), (
        "built at another layout; call parallel.destroy() before"
    )
    hf = AutoConfig.from_pretrained(folder)
    family = family_of(hf.architectures or [])
    dims = model_dims(hf, tp_size=1)
    model = build_model(hf, family, layout, torch.float32, shapes_only=True)
    with actor_device():
        state = model.sharded_state_dict()
    by_name = {entry.local_name: entry for entry in local_entries(model, family, layout)}
    return Outline(
        hf,
        family,
        dims,
        [_parameter(by_name[name], state[name], dims) for name, _ in model.named_parameters()],
        [value for value in state.values() if isinstance(value, ShardedObject)],
    )


def _parameter(entry: Entry, stored: ShardedTensor | ShardedTensorFactory, dims: Dims) -> Parameter:
    return Parameter(entry, stored, dict(zip(entry.hf_names, hf_shapes(entry, dims, tp_size=1), strict=True)))
