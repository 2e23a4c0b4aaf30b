"""The weights that a Hugging Face folder holds, by its index and the headers of its files. Imports no torch.

Only safetensors are read: a pickle can run code. `option` is where the user gave the folder.
"""

import hashlib
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from megatron_coreward.utils.run_names import CHECKPOINTS, HF_EXPORT, RUN_MARKS, STATE_FILE

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_ROTARY_BUFFER = "rotary_emb.inv_freq"
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_MODELS_BELOW = ("*", "snapshots/*")
"""Where else models lie: in a folder of models, in the hub's cache (models--OWNER--NAME)."""
_DOWNLOADS = ("blobs", ".cache/huggingface/download/**")
"""Where the hub's client keeps what it has not fetched to the end: its cache, and --local-dir."""
_DATA_SUFFIXES = (".parquet", ".jsonl", ".csv", ".arrow")
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
    num_bytes: int


def read_json(path: Path, option: str) -> dict[str, Any]:
    """The object in a file of the folder. Raises ValueError if there is none."""
    if not path.is_file():
        problem = f"{path} is missing. {option} must be a folder in Hugging Face format"
        raise ValueError(f"{problem}{_other_kind(path.parent, option)}.")
    refuse_pointer(path, option)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} ({option}) cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} ({option}) holds no JSON object.")
    return content


def refuse_pointer(path: Path, option: str) -> None:
    """Raises ValueError if the file is a Git LFS pointer."""
    with path.open("rb") as file:
        if file.read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ValueError(
                f"{path} ({option}) is a Git LFS pointer, not the file itself. Fetch it with `git lfs pull` "
                "in its folder."
            )


def _other_kind(folder: Path, option: str) -> str:
    """What a folder without config.json is instead, and what to do; empty if that cannot be told."""
    ggufs = sorted(file.name for file in folder.glob("*.gguf"))
    exports = sorted(str(file.parent) for at in _MODELS_BELOW for file in folder.glob(f"{at}/config.json"))
    checkpoints = sorted([*folder.glob("step_*"), *folder.glob(f"{CHECKPOINTS}/step_*")])
    if is_adapter(folder):
        return f". {_adapter(folder, option)}"
    if (folder / STATE_FILE).is_file():
        return (
            f", but {folder} is a checkpoint. Set model.checkpoint to it and {option} to its start model "
            "(evaluate: --checkpoint), or make a folder of it with `coreward convert megatron-to-hf`"
        )
    if checkpoints or any((folder / mark).exists() for mark in RUN_MARKS):
        if (folder / HF_EXPORT / "config.json").is_file():
            return f", but {folder} is a run's folder. Set {option} to its model, {folder / HF_EXPORT}"
        latest = f", for example {checkpoints[-1]}" if checkpoints else ""
        return (
            f", but {folder} is a run's folder without an exported model ({HF_EXPORT}/). Set "
            f"model.checkpoint to one of its checkpoints{latest}, and {option} to its start model "
            "(evaluate: --checkpoint)"
        )
    if ggufs:
        return (
            f", but {folder} holds GGUF ({some(ggufs)}), which is not read. Take the model it was made from"
        )
    if exports:
        return f", but {folder} only holds such folders. Set {option} to one: {some(exports)}"
    if unfinished := _unfinished(folder):
        return unfinished
    data = sorted(file.name for file in folder.glob("*") if file.suffix in _DATA_SUFFIXES)
    if data:
        return (
            f", but {folder} holds data ({some(data)}), which data.original and evaluation.file take. Set "
            f"{option} to a model's folder"
        )
    if folder.is_dir() and not any(folder.iterdir()):
        return f", but {folder} is empty. Put a model there: hf download OWNER/NAME --local-dir {folder}"
    return ""


def _unfinished(folder: Path) -> str:
    """A sentence if a download by the hub's client was broken off there; else empty."""
    files = [path for at in _DOWNLOADS for path in folder.glob(f"{at}/*.incomplete")]
    if not files:
        return ""
    return (
        f". A download to {folder} has not ended ({len(files)} files *.incomplete). Run the same hf download "
        "again, which goes on with it"
    )


def is_adapter(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (ADAPTER, ADAPTER_CONFIG))


