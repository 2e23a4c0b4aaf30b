"""Hugging Face folder -> checkpoint -> Hugging Face folder, parameter by parameter.

Neither direction holds more than one parameter in memory, whatever the size of model and files. What it
writes, a run reads (`model.checkpoint`), and what a run wrote at any layout, it reads. Ranks under torchrun
share the parameters (to a checkpoint) or the files (to Hugging Face). The output gets its name when it is
complete and on disk.
"""

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_coreward.actor.checkpoint.folder import (
    HF_FILES,
    STATE_FILE,
    copy_hf_files,
    require_intact,
    run_settings,
    saved_sizes,
    write_state,
)
from megatron_coreward.actor.checkpoint.inspect import open_checkpoint
from megatron_coreward.actor.checkpoint.model_state import CONTENTS_MODEL, model_differences
from megatron_coreward.actor.convert.outline import Outline, Parameter, outline_of
from megatron_coreward.actor.convert.stream import CheckpointReader, CheckpointWriter, balanced_shares
from megatron_coreward.actor.weights.hf_folder import HfFolder
from megatron_coreward.actor.weights.hf_writer import (
    SHARD_BYTES,
    Shard,
    ShardWriter,
    carry_hf_files,
    plan_shards,
    write_index,
)
from megatron_coreward.actor.weights.kinds import merge, split
from megatron_coreward.actor.weights.load import check_extra_tensors
from megatron_coreward.config.hf_files import read_index
from megatron_coreward.config.model_shape import ModelShape, find_folder, has_tokenizer, read_shape
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.folders import errors_on_all_ranks, publish, temporary_name
from megatron_coreward.utils.versions import versions

logger = logging.getLogger(__name__)

OnBytes = Callable[[int, int], None]
"""Called with (bytes converted by this rank, bytes of its share)."""


@dataclass(frozen=True)
class Converted:
    """The result of a conversion."""

    output: Path
    tensors: int
    """Hugging Face tensors."""
    num_bytes: int
    """Bytes of weights, all ranks together."""
    seconds: float


def hf_to_megatron(
    hf: str,
    output: Path,
    comm: Communicator,
    *,
    dtype: torch.dtype | None = None,
    allow_extra: bool = False,
    overwrite: bool = False,
    on_bytes: OnBytes | None = None,
) -> Converted:
    """Writes the model of the folder (or hub id) `hf` as the checkpoint `output`. A collective.

    `dtype` None keeps the folder's. `allow_extra` leaves out tensors that the architecture does not know.

    Raises:
        ValueError, OSError: on every rank; nothing was written, and what was at `output` is intact.
    """
    started = time.perf_counter()
    with errors_on_all_ranks(comm):
        shape = read_hf_shape(hf)
        check_output(output, shape.folder, STATE_FILE, "checkpoint", overwrite)
    outline = outline_of(shape)
    with errors_on_all_ranks(comm):
        source = HfFolder(shape.folder, "--hf")
        source.check_shapes(outline.hf_shapes)
        check_extra_tensors(source, shape, "convert with --allow-extra", allowed=allow_extra)
        dtypes = parameter_dtypes(source, outline, dtype)
    new = temporary_name(output)
    writer = CheckpointWriter(new, outline, dtypes, comm.rank, comm.world_size)
    progress = Progress(on_bytes, writer.share_bytes)

    def value(parameter: Parameter, stored: torch.dtype) -> Tensor:
        tensors = [cast(name, source.tensor(name), stored) for name in parameter.hf]
        whole = split(parameter.entry.mapping.kind, tensors, shape, 0, 1)
        progress.advance(whole.nbytes)
        return whole

    with _appearing(output, new, comm, writer.num_bytes):
        with errors_on_all_ranks(comm):
            share = writer.write_share(value)
        shares = comm.all_gather(share)
        with errors_on_all_ranks(comm):
            if comm.rank == 0:
                writer.complete([results for results, _ in shares])
                copy_hf_files(shape.folder, new / HF_FILES)
                measured = {name: m for _, files in shares for name, m in files.items()}
                write_state(new, _describe(shape), measured)
    return Converted(output, len(outline.hf_shapes), writer.num_bytes, time.perf_counter() - started)


