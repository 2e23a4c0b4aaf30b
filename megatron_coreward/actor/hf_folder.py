"""Tensors of a Hugging Face folder, read one by one."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor


class HfFolder:
    """Tensors of a folder of safetensors, with or without an index, read one by one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            files = json.loads(index.read_text())["weight_map"]
        else:
            single = self.folder / "model.safetensors"
            if not single.exists():
                raise ValueError(
                    f"model.path={folder} holds neither model.safetensors nor an index of shards"
                )
            files = dict.fromkeys(self._open(single.name).keys(), single.name)
        self.files: dict[str, str] = files

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(self.folder / file, framework="pt")
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(f"cannot read {self.folder / file} of model.path: {error}") from error

    def tensor(self, name: str) -> Tensor:
        if name not in self.files:
            raise ValueError(f"model.path={self.folder} has no tensor {name}, which its architecture needs")
        with self._open(self.files[name]) as file:
            return file.get_tensor(name)
