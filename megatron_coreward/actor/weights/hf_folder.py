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

from megatron_coreward.config.hf_files import read_tensors, some

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The types of weights by their names in safetensors."""
_BLOCK = 1 << 20


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
        dtype = self.tensors[name].dtype
        if dtype not in DTYPES:
            raise ValueError(
                f"{name} of {self.given} is of type {dtype}; weights may be {', '.join(DTYPES)}. Quantised "
                "models are not supported: take the model they were made from"
            )
        return DTYPES[dtype]

    def check_shapes(self, wanted: Mapping[str, Sequence[int]]) -> None:
        """Raises ValueError unless every wanted tensor is there in its shape."""
        missing = [name for name in wanted if name not in self.tensors]
        if missing:
            raise ValueError(f"{self.given} has no tensor {some(missing)}, which its architecture needs")
        wrong = [name for name, shape in wanted.items() if self.tensors[name].shape != tuple(shape)]
        if wrong:
            name = wrong[0]
            others = f" (and {len(wrong) - 1} other tensors)" if len(wrong) > 1 else ""
            raise ValueError(
                f"{name}{others} of {self.given} has shape {list(self.tensors[name].shape)} where config.json"
                f" asks for {list(wanted[name])}; weights and config.json belong to different models"
            )

    def same(self, a: str, b: str) -> bool:
        """Tells whether two tensors are equal; reads a block at a time."""
        first, second = self.tensors[a], self.tensors[b]
        if (first.shape, first.dtype) != (second.shape, second.dtype):
            return False
        left = self.num_bytes(a)
        with (
            (self.folder / first.file).open("rb") as file_a,
            (self.folder / second.file).open("rb") as file_b,
        ):
            file_a.seek(first.start)
            file_b.seek(second.start)
            while left > 0:
                size = min(left, _BLOCK)
                if file_a.read(size) != file_b.read(size):
                    return False
                left -= size
        return True