def _describe(shape: ModelShape) -> dict[str, Any]:
    """The content of a converted checkpoint's state.json; saver.describe is its counterpart for a run's."""
    return {
        "step": 0,
        "num_updates": 0,
        "contents": [CONTENTS_MODEL],
        "architecture": shape.architecture,
        "dims": saved_sizes(shape),
        "layout": {"tensor": 1, "pipeline": 1, "data": 1},
        "config": None,
        "versions": versions(),
        "trainer": None,
        "ratings": {},
    }


def megatron_to_hf(
    checkpoint: Path,
    output: Path,
    comm: Communicator,
    *,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
    overwrite: bool = False,
    checksums: bool = True,
    on_bytes: OnBytes | None = None,
) -> Converted:
    """Writes the model of a checkpoint as the Hugging Face folder `output`. A collective.

    `dtype` None keeps the checkpoint's. Without `checksums` only names and sizes of the checkpoint's files
    are checked.

    Raises:
        ValueError, OSError: on every rank; nothing was written, and what was at `output` is intact.
    """
    started = time.perf_counter()
    with errors_on_all_ranks(comm):
        open_checkpoint(checkpoint)
        check_output(output, checkpoint, "config.json", "model folder", overwrite)
        shape = read_checkpoint_shape(checkpoint)
    outline = outline_of(shape)
    with errors_on_all_ranks(comm):
        reader = open_reader(checkpoint, outline)
    if checksums:
        require_intact(checkpoint, comm)
    specs = [spec for p in outline.parameters for spec in p.specs(dtype or reader.dtype(p))]
    shards = plan_shards(specs, shard_bytes)
    owners = balanced_shares([shard.nbytes for shard in shards], comm.world_size)
    mine = [shard for shard, owner in zip(shards, owners, strict=True) if owner == comm.rank]
    num_bytes = sum(shard.nbytes for shard in shards)
    new = temporary_name(output)
    with _appearing(output, new, comm, num_bytes):
        with errors_on_all_ranks(comm):
            _write_files(new, mine, outline, reader, on_bytes)
        with errors_on_all_ranks(comm):
            if comm.rank == 0:
                write_index(new, shards)
                carry_hf_files(checkpoint / HF_FILES, new, max(specs, key=lambda spec: spec.nbytes).dtype)
                if settings := run_settings(checkpoint):
                    settings.write(new)
    return Converted(output, len(specs), num_bytes, time.perf_counter() - started)


def _write_files(
    new: Path, shards: Sequence[Shard], outline: Outline, reader: CheckpointReader, on_bytes: OnBytes | None
) -> None:
    specs = {spec.name: spec for shard in shards for spec in shard.tensors}
    progress = Progress(on_bytes, sum(spec.nbytes for spec in specs.values()))
    with ShardWriter(new, shards) as writer:
        for parameter in outline.parameters:
            if not specs.keys() & parameter.hf.keys():
                continue
            tensors = merge(parameter.entry.mapping.kind, [reader.parameter(parameter)], outline.shape)
            for name, tensor in zip(parameter.hf, tensors, strict=True):
                if name in specs:  # a parameter of several tensors may end in the next rank's file
                    writer.add(name, cast(name, tensor, specs[name].dtype))
                    progress.advance(specs[name].nbytes)
        writer.finish()


def read_hf_shape(given: str) -> ModelShape:
    """The shape of a folder's model that can be converted; a hub id is fetched once.

    Raises:
        ValueError: no such folder, a checkpoint, or a model that is not supported.
    """
    if (Path(given) / STATE_FILE).is_file():
        raise ValueError(
            f"--hf {given} is a checkpoint, not a Hugging Face folder; megatron-to-hf converts it"
        )
    try:
        # Only weights are converted: a model's own code is never run, and does not matter.
        shape = read_shape(find_folder(given), trust_remote_code=True)
        read_index(shape.folder, "model.path")
    except ValueError as error:
        raise ValueError(str(error).replace("model.path", "--hf")) from error
    if not has_tokenizer(shape.folder):
        logger.warning(
            "--hf %s has no tokenizer: what is made of it cannot be trained or evaluated before one is added",
            given,
        )
    return shape


