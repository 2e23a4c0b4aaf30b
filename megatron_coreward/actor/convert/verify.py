"""Compares a Hugging Face folder with a checkpoint, tensor by tensor and bit by bit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from megatron_coreward.actor.checkpoint.folder import require_intact, saved_sizes
from megatron_coreward.actor.checkpoint.inspect import open_checkpoint
from megatron_coreward.actor.convert.convert import (
    OnBytes,
    Progress,
    open_reader,
    read_checkpoint_shape,
    read_hf_shape,
)
from megatron_coreward.actor.convert.outline import Parameter, outline_of
from megatron_coreward.actor.convert.stream import CheckpointReader, balanced_shares
from megatron_coreward.actor.weights.hf_folder import HfFolder
from megatron_coreward.actor.weights.kinds import merge
from megatron_coreward.config.hf_weights import extra_tensors, has_other_head
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.folders import errors_on_all_ranks

_BLOCK = 1 << 22


@dataclass(frozen=True)
class Difference:
    """A tensor, by its Hugging Face name, that is not the same on both sides."""

    name: str
    what: str


@dataclass(frozen=True)
class Comparison:
    """The result of `verify`."""

    tensors: int
    """The number of tensors that the model has."""
    differences: list[Difference]
    """In the order of the model's layers, and then the tensors that only the folder has."""


def verify(
    hf: str,
    checkpoint: Path,
    comm: Communicator,
    *,
    dtype: torch.dtype | None = None,
    allow_extra: bool = False,
    on_bytes: OnBytes | None = None,
) -> Comparison:
    """Compares the weights of the folder (or hub id) `hf` and of the checkpoint. A collective.

    Bit for bit, signs of zeros and NaNs included; with `dtype`, after both sides were cast to it.

    Raises:
        ValueError: on every rank: one of them cannot be read, or they are of different models.
    """
    with errors_on_all_ranks(comm):
        given = read_hf_shape(hf)
        open_checkpoint(checkpoint)
        shape = read_checkpoint_shape(checkpoint)
    outline = outline_of(shape)
    with errors_on_all_ranks(comm):
        reader = open_reader(checkpoint, outline)
        _check_same_model(given, checkpoint, shape)
        source = HfFolder(given.folder, "--hf")
    require_intact(checkpoint, comm)
    sizes = [p.numel * reader.dtype(p).itemsize for p in outline.parameters]
    owners = balanced_shares(sizes, comm.world_size)
    mine = [i for i, owner in enumerate(owners) if owner == comm.rank]
    progress = Progress(on_bytes, sum(sizes[i] for i in mine))
    with errors_on_all_ranks(comm):
        own: list[Difference] = []
        for i in mine:
            own += _compare(outline.parameters[i], shape, reader, source, dtype)
            progress.advance(sizes[i])
    differences = [difference for share in comm.all_gather(own) for difference in share]
    if not allow_extra:
        differences += [
            Difference(name, "is in the folder only") for name in extra_tensors(source.tensors, shape)
        ]
    if has_other_head(source.folder, source.tensors, shape):
        what = f"differs from {shape.family.embedding}, which the checkpoint ties it to"
        differences.append(Difference(shape.family.head, what))
    return Comparison(len(outline.hf_shapes), differences)


def _check_same_model(given: ModelShape, checkpoint: Path, stored: ModelShape) -> None:
    def sizes(shape: ModelShape) -> dict[str, object]:
        return {"architecture": shape.architecture, **saved_sizes(shape)}

    for (name, size), other in zip(sizes(stored).items(), sizes(given).values(), strict=True):
        if size != other:
            raise ValueError(
                f"{given.folder} (--hf) and {checkpoint} are of different models: {name} is {other} in "
                f"config.json and {size} in the checkpoint. Give the folder that the checkpoint was made from"
            )


def _compare(
    parameter: Parameter,
    shape: ModelShape,
    reader: CheckpointReader,
    source: HfFolder,
    dtype: torch.dtype | None,
) -> Iterator[Difference]:
    merged = merge(parameter.entry.mapping.kind, [reader.parameter(parameter)], shape)
    for name, stored in zip(parameter.hf, merged, strict=True):
        if name not in source.tensors:
            yield Difference(name, "is in the checkpoint only")
            continue
        size = source.tensors[name].shape
        if size != stored.shape:
            yield Difference(
                name, f"has shape {list(size)} in the folder and {list(stored.shape)} in the checkpoint"
            )
            continue
        given = source.tensor(name)
        if dtype is not None:
            given, stored = given.to(dtype), stored.to(dtype)
        if given.dtype != stored.dtype:
            yield Difference(
                name,
                f"is {given.dtype} in the folder and {stored.dtype} in the checkpoint; --dtype compares after"
                " a cast",
            )
        elif what := unequal(given, stored):
            yield Difference(name, what)


def unequal(a: Tensor, b: Tensor) -> str:
    """How two tensors of one shape and type differ; empty if not at all."""
    differing, largest = 0, 0.0
    integers = {2: torch.int16, 4: torch.int32}[a.itemsize]
    for x, y in zip(a.flatten().split(_BLOCK), b.flatten().split(_BLOCK), strict=True):
        bits = x.view(integers) != y.view(integers)
        if bits.any():
            differing += int(bits.sum())
            distance = (x[bits].double() - y[bits].double()).abs()
            largest = max(largest, float(distance.nan_to_num(nan=torch.inf).max()))
    return f"max abs diff {largest:.3g}, {differing:,} of {a.numel():,} values differ" if differing else ""
