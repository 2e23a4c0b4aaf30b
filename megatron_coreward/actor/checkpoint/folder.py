"""A checkpoint's folder: its files, whether they are complete, and which checkpoints are kept. No torch.

    CHECKPOINTS/step_000010/   *.distcp, .metadata, common.pt, metadata.json   Megatron's dist_checkpointing
                               hf/          config, generation config, tokenizer, coreward.json: what an
                                            export needs
                               state.json   ours, written last: step, contents, sizes and checksums, ...
                .step_000011.*.tmp          being written; what a crash leaves is removed at the next save
                .step_000010.replaced       the older of two checkpoints of a step, for the moment of renaming

A checkpoint is complete when its state.json can be read and every file has the size noted there, and
undamaged when the checksums agree too. Which one is the latest is decided by looking, not by a pointer file.
"""

import json
import logging
import re
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.config.chat_template import CHAT_TEMPLATE_FILE
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.run_settings import RunSettings, read_run_settings
from megatron_coreward.roles import Communicator
from megatron_coreward.utils import run_names
from megatron_coreward.utils.folders import errors_on_all_ranks

logger = logging.getLogger(__name__)

STATE_FILE = run_names.STATE_FILE
FORMAT = 2
HF_FILES = "hf"
PROBE = "probe"
"""The rating by the probe of a run, which grows with collapse as well: of equal ones the earlier is safer."""
_CARRIED = ("*.json", "*.txt", "*.model", "*.jinja")
_NAME = re.compile(r"step_(\d+)|\.step_(\d+)\.replaced")
_BLOCK = 1 << 20


def read_state(path: Path) -> dict[str, Any]:
    """The content of state.json.

    Raises:
        ValueError: `path` is not a checkpoint of this format.
    """
    try:
        state = json.loads((path / STATE_FILE).read_text())
        version = state["format"]
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{path} is no checkpoint: {STATE_FILE} is missing") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise ValueError(f"{path} is no usable checkpoint: {STATE_FILE} is damaged") from None
    if version != FORMAT:
        raise ValueError(
            f"{path} is no usable checkpoint: {STATE_FILE} has format {version}, and this version reads "
            f"format {FORMAT}"
        )
    return state


def write_state(path: Path, state: dict[str, Any], measured: dict[str, dict[str, int]]) -> None:
    """Completes the checkpoint in `path`. `measured` are the measures that are known already."""
    names = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    files = measured | measure(path, [name for name in names if name not in measured])
    (path / STATE_FILE).write_text(json.dumps({"format": FORMAT, **state, "files": files}, indent=1))


def saved_sizes(shape: ModelShape) -> dict[str, Any]:
    """The model's sizes as `dims` of state.json has them; dense models have no `experts` there."""
    sizes = {
        "num_layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab": shape.vocab,
        "tied": shape.tied,
    }
    return sizes | ({"experts": shape.experts} if shape.experts else {})


def other_model(path: Path, difference: str) -> ValueError:
    """The error about a checkpoint whose model is not that of model.path."""
    return ValueError(
        f"{path} is of another model than model.path: {difference}. Set model.path to the model that the "
        "checkpoint was made from, or choose another checkpoint (run.output_dir, model.checkpoint)"
    )


def measure(path: Path, names: Iterable[str]) -> dict[str, dict[str, int]]:
    """Size and CRC-32 of files of the folder `path`."""
    return {name: {"bytes": (path / name).stat().st_size, "crc32": _crc32(path / name)} for name in names}


