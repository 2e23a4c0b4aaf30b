"""Checkpoints of the actor and the trainer that any layout can load.

    FOLDER/step_000010/   *.distcp, .metadata, common.pt, metadata.json    megatron.core.dist_checkpointing
                          state.json    ours: step, updates, trainer, config, versions, size of every file
           .step_000011.tmp             being written; what a crash leaves is removed at the next save
           .step_000010.replaced        the older one of two checkpoints of a step, for the moment of renaming

A checkpoint gets its name by one rename, when all of it is on disk, and nothing earlier is deleted before.
A folder counts as complete when its state.json can be read and every file has the size noted there.

Adam's moments and step count come from the checkpoint; its settings (betas, weight decay, ...) always come
from the configuration of the run that loads. The actor draws no random numbers, so there are none to keep.

`dist_checkpointing.save` starts a helper process that imports `__main__`: entry points need
`if __name__ == "__main__"`. The folder must be one that all ranks see.
"""

import json
import logging
import platform
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.dict_utils import nested_values
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory, is_main_replica
from megatron.core.dist_checkpointing.strategies import filesystem_async
from torch.distributed.checkpoint.api import CheckpointException

import megatron_coreward
from megatron_coreward.actor.cpu import actor_device
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.folders import errors_on_all_ranks, publish, temporary_name

logger = logging.getLogger(__name__)

STATE_FILE = "state.json"
FORMAT = 1
_NAME = re.compile(r"step_(\d+)|\.step_(\d+)\.replaced")


def save_checkpoint(
    folder: Path, step: int, policy: MegatronPolicy, trainer_state: dict[str, Any], comm: Communicator
) -> Path:
    """Writes `folder`/step_NNNNNN; returns its path. A collective over all ranks.

    `trainer_state` goes through JSON: tuples come back as lists, and keys as strings. A checkpoint of the
    same step is replaced.

    Raises:
        OSError: on every rank; what was there before is intact, and what was half written is removed.
    """
    target = folder / f"step_{step:06d}"
    new = temporary_name(target)
    with actor_device():
        state = _sharded_state(policy)
        bytes_here = sum(t.data.nbytes for t in _tensors(state) if is_main_replica(t.replica_id))
    total_bytes = sum(comm.all_gather(bytes_here))
    with errors_on_all_ranks(comm):
        if comm.rank == 0:
            _make_room(folder, new, total_bytes)
    try:
        with actor_device(), _undisturbed_writers():
            dist_checkpointing.save(state, str(new))
    except (CheckpointException, OSError, RuntimeError) as error:
        # A shard that cannot be written fails on every rank. The small files are rank 0's alone: then the
        # others wait in a collective until rank 0 has left, which torchrun answers by ending them all.
        if comm.rank == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise OSError(
            f"the checkpoint of step {step} could not be written to {folder} ({_free_mib(folder)} MiB free): "
            f"{_reason(error)}. Earlier checkpoints are intact; free space there or set run.output_dir to "
            "another disk, then resume"
        ) from error
    files = _file_sizes(new, comm)
    with errors_on_all_ranks(comm):
        if comm.rank == 0:
            _finish(new, target, _state(step, policy, trainer_state, files))
    return target


@contextmanager
def _undisturbed_writers() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back while Megatron's writer processes live.

    torchrun sends signals to the whole process group. Children inherit a blocked signal, so the writers
    finish; this process sees it afterwards. Megatron would also keep its manager process from one save to
    the next: the signal that asks for a last checkpoint would end it, and that checkpoint would fail.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        filesystem_async._results_queue = None
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_room(folder: Path, new: Path, num_bytes: int) -> None:
    for leftover in folder.glob(".step_*.tmp"):
        logger.info("removing %s, which an interrupted save left behind", leftover)
        shutil.rmtree(leftover)
    new.mkdir(parents=True)
    if shutil.disk_usage(folder).free < num_bytes:
        new.rmdir()
        raise OSError(
            f"a checkpoint needs {num_bytes // 2**20} MiB and {folder} has {_free_mib(folder)} MiB free; "
            "free space, lower checkpoint.keep_last or set run.output_dir to another disk"
        )


