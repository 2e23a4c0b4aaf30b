"""Writes and reads the model's part of a checkpoint parameter by parameter.

Megatron and torch write from, and read into, a model in memory. Here a parameter is made when its turn to be
written comes, and read when it is asked for; the files are the same. (torch's FileSystemWriter would do for
writing, but keeps the last tensor of every name until the end.)
"""

import io
import pickle
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import torch
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.mapping import ShardedTensor
from megatron.core.dist_checkpointing.strategies.common import TorchCommonSaveStrategy
from torch import Tensor
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.storage import WriteResult
from torch.distributed.checkpoint.utils import _create_file_view
from torch.serialization import get_crc32_options, set_crc32_options

from megatron_coreward.actor.convert.outline import Outline, Parameter


class CheckpointWriter:
    """The model's part of a checkpoint in `folder`, shared by `world_size` ranks.

    Every rank writes the file of its share (`write_share`), one of them then completes the folder with the
    results of all. The ranks agree on the shares without talking. `dtypes` are those of the parameters.
    """

    def __init__(
        self, folder: Path, outline: Outline, dtypes: Sequence[torch.dtype], rank: int, world_size: int
    ) -> None:
        self._folder = folder
        self._outline = outline
        self._rank = rank
        sizes = [p.numel * dtype.itemsize for p, dtype in zip(outline.parameters, dtypes, strict=True)]
        owners = balanced_shares(sizes, world_size)
        self._share = [i for i, owner in enumerate(owners) if owner == rank]
        self._dtypes = dtypes
        self.num_bytes = sum(sizes)
        """Bytes of weights, all ranks together."""
        self.share_bytes = sum(sizes[i] for i in self._share)
        """Bytes of weights of this rank."""

    def write_share(
        self, value: Callable[[Parameter, torch.dtype], Tensor]
    ) -> tuple[list[WriteResult], dict[str, dict[str, int]]]:
        """Writes this rank's parameters; `value` makes one when its turn comes.

        Returns where everything is in the file, and the file's size and checksum (checkpoint/folder.measure).

        Raises:
            OSError: it cannot be written.
        """
        name = f"__{self._rank}_0.distcp"
        results = []
        # The file's checksum is taken here; torch's own, per tensor, are never looked at by torch.load.
        with (self._folder / name).open("wb") as raw, _without_crc32():
            file = cast(IO[bytes], measured := _MeasuredFile(raw))

            def write(index: MetadataIndex, data: object) -> None:
                start = measured.num_bytes
                try:
                    torch.save(data, file)
                except RuntimeError as error:  # what torch makes of some of the file's OSErrors
                    raise OSError(str(error).splitlines()[0]) from error
                length = measured.num_bytes - start
                results.append(WriteResult(index, length, _StorageInfo(name, start, length)))

            if self._rank == 0:
                for item in self._outline.objects:
                    write(MetadataIndex(item.unique_key), [item.data])
            for i in self._share:
                parameter = self._outline.parameters[i]
                for piece in parameter.pieces(value(parameter, self._dtypes[i])):
                    assert piece.data is not None, "made with data"
                    data = piece.data.contiguous().view(_stored_shape(piece))
                    write(MetadataIndex(piece.key, piece.global_offset), _own_storage(data))
        return results, {name: {"bytes": measured.num_bytes, "crc32": measured.crc32}}

    def complete(self, results: Sequence[list[WriteResult]]) -> None:
        """Writes what describes the files of all ranks. Raises OSError."""
        FileSystemWriter(self._folder).finish(self._metadata(), list(results))
        TorchCommonSaveStrategy("torch", 1).save_common({}, str(self._folder))
        save_config(CheckpointingConfig("torch_dist", 1), str(self._folder))

    def _metadata(self) -> Metadata:
        found: dict[str, TensorStorageMetadata | BytesStorageMetadata] = {
            item.unique_key: BytesStorageMetadata() for item in self._outline.objects
        }
        for parameter, dtype in zip(self._outline.parameters, self._dtypes, strict=True):
            for piece in parameter.pieces_without_data(dtype):
                new = TensorStorageMetadata(TensorProperties(dtype), torch.Size(piece.global_shape), [])
                stored = found.setdefault(piece.key, new)
                assert isinstance(stored, TensorStorageMetadata), f"{piece.key} is an object, too"
                stored.chunks.append(_chunk(piece))
        return Metadata(found)


