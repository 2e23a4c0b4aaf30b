"""Writes a Hugging Face folder: the weights as planned safetensors files, tensor after tensor, and the rest.

The plan says what each file will hold, so its header is written first and every tensor goes straight to
disk: however large the files are, only one tensor is in memory. Format: 8 bytes with the header's length
(little-endian), the header in JSON padded with spaces, then the tensors' bytes
(https://huggingface.co/docs/safetensors).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import torch
from torch import Tensor

from megatron_coreward.actor.checkpoint.folder import copy_hf_files
from megatron_coreward.actor.weights.hf_folder import DTYPES
from megatron_coreward.config.hf_files import INDEX, SINGLE

SHARD_BYTES = 5 * 10**9
"""The largest file of weights; transformers' own limit was the same for years."""
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorSpec:
    """A tensor before it exists."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Shard:
    """One file of weights."""

    file: str
    tensors: Sequence[TensorSpec]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)


def plan_shards(tensors: Iterable[TensorSpec], shard_bytes: int) -> list[Shard]:
    """Files of at most `shard_bytes`, in the tensors' order. A larger tensor gets a file of its own."""
    groups: list[list[TensorSpec]] = [[]]
    room = shard_bytes
    for tensor in tensors:
        if groups[-1] and tensor.nbytes > room:
            groups.append([])
            room = shard_bytes
        groups[-1].append(tensor)
        room -= tensor.nbytes
    count = len(groups)
    names = (
        [SINGLE] if count == 1 else [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    )
    return [Shard(name, group) for name, group in zip(names, groups, strict=True)]


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """The index that says which file holds which tensor; a single file needs none. Raises OSError."""
    if len(shards) > 1:
        index = {
            "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
            "weight_map": {tensor.name: shard.file for shard in shards for tensor in shard.tensors},
        }
        (folder / INDEX).write_text(json.dumps(index, indent=2))


def carry_hf_files(source: Path, folder: Path, dtype: torch.dtype, chat_template: str = "") -> None:
    """Copies as copy_hf_files; config.json gets `dtype`. Raises OSError."""
    copy_hf_files(source, folder, chat_template)
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    key = "torch_dtype" if "torch_dtype" in config else "dtype"  # its name before transformers 5
    config[key] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


class ShardWriter:
    """Writes `shards`, one after the other; every `add` is the next tensor of the plan.

    A context manager, so that a file is closed whatever happens.
    """

    def __init__(self, folder: Path, shards: Sequence[Shard]) -> None:
        self._folder = folder
        self._planned = [(shard, tensor) for shard in shards for tensor in shard.tensors]
        self._done = 0
        self._file: BinaryIO | None = None

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def finish(self) -> None:
        """After the last tensor. Raises OSError."""
        assert self._done == len(self._planned), f"{len(self._planned) - self._done} tensors are missing"
        self._close()

    def add(self, name: str, tensor: Tensor) -> None:
        """Raises OSError."""
        shard, spec = self._planned[self._done]
        got = TensorSpec(name, tuple(tensor.shape), tensor.dtype)
        assert got == spec, f"{spec} was planned next, got {got}"
        if spec is shard.tensors[0]:
            self._close()
            self._file = (self._folder / shard.file).open("wb")
            self._file.write(_header(shard.tensors))
        assert self._file is not None, "every file begins with its first tensor"
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        self._file.write(raw.numpy().data)
        self._done += 1

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _header(tensors: Sequence[TensorSpec]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in tensors:
        start, end = end, end + tensor.nbytes
        entries[tensor.name] = {
            "dtype": _DTYPE_NAMES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [start, end],
        }
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