def _free_mib(folder: Path) -> int:
    return shutil.disk_usage(folder).free // 2**20


def _reason(error: BaseException) -> str:
    """One line; torch wraps the errors of writing processes together with their tracebacks."""
    if isinstance(error, CheckpointException):
        failures = [f"rank {rank}: {wrapped[0]}".splitlines()[0] for rank, wrapped in error.failures.items()]
        return "; ".join(failures) or "another rank failed"
    return str(error)


def _file_sizes(new: Path, comm: Communicator) -> dict[str, int]:
    """Every file's size, measured by the rank that wrote it."""
    mine = list(new.glob(f"__{comm.rank}_*"))
    if comm.rank == 0:
        mine += [path for path in new.iterdir() if not path.name.startswith("__")]
    sizes: dict[str, int] = {}
    for part in comm.all_gather({path.name: path.stat().st_size for path in mine}):
        sizes.update(part)
    return sizes


def _state(
    step: int, policy: MegatronPolicy, trainer_state: dict[str, Any], files: dict[str, int]
) -> dict[str, Any]:
    layout = policy.layout
    return {
        "format": FORMAT,
        "step": step,
        "num_updates": policy.num_updates,
        "architecture": policy.model.family.architecture,
        "dims": _dims(policy),
        "layout": {"tensor": layout.tp_size, "pipeline": layout.pp_size, "data": layout.dp_size},
        "trainer": trainer_state,
        "config": asdict(policy.config),
        "versions": {
            "python": platform.python_version(),
            "megatron_coreward": megatron_coreward.__version__,
            **{package: version(package) for package in ("torch", "megatron-core", "transformers")},
        },
        "files": files,
    }


