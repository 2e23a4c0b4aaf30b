"""The model's part of a checkpoint: checks that it is of this model, and loads it at any layout."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.utils import extract_sharded_tensors_and_factories
from megatron.core.models.gpt import GPTModel

from megatron_coreward.actor.checkpoint.folder import other_model, read_state, saved_sizes
from megatron_coreward.actor.device import actor_device
from megatron_coreward.config.model_shape import ModelShape

CONTENTS_MODEL, CONTENTS_OPTIMIZER, CONTENTS_TEACHER = "model", "optimizer", "teacher"
"""The values of `contents` in state.json."""

_NORM_STATE = "layernorm._extra_state"


def load_weights(path: Path, model: GPTModel, shape: ModelShape) -> None:
    """Fills this rank's part of the model from a checkpoint; a converted one will do. A collective.

    Raises:
        ValueError: on every rank, before a weight is touched: the checkpoint is of another model.
    """
    with actor_device():
        state = {"model": sharded_model(model)}
        check_model(path, state, shape)
        loaded = dist_checkpointing.load(state, str(path))
        load_model_state(model, loaded["model"])


def sharded_model(model: GPTModel) -> dict[str, Any]:
    """The model as Megatron's sharded tensors.

    Without the extra state of norms: that of Transformer Engine's is empty, and local ones have none, so that
    a checkpoint of one could not be loaded into the other.
    """
    state = model.sharded_state_dict()
    return {name: tensor for name, tensor in state.items() if not name.endswith(_NORM_STATE)}


def load_model_state(model: GPTModel, loaded: dict[str, Any]) -> None:
    """Copies what was loaded for `sharded_model` into the model."""
    of_norms = {name: state for name, state in model.state_dict().items() if name.endswith(_NORM_STATE)}
    model.load_state_dict(loaded | of_norms)


def sharded_tensors(state: dict[str, Any]) -> Iterator[ShardedTensor]:
    """The tensors of a sharded state, those cut in pieces (the gated MLP) as their pieces."""
    for value in nested_values(state):
        if isinstance(value, ShardedTensorFactory):
            yield from sharded_tensors({"pieces": value.build()})
        elif isinstance(value, ShardedTensor):
            yield value


def sharded_by_parameter(model_state: dict[str, Any]) -> dict[int, ShardedTensor | ShardedTensorFactory]:
    """The model's sharded tensors by the id of the parameter that each is of."""
    sharded, _ = extract_sharded_tensors_and_factories(model_state)
    return {id(tensor.data): tensor for tensor in nested_values(sharded)}


def check_model(path: Path, state: dict[str, Any], shape: ModelShape) -> None:
    """Raises ValueError unless the checkpoint is of this model. A collective."""
    for difference in _of_all_ranks(model_differences(path, state, shape)[:1]):
        raise other_model(path, difference)


def model_differences(path: Path, state: dict[str, Any], shape: ModelShape) -> list[str]:
    """Differences between the checkpoint's model and `state`, the model of this `shape`.

    Both sizes and tensors are compared: equal shapes may hide other heads (two of 64 for four of 32), and
    the sizes do not tell everything. What the checkpoint has and `state` does not ask for does not matter.
    """
    saved_state = read_state(path)
    wanted: dict[str, Any] = {"architecture": shape.architecture, **saved_sizes(shape)}
    saved = {"architecture": saved_state["architecture"], **saved_state["dims"]}
    stored = dist_checkpointing.load_tensors_metadata(str(path))
    # The rows of a vocabulary are padded to the layout; their true number is among the sizes.
    for tensor in sharded_tensors(state):
        skip = int(tensor.allow_shape_mismatch)
        wanted[tensor.key] = tuple(tensor.global_shape[skip:])
        if tensor.key in stored:
            saved[tensor.key] = tuple(stored[tensor.key].global_shape[skip:])
    return [
        f"{name} is {saved.get(name, 'absent')} in the checkpoint and {want} in the model"
        for name, want in wanted.items()
        if saved.get(name, "absent") != want
    ]


def _of_all_ranks(lines: list[str]) -> list[str]:
    parts: list[list[str]] = [[]] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, lines)
    return [line for part in parts for line in part]