def _adapter(folder: Path, option: str) -> str:
    base = ""
    if (folder / ADAPTER_CONFIG).is_file():
        base = f" of {read_json(folder / ADAPTER_CONFIG, option).get('base_model_name_or_path')}"
    found = " and ".join(name for name in (ADAPTER, ADAPTER_CONFIG) if (folder / name).is_file())
    return (
        f"{folder} holds a LoRA adapter{base} ({found}), which is not read. Merge it into its model first "
        f"(peft: PeftModel.merge_and_unload, then save_pretrained) and set {option} to the result"
    )


def read_index(folder: Path, option: str) -> dict[str, str] | None:
    """The file of every tensor, by the folder's index; None where one file holds all. Opens no weights.

    Raises:
        ValueError: neither an index nor that file, or both, a broken index, or one that names files that are
            missing; an adapter, alone or beside the weights.
    """
    if is_adapter(folder):
        raise ValueError(
            f"{_adapter(folder, option)}; if the weights beside it are meant, remove the adapter."
        )
    index = folder / INDEX
    if index.is_file():
        files = read_json(index, option).get("weight_map")
        if not isinstance(files, dict) or not all(isinstance(name, str) for name in files.values()):
            raise ValueError(f"{index} ({option}) is no index of shards: it has no weight_map of file names.")
        names = sorted(set(files.values()))
        missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
        if missing:
            raise ValueError(
                f"{index} ({option}) names files that are missing: {some(missing)}"
                f"{_unfinished(folder) or '. Fetch them, or take the model anew'}."
            )
        if (folder / SINGLE).is_file() and SINGLE not in names:
            raise ValueError(
                f"{folder} ({option}) holds the weights twice, {SINGLE} and those of {INDEX} "
                f"({some(names)}), and programs differ in which they read. Remove one of the two."
            )
        return files
    if (folder / SINGLE).is_file():
        return None
    problem = f"{option} must hold *.safetensors, but {folder} has neither {SINGLE} nor an index ({INDEX})"
    if pickled := sorted(path.name for pattern in ("*.bin", "*.pt*") for path in folder.glob(pattern)):
        problem += "; pickled weights (*.bin, *.pt) can run code and are not read: save "
        problem += f"{some(pickled)} as safetensors. If you trust them: {_resave(folder)}"
        raise ValueError(problem)  # without a full stop that could be taken for a part of the command
    raise ValueError(f"{problem}{_unfinished(folder)}.")


def _resave(folder: Path) -> str:
    """A command that writes a folder's pickled weights as safetensors beside them."""
    return (
        'python -c "from transformers import AutoModelForCausalLM as M; import sys; folder = sys.argv[1]; '
        f"M.from_pretrained(folder, dtype='auto').save_pretrained(folder)\" {shlex.quote(str(folder))}"
    )


def read_tensors(folder: Path, option: str) -> dict[str, TensorInfo]:
    """Every tensor of the folder by its name, from the headers of all files.

    Not the buffers of rotary frequencies that older files hold: everybody computes them from config.json.

    Raises:
        ValueError: as read_index; a file is not in safetensors format, or lacks a tensor of the index.
    """
    files = read_index(folder, option)
    if files is None:
        tensors = _header(folder, SINGLE, option)
    else:
        headers = {name: _header(folder, name, option) for name in set(files.values())}
        for tensor, file in files.items():
            if tensor not in headers[file]:
                raise ValueError(
                    f"{INDEX} of {folder} ({option}) says that {file} holds {tensor}, but it does not"
                )
        tensors = {tensor: headers[file][tensor] for tensor, file in files.items()}
    return {name: info for name, info in tensors.items() if not name.endswith(_ROTARY_BUFFER)}


def _header(folder: Path, file: str, option: str) -> dict[str, TensorInfo]:
    path = folder / file
    refuse_pointer(path, option)
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
        name: TensorInfo(
            file,
            tuple(e["shape"]),
            e["dtype"],
            8 + length + e["data_offsets"][0],
            e["data_offsets"][1] - e["data_offsets"][0],
        )
        for name, e in entries.items()
    }


def some(names: Sequence[str]) -> str:
    """The first few names, and the number of others."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def fingerprint(folder: Path) -> str:
    """SHA-256 of the folder's weight files, in the order of their names; of a single file its own."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