@contextmanager
def _without_crc32() -> Iterator[None]:
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


class _MeasuredFile(io.RawIOBase):
    """Counts and checksums what goes through to a file."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.num_bytes = 0
        self.crc32 = 0

    def writable(self) -> bool:
        return True

    def write(self, data: memoryview | bytes) -> int:  # type: ignore[override]
        self.crc32 = zlib.crc32(data, self.crc32)
        self.num_bytes += len(data)
        return self._file.write(data)


class CheckpointReader:
    """Parts of a checkpoint's tensors, whatever layout it was saved at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.metadata: Metadata = FileSystemReader(folder).read_metadata()

    def tensor(self, key: str) -> TensorStorageMetadata:
        """A tensor's metadata."""
        stored = self.metadata.state_dict_metadata[key]
        assert isinstance(stored, TensorStorageMetadata), f"{key} is not a tensor"
        return stored

    def parameter(self, parameter: Parameter) -> Tensor:
        """A whole parameter.

        Raises:
            ValueError: a file is damaged.
        """
        pieces = parameter.pieces_without_data(torch.float32)
        return parameter.join([self._read(piece) for piece in pieces])

    def dtype(self, parameter: Parameter) -> torch.dtype:
        return self.tensor(parameter.stored.key).properties.dtype

    def _read(self, piece: ShardedTensor) -> Tensor:
        wanted = _chunk(piece)
        items = create_read_items_for_chunk_list(piece.key, self.tensor(piece.key), [wanted])
        assert sum(item.lengths.numel() for item in items) == wanted.sizes.numel(), f"holes in {piece.key}"
        result = None
        for item in items:
            part = _narrow(self._load(item.storage_index), item.storage_offsets, item.lengths)
            if part.shape == wanted.sizes:
                return part.view(piece.local_shape)  # stored as it is wanted: no copy
            if result is None:
                result = torch.empty(wanted.sizes, dtype=part.dtype)
            _narrow(result, item.dest_offsets, item.lengths).copy_(part)
        assert result is not None, f"{piece.key} is empty"
        return result.view(piece.local_shape)

    def _load(self, index: MetadataIndex) -> Tensor:
        place = self.metadata.storage_data[index]
        path = self._folder / place.relative_path
        try:
            with path.open("rb") as file:
                view = cast(IO[bytes], _create_file_view(file, place.offset, place.length))
                return torch.load(view, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise ValueError(f"{path} is damaged where {index.fqn} is stored: {error}") from error


def balanced_shares(sizes: Sequence[int], ranks: int) -> list[int]:
    """Each item's rank: consecutive items, about the same size for every rank."""
    total = max(sum(sizes), 1)
    owners, before = [], 0
    for size in sizes:
        owners.append(min(ranks - 1, (before + size // 2) * ranks // total))
        before += size
    return owners


def _chunk(piece: ShardedTensor) -> ChunkStorageMetadata:
    return ChunkStorageMetadata(torch.Size(piece.global_offset), torch.Size(_stored_shape(piece)))


def _stored_shape(piece: ShardedTensor) -> tuple[int, ...]:
    """The shape in the file, with an axis for each one that the layers are stacked along."""
    return (*[1] * piece.prepend_axis_num, *piece.local_shape)


def _own_storage(tensor: Tensor) -> Tensor:
    """The same memory as a storage of its own: torch.save writes the whole storage that a tensor lies in."""
    raw = tensor.flatten().view(torch.uint8).numpy()
    return torch.from_numpy(raw).view(tensor.dtype).view(tensor.shape)


def _narrow(tensor: Tensor, offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
    for dim, (offset, length) in enumerate(zip(offsets, lengths, strict=True)):
        tensor = tensor.narrow(dim, offset, length)
    return tensor
