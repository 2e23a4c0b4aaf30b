"""Tensors of a Hugging Face folder, read one by one.

What the folder holds is known from the files' headers, so that names, shapes and types are checked before
any weight is read. Only safetensors are read: a pickle can run code. Tensors are read, not mapped: copying
from a mapped file took half as long again here, and its pages count as this process's memory.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
"""The types of weights by their names in safetensors."""
_SHOWN = 8
_BLOCK = 1 << 20


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of one tensor."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name for it."""
    start: int
    """Where its bytes begin in the file."""


class HfFolder:
    """Tensors of a folder of safetensors, with or without an index. `option` is where the user gave it.

    Raises:
        ValueError: on construction: no weights, pickled ones, a file that the index names is missing or is
            no safetensors file, or lacks a tensor that the index says it holds.
    """

    def __init__(self, folder: str | Path, option: str = "model.path") -> None:
        self.folder = Path(folder)
        self.given = f"{folder} ({option})"
        self.tensors: dict[str, TensorInfo] = {}
        index = self.folder / INDEX
        if index.exists():
            self._read_index(index)
        elif (self.folder / SINGLE).exists():
            self.tensors = self._header(SINGLE)
        else:
            pickled = sorted(
                path.name for pattern in ("*.bin", "*.pt*") for path in self.folder.glob(pattern)
            )
            hint = ""
            if pickled:
                hint = (
                    f"; {some(pickled)} may be pickled weights, which can run code and are not read: save "
                    "the model as safetensors"
                )
            raise ValueError(f"{self.given} holds neither {SINGLE} nor an index of shards ({INDEX}){hint}")

    def _read_index(self, index: Path) -> None:
        try:
            files: dict[str, str] = json.loads(index.read_text())["weight_map"]
            names = sorted(set(files.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{index} is no index of shards: {error!r}") from error
        missing = [name for name in names if Path(name).name != name or not (self.folder / name).is_file()]
        if missing:
            raise ValueError(f"{INDEX} of {self.given} names files that are not there: {some(missing)}")
        held = {name: self._header(name) for name in names}
        for tensor, file in files.items():
            if tensor not in held[file]:
                raise ValueError(f"{INDEX} of {self.given} says that {file} holds {tensor}, but it does not")
            self.tensors[tensor] = held[file][tensor]

    def _header(self, file: str) -> dict[str, TensorInfo]:
        path = self.folder / file
        try:
            with safe_open(path, framework="pt"):  # checks the header: sizes, no holes, nothing outside
                pass
            with path.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                entries: dict[str, Any] = json.loads(opened.read(length))
        except (OSError, SafetensorError) as error:
            raise ValueError(f"cannot read {path} as safetensors: {error}") from error
        entries.pop("__metadata__", None)
        return {
            name: TensorInfo(file, tuple(e["shape"]), e["dtype"], 8 + length + e["data_offsets"][0])
            for name, e in entries.items()
        }

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
        """Raises ValueError for one that holds no plain weights, such as quantised ones."""
        found = self.tensors[name].dtype
        if found not in DTYPES:
            raise ValueError(
                f"{name} of {self.given} is of type {found}; weights may be {', '.join(DTYPES)}. Quantised "
                "models are not supported: take the model they were made from"
            )
        return DTYPES[found]

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
        """Whether two tensors are equal, a block at a time."""
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


def some(names: Sequence[str]) -> str:
    """The first few of them."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