def read_checkpoint_shape(checkpoint: Path) -> ModelShape:
    """The shape of a checkpoint's model. Raises ValueError if its config.json is damaged."""
    try:
        return read_shape(checkpoint / HF_FILES, trust_remote_code=True)
    except ValueError as error:
        raise ValueError(str(error).replace("model.path", "a part of the checkpoint")) from error


def open_reader(checkpoint: Path, outline: Outline) -> CheckpointReader:
    """Raises ValueError unless the checkpoint holds the model that `outline` describes."""
    for difference in model_differences(checkpoint, outline.sharded_state(), outline.shape):
        raise ValueError(
            f"{checkpoint} does not fit its own {HF_FILES}/config.json: {difference}. One of them was changed"
        )
    return CheckpointReader(checkpoint)


def check_output(output: Path, source: Path, marker: str, kind: str, overwrite: bool) -> None:
    """Raises ValueError if `output` cannot become a `kind`, which is recognised by the file `marker`."""
    target, origin = output.resolve(), source.resolve()
    if target.is_relative_to(origin) or origin.is_relative_to(target):
        raise ValueError(f"--output {output} is, holds or lies in the source {source}; choose another")
    if output.exists():
        if not overwrite:
            raise ValueError(f"--output {output} exists; choose another, or replace it with --overwrite")
        if not (output / marker).is_file():
            raise ValueError(f"--output {output} exists and is no {kind}; remove it, or choose another")


@contextmanager
def _appearing(output: Path, new: Path, comm: Communicator, num_bytes: int) -> Iterator[None]:
    """Makes the folder `new`, and gives it the name `output` if the body succeeds. A collective."""
    failed = True
    try:
        with errors_on_all_ranks(comm):
            if comm.rank == 0:
                shutil.rmtree(new, ignore_errors=True)
                new.mkdir(parents=True)
                free = shutil.disk_usage(new).free
                if free < num_bytes:
                    raise OSError(f"{num_bytes:,} bytes are needed and {free:,} are free")
        yield
        with errors_on_all_ranks(comm):
            if comm.rank == 0:
                publish(new, output)
        failed = False
    except OSError as error:
        raise OSError(
            f"--output {output} cannot be written: {error}. What was there is intact; free space or choose "
            "another"
        ) from error
    finally:
        if failed and comm.rank == 0:
            shutil.rmtree(new, ignore_errors=True)


def parameter_dtypes(source: HfFolder, outline: Outline, dtype: torch.dtype | None) -> list[torch.dtype]:
    """The type that each parameter is stored in: `dtype`, or that of its tensors in the folder.

    Raises:
        ValueError: quantised tensors; tensors that become one tensor of the checkpoint differ in type.
    """
    by_key: dict[str, torch.dtype] = {}
    for parameter in outline.parameters:
        for name in parameter.hf:
            given = source.dtype(name)
            if by_key.setdefault(parameter.stored.key, given) != given and dtype is None:
                raise ValueError(
                    f"{name} of {source.given} is {given} and others that are stored with it are "
                    f"{by_key[parameter.stored.key]}; choose one with --dtype"
                )
    return [dtype or by_key[parameter.stored.key] for parameter in outline.parameters]


def cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Raises ValueError if a value would become infinite."""
    result = tensor.to(dtype)
    if result is not tensor and not result.isfinite().all() and tensor.isfinite().all():
        raise ValueError(
            f"{name} has values up to {tensor.abs().max():g}, too large for {dtype}; choose another --dtype"
        )
    return result


class Progress:
    """Counts this rank's bytes for whoever shows them."""

    def __init__(self, on_bytes: OnBytes | None, total: int) -> None:
        self._on_bytes = on_bytes
        self._total = total
        self._done = 0

    def advance(self, num_bytes: int) -> None:
        self._done += num_bytes
        if self._on_bytes:
            self._on_bytes(self._done, self._total)