def _finish(new: Path, target: Path, state: dict[str, Any]) -> None:
    try:
        (new / STATE_FILE).write_text(json.dumps(state, indent=1))
        problem = find_problem(new)
        if problem:
            raise OSError(f"{new} was written but {problem}; do all nodes see this folder?")
        publish(new, target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise


def find_problem(path: Path) -> str | None:
    """What keeps `path` from being a complete checkpoint; None if nothing does."""
    try:
        state = json.loads((path / STATE_FILE).read_text())
        found_format, files = state["format"], state["files"]
    except FileNotFoundError:
        return f"{STATE_FILE} is missing"
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        return f"{STATE_FILE} is damaged"
    if found_format != FORMAT:
        return f"{STATE_FILE} has format {found_format}, and this version reads format {FORMAT}"
    for name, size in files.items():
        file = path / name
        if not file.exists():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, if any; incomplete ones are named in a warning."""
    for path in reversed(_by_step(folder)):
        problem = find_problem(path)
        if problem is None:
            return path
        logger.warning("skipping the incomplete checkpoint %s: %s", path, problem)
    return None


def _by_step(folder: Path) -> list[Path]:
    """Checkpoints, complete or not, oldest first; of two of one step the replaced one comes first."""
    if not folder.is_dir():
        return []
    matches = [(_NAME.fullmatch(path.name), path) for path in folder.iterdir()]
    steps = [(int(match[1] or match[2]), path.name, path) for match, path in matches if match]
    return [path for _, _, path in sorted(steps)]


def prune(folder: Path, keep_last: int) -> None:
    """Deletes what is older than the newest `keep_last` complete checkpoints; 0 keeps all.

    May be called on every rank: rank 0 acts. Newer incomplete ones are left for a person to look at.
    """
    if keep_last == 0 or (torch.distributed.is_initialized() and torch.distributed.get_rank() != 0):
        return
    num_complete = 0
    for path in reversed(_by_step(folder)):
        if num_complete < keep_last:
            num_complete += find_problem(path) is None
        else:
            # Renamed first, so that a deletion cut short leaves no half checkpoint under its name.
            doomed = path.rename(folder / f".{path.name.lstrip('.')}.tmp")
            shutil.rmtree(doomed)


def load_checkpoint(path: Path, policy: MegatronPolicy) -> dict[str, Any]:
    """Fills the policy (weights, Adam, update count) from `path`; returns the trainer's state. A collective.

    The layout may differ from the one that saved.

    Raises:
        ValueError: on every rank, before the policy is touched: the checkpoint is incomplete, or of another
            model.
    """
    with errors_on_all_ranks(policy.comm):
        problem = find_problem(path)
        if problem:
            raise ValueError(
                f"{path} is not a complete checkpoint: {problem}. Move it away, and the newest complete one "
                "is used"
            )
        saved = json.loads((path / STATE_FILE).read_text())
    with actor_device():
        state = _sharded_state(policy)
        _check_model(path, saved, policy, state)
        loaded = dist_checkpointing.load(state, str(path))
        policy.model.module.load_state_dict(loaded["model"])
        settings = [
            {key: value for key, value in group.items() if key not in ("params", "step")}
            for group in policy.optimizer.param_groups
        ]
        policy.optimizer.load_state_dict(loaded["optimizer"])
        for group, own in zip(policy.optimizer.param_groups, settings, strict=True):
            group.update(own)
    policy.num_updates = saved["num_updates"]
    return saved["trainer"]


def _sharded_state(policy: MegatronPolicy) -> dict[str, Any]:
    """Model and optimizer as Megatron's sharded tensors; both saving and loading walk it."""
    model = policy.model.module.sharded_state_dict()
    optimizer = policy.optimizer.sharded_state_dict(model)
    adam = optimizer.get("optimizer", optimizer)  # with bfloat16 the float32 weights are beside it
    # Megatron leaves out a step count of 0, and Adam could not take its first step after loading.
    adam["state"].setdefault("common_step", torch.tensor(0.0))
    return {"model": model, "optimizer": optimizer}


def _tensors(state: dict[str, Any]) -> Iterator[ShardedTensor]:
    """The tensors of a sharded state, those cut in pieces (the gated MLP) as their pieces."""
    for value in nested_values(state):
        if isinstance(value, ShardedTensorFactory):
            yield from _tensors({"pieces": value.build()})
        elif isinstance(value, ShardedTensor):
            yield value


def _dims(policy: MegatronPolicy) -> dict[str, Any]:
    """The model's sizes without the padding of the vocabulary, which depends on the layout."""
    return {key: value for key, value in asdict(policy.model.dims).items() if key != "padded_vocab"}


def _check_model(path: Path, saved: dict[str, Any], policy: MegatronPolicy, state: dict[str, Any]) -> None:
    """Raises ValueError unless the checkpoint is of this policy's model.

    Both sizes and tensors are compared: equal shapes may hide other heads (two of 64 for four of 32), and
    the sizes do not tell everything.
    """
    wanted: dict[str, Any] = {"architecture": policy.model.family.architecture, **_dims(policy)}
    found = {"architecture": saved["architecture"], **saved["dims"]}
    # The rows of a vocabulary are padded to the layout; their true number is among the sizes.
    skipped_axes = {}
    for part in policy.comm.all_gather(
        {t.key: (int(t.allow_shape_mismatch), t.global_shape) for t in _tensors(state)}
    ):
        for name, (skip, shape) in part.items():
            skipped_axes[name] = skip
            wanted[name] = tuple(shape[skip:])
    for name, tensor in dist_checkpointing.load_tensors_metadata(str(path)).items():
        found[name] = tuple(tensor.global_shape[skipped_axes.get(name, 0) :])
    for name in [*wanted, *found]:
        old, new = found.get(name, "absent"), wanted.get(name, "absent")
        if old != new:
            raise ValueError(
                f"{path} is of another model than model.path={policy.config.model.path}: {name} is {old} in "
                f"the checkpoint and {new} in the model. Set model.path to the model that the run was "
                "started from, or run.output_dir to another folder"
            )