def _crc32(file: Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def copy_hf_files(source: Path, target: Path, chat_template: str = "") -> None:
    """Copies everything of a Hugging Face folder but its weights: configs, tokenizer, chat template.

    The text `chat_template` takes the place of the folder's own.
    """
    target.mkdir(exist_ok=True)
    for pattern in _CARRIED:
        for file in source.glob(pattern):
            if not file.name.endswith(".index.json"):
                shutil.copyfile(file, target / file.name)
    if chat_template:
        (target / CHAT_TEMPLATE_FILE).write_text(chat_template, encoding="utf-8")


def run_settings(checkpoint: Path) -> RunSettings | None:
    """What a checkpoint carries of its run; None if it is of no run.

    Checkpoints of 0.1 have no coreward.json, and are asked for the configuration in their state.json.
    """
    saved = read_run_settings(checkpoint / HF_FILES)
    config = read_state(checkpoint)["config"]
    return saved or (RunSettings.of_saved(config) if config else None)


def find_problem(path: Path) -> str | None:
    """The reason why `path` is not a complete checkpoint, by names and sizes; None if it is one."""
    try:
        files = read_state(path)["files"]
    except ValueError as error:
        return str(error).removeprefix(f"{path} ")
    for name, expected in files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != expected["bytes"]:
            return f"{name} has {file.stat().st_size} bytes instead of {expected['bytes']}"
    return None


def find_damage(path: Path, comm: Communicator) -> str | None:
    """Like find_problem, but reads every file; the ranks share the work. A collective, one answer for all."""
    problem = comm.broadcast(find_problem(path) if comm.rank == 0 else None)
    if problem:
        return problem
    files = read_state(path)["files"]
    largest_first = sorted(files, key=lambda name: (-files[name]["bytes"], name))
    damaged = None
    for name in largest_first[comm.rank :: comm.world_size]:
        damaged = _damage(path, name, files[name]["crc32"])
        if damaged:
            break
    return next((problem for problem in comm.all_gather(damaged) if problem), None)


def _damage(path: Path, name: str, checksum: int) -> str | None:
    try:
        if _crc32(path / name) == checksum:
            return None
    except OSError as error:  # of this rank alone: the others would wait for it
        return f"{name} cannot be read ({error.strerror})"
    return f"{name} does not have the checksum it was written with; its content has changed"


def require_intact(path: Path, comm: Communicator) -> None:
    """Raises ValueError, on every rank, unless the checkpoint is complete and undamaged. A collective."""
    problem = find_damage(path, comm)
    if problem:
        raise ValueError(f"the checkpoint {path} cannot be used: {problem}. Take another one")


def latest_checkpoint(folder: Path, comm: Communicator) -> Path | None:
    """The intact checkpoint of the highest step, if any; others are named in a warning. A collective."""
    for path in comm.broadcast(list(reversed(_by_step(folder))) if comm.rank == 0 else None):
        problem = find_damage(path, comm)
        if problem is None:
            return path
        logger.warning("skipping the checkpoint %s: %s", path, problem)
    return None


def _by_step(folder: Path) -> list[Path]:
    """Checkpoints, complete or not, oldest first; of two of one step the replaced one comes first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    steps = [(int(match[1] or match[2]), path.name, path) for match, path in matches if match]
    return [path for _, _, path in sorted(steps)]


@dataclass(frozen=True)
class Retention:
    """Rules for the checkpoints that stay: those that any of the three wants. All 0 keeps everything."""

    last: int
    """This many of the newest; 0 = all of them."""
    every: int = 0
    """Those whose step is a multiple; 0 = none for this reason."""
    best: int = 0
    """This many of those with the highest rating `best_by`; of equal ones the newer, by PROBE the earlier."""
    best_by: str = "agreement"
    """The name of a rating, as in `ratings` of state.json."""


def prune(folder: Path, retention: Retention, comm: Communicator) -> None:
    """Deletes the complete checkpoints that no rule keeps. A collective; rank 0 acts.

    Incomplete ones newer than the newest complete one are left for a person to look at; older ones go.
    """
    with errors_on_all_ranks(comm):
        if comm.rank == 0 and retention.last > 0:
            _delete(folder, _kept(folder, retention))


def _kept(folder: Path, retention: Retention) -> set[Path]:
    paths = _by_step(folder)
    states = {path: read_state(path) for path in paths if find_problem(path) is None}
    complete = list(states)
    newest = complete[-retention.last :]
    kept = set(newest)
    if newest:
        kept |= set(paths[paths.index(newest[-1]) :])
    if retention.every:
        kept |= {path for path in complete if states[path]["step"] % retention.every == 0}
    if retention.best:
        kept |= {path for path, _ in _rated(states, retention.best_by)[-retention.best :]}
    return kept if complete else set(paths)


def _rated(states: Mapping[Path, dict[str, Any]], by: str) -> list[tuple[Path, float]]:
    """The checkpoints that have a rating `by`, lowest first; `states` are in order of steps."""
    rated = [(path, ratings_of(state)[by]) for path, state in states.items() if by in ratings_of(state)]
    return sorted(reversed(rated) if by == PROBE else rated, key=lambda item: item[1])


def ratings_of(state: Mapping[str, Any]) -> dict[str, float]:
    """The ratings in a state.json, by name. Version 0.1 had the agreement only, and called it `signal`."""
    if "ratings" in state:
        return state["ratings"]
    return {} if state["signal"] is None else {"agreement": state["signal"]}


def best_checkpoint(folder: Path, by: str) -> tuple[Path, float] | None:
    """The complete checkpoint with the highest rating `by`, and that rating; None if none has one."""
    states = {path: read_state(path) for path in _by_step(folder) if find_problem(path) is None}
    return next(reversed(_rated(states, by)), None)


def _delete(folder: Path, kept: set[Path]) -> None:
    for path in _by_step(folder):
        if path not in kept:
            # Renamed first, so that a deletion cut short leaves no half checkpoint under its name.
            doomed = path.rename(folder / f".{path.name.lstrip('.')}.tmp")
            shutil.rmtree(doomed)
