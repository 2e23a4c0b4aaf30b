"""Lists the content of a checkpoint without reading a weight. Imports no Megatron."""

import math
from pathlib import Path
from typing import Any

from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from megatron_coreward.actor.checkpoint.folder import (
    STATE_FILE,
    find_problem,
    other_model,
    read_state,
    saved_sizes,
)
from megatron_coreward.config.model_shape import ModelShape

OPTIMIZER_PREFIX = "optimizer."
_MLP = "decoder.layers.mlp.linear_fc2.weight"
"""Of a dense model; its columns are the width of the MLP."""


def inspect(path: Path) -> dict[str, Any]:
    """Everything in state.json, and `tensors`: name, part (model or optimizer), shape, dtype, bytes, pieces.

    Layers are stacked: one tensor holds a parameter of all layers, along its first axis.

    Raises:
        ValueError: `path` is not a complete checkpoint.
    """
    state = open_checkpoint(path)
    metadata = FileSystemReader(path).read_metadata()
    tensors = []
    for name, stored in sorted(metadata.state_dict_metadata.items()):
        if isinstance(stored, TensorStorageMetadata):
            dtype = stored.properties.dtype
            tensors.append(
                {
                    "name": name,
                    "part": "optimizer" if name.startswith(OPTIMIZER_PREFIX) else "model",
                    "shape": list(stored.size),
                    "dtype": str(dtype).removeprefix("torch."),
                    "bytes": math.prod(stored.size) * dtype.itemsize,
                    "pieces": len(stored.chunks),
                }
            )
    return {"path": str(path), **state, "tensors": tensors}


def check_start(path: Path, shape: ModelShape) -> None:
    """Raises ValueError unless `path`, model.checkpoint, is complete and of a model of this shape.

    By what its metadata say; loading compares every tensor.
    """
    try:
        state = open_checkpoint(path)
    except ValueError as error:
        raise ValueError(f"model.checkpoint: {error}") from error
    wanted = {"architecture": shape.architecture, **saved_sizes(shape)}
    saved = {"architecture": state["architecture"], **state["dims"]}
    stored = FileSystemReader(path).read_metadata().state_dict_metadata.get(_MLP)
    if isinstance(stored, TensorStorageMetadata):
        wanted["mlp"], saved["mlp"] = shape.intermediate, stored.size[-1]
    for name, size in wanted.items():
        if saved.get(name, "absent") != size:
            difference = f"{name} is {saved.get(name, 'absent')} in the checkpoint and {size} in the model"
            raise other_model(path, difference)


def open_checkpoint(path: Path) -> dict[str, Any]:
    """The state.json of a complete checkpoint.

    Raises:
        ValueError: `path` is not a complete checkpoint; the message says what it is, if that can be told.
    """
    problem = find_problem(path)
    if problem is None:
        return read_state(path)
    steps = sorted([*path.glob(f"step_*/{STATE_FILE}"), *path.glob(f"*/step_*/{STATE_FILE}")])
    if not path.exists():
        problem = "there is no such folder"
    elif path.is_file():
        problem = "it is a file"
    elif (path / "config.json").is_file():
        problem = "it is a Hugging Face folder; hf-to-megatron makes a checkpoint of it"
        problem += ", and --model takes it as it is where models are evaluated"
    elif steps:
        problem = f"the checkpoints are in it, for example {steps[-1].parent}"
    raise ValueError(f"{path} is no complete checkpoint: {problem}")
