"""Tensors of a Hugging Face folder, read one by one.

What the folder holds is known from the files' headers (config/hf_files.py), so that names, shapes and types
are checked before any weight is read. Tensors are read, not mapped: copying from a mapped file took half as
long again here, and its pages count as this process's memory.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from megatron_coreward.config.hf_files import read_tensors
from megatron_coreward.config.hf_weights import WEIGHT_TYPES, check_shapes, check_type

DTYPES = dict(zip(WEIGHT_TYPES, (torch.float32, torch.bfloat16, torch.float16), strict=True))


class HfFolder:
    """The weights of `folder`. `option` is where the user gave it. Raises ValueError as read_tensors does."""

    def __init__(self, folder: Path, option: str = "model.path") -> None:
        self.folder = folder
        self.given = f"{folder} ({option})"
        self.tensors = read_tensors(folder, option)

    def num_bytes(self, name: str) -> int:
        return math.prod(self.tensors[name].shape) * self.dtype(name).itemsize

    def tensor(self, name: str) -> Tensor:
        """One tensor, in memory of its own."""
        info = self.tensors[name]
        memory = torch.empty(self.num_bytes(name), dtype=torch.uint8)
        result = memory.view(self.dtype(name)).view(info.shape)
        path = self.folder / info.file
        with path.open("rb") as file:
            file.seek(info.start)
            read = file.readinto(memory.numpy().data)
        if read != memory.nbytes:
            raise ValueError(f"{path} ends within {name}; it has changed since it was opened")
        return result

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type. Raises ValueError for one that holds no plain weights, such as quantised ones."""
        check_type(name, self.tensors[name], self.given)
        return DTYPES[self.tensors[name].dtype]

    def check_shapes(self, wanted: Mapping[str, Sequence[int]]) -> None:
        """Raises ValueError unless every wanted tensor is there in its shape."""
        check_shapes(self.tensors, self.given, wanted)
