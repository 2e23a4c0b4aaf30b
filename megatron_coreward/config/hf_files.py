"""The weights that a Hugging Face folder holds, by its index and the headers of its files. Imports no torch.

Only safetensors are read: a pickle can run code. `option` is where the user gave the folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_ROTARY_BUFFER = "rotary_emb.inv_freq"
_SHOWN = 8


@dataclass(frozen=True)
class TensorInfo:
    """One tensor as a file's header describes it."""

    file: str
    shape: tuple[int, ...]
    dtype: str
    """safetensors' name for it."""
    start: int
    """Position of its first byte in the file."""


def read_json(path: Path, option: str) -> dict[str, Any]:
    """The object in a file of the folder. Raises ValueError if there is none."""
    if not path.is_file():
        raise ValueError(f"{path} is missing. {option} must be a folder in Hugging Face format.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} ({option}) cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} ({option}) holds no JSON object.")
    return content


def read_index(folder: Path, option: str) -> dict[str, str] | None:
    """The file of every tensor, by the folder's index; None where one file holds all. Opens no weights.

    Raises:
        ValueError: neither an index nor that file, a broken index, or one that names files that are missing.
    """
    index = folder / INDEX
    if index.is_file():
        files = read_json(index, option).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise ValueError(f"{index} ({option}) is no index of shards: it has no weight_map of file names.")
        names = sorted(set(files.values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise ValueError(f"{index} ({option}) names files that are missing: {some(missing)}.")
        return files
    if (folder / SINGLE).is_file():
        return None
    problem = f"{option} must hold *.safetensors, but {folder} has neither {SINGLE} nor an index ({INDEX})"
    if pickled := sorted(path.name for pattern in ("*.bin", "*.pt*") for path in folder.glob(pattern)):
        problem += "; pickled weights (*.bin, *.pt) can run code and are not read: save "
        problem += f"{some(pickled)} as safetensors"
    raise ValueError(f"{problem}.")


def read_tensors(folder: Path, option: str) -> dict[str, TensorInfo]:
    """Every tensor of the folder by its name, from the headers of all files.

    Not the buffers of rotary frequencies that older files hold: everybody computes them from config.json.

    Raises:
        ValueError: as read_index; a file is not in safetensors format, or lacks a tensor of the index.
    """
    files = read_index(folder, option)
    if files is None:
        tensors = _header(folder, SINGLE)
    else:
        headers = {name: _header(folder, name) for name in set(files.values())}
        for tensor, file in files.items():
            if tensor not in headers[file]:
                raise ValueError(
                    f"{INDEX} of {folder} ({option}) says that {file} holds {tensor}, but it does not"
                )
        tensors = {tensor: headers[file][tensor] for tensor, file in files.items()}
    return {name: info for name, info in tensors.items() if not name.endswith(_ROTARY_BUFFER)}


def _header(folder: Path, file: str) -> dict[str, TensorInfo]:
    path = folder / file
    try:
        with safe_open(path, framework="np"):  # checks the header: sizes, no holes, nothing outside
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


def some(names: Sequence[str]) -> str:
    """The first few names, and the number of others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
