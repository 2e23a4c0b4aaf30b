"""Saves and loads the policy with all that a run needs to go on; any layout can load what another saved.

A checkpoint holds the model, the teacher's average if there is one, the optimizer's moments and step count,
the number of updates (from which the learning rate follows), and the trainer's state: step, sampler, position
in the metrics file, wandb id. There is no random state to keep: the actor draws no random numbers, and every
request's seed follows from the run's seed and its place in it. Adam's settings (betas, weight decay, ...)
always come from the configuration of the run that loads.

Saving blocks for a moment and copies only what is on a GPU (checkpoint/background.py); the checkpoint gets
its name by one rename, when all of it is on disk and its state.json is written, and nothing earlier is
deleted before. The folder must be one that all ranks see.
"""

import logging
import shutil
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import is_main_replica
from megatron.core.dist_checkpointing.utils import force_all_tensors_to_non_fp8
from torch.distributed.checkpoint.api import CheckpointException

from megatron_coreward.actor.checkpoint.background import ShardWriting
from megatron_coreward.actor.checkpoint.folder import (
    HF_FILES,
    Retention,
    copy_hf_files,
    find_problem,
    prune,
    read_state,
    saved_sizes,
    write_state,
)
from megatron_coreward.actor.checkpoint.model_state import (
    CONTENTS_MODEL,
    CONTENTS_OPTIMIZER,
    CONTENTS_TEACHER,
    check_model,
    load_model_state,
    sharded_model,
    sharded_tensors,
)
from megatron_coreward.actor.checkpoint.optimizer_state import load_optimizer_state, sharded_optimizer_state
from megatron_coreward.actor.device import actor_device
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.teacher import REST, REST_PREFIX, MegatronTeacher
from megatron_coreward.config.run_settings import RunSettings
from megatron_coreward.utils.folders import errors_on_all_ranks, publish
from megatron_coreward.utils.versions import versions

logger = logging.getLogger(__name__)


@dataclass
class _Save:
    """A checkpoint that is being written."""

    target: Path
    new: Path
    state: dict[str, Any]
    settings: RunSettings
    writing: ShardWriting
    started: float


class CheckpointSaver:
    """Writes FOLDER/step_NNNNNN and deletes what `retention` does not keep.

    With `in_background` a save overlaps the next step: it is complete when `poll`, which costs a tiny
    collective while one is under way, or `finish` has found it so. Otherwise `save` waits. Every method is a
    collective over all ranks. `stop_ids` are the tokens that end the run's responses.
    """

    def __init__(
        self,
        folder: Path,
        policy: MegatronPolicy,
        retention: Retention,
        teacher: MegatronTeacher | None = None,
        *,
        in_background: bool = False,
        stop_ids: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        self.policy = policy
        self.teacher = teacher
        self.comm = policy.comm
        self.retention = retention
        self.in_background = in_background
        self._settings = RunSettings.of(policy.config, stop_ids)
        self._current: _Save | None = None

    def save(
        self, step: int, trainer_state: dict[str, Any], ratings: Mapping[str, float] | None = None
    ) -> None:
        """Begins the checkpoint of `step`, after the one before it is complete.

        `trainer_state` goes through JSON: tuples come back as lists, and keys as strings. `ratings` rate
        the checkpoint for Retention.best, by name. A checkpoint of the same step is replaced.

        Raises:
            OSError: on every rank; what was there before is intact, and what was half written is removed.
        """
        self.finish()
        target = self.folder / f"step_{step:06d}"
        # A name of its own: the orphaned writers of a killed run may still be at work in their folder.
        new = target.with_name(f".{target.name}.{self.comm.broadcast(uuid.uuid4().hex[:8])}.tmp")
        started = time.perf_counter()
        with actor_device():
            sharded = sharded_state(self.policy, self.teacher)
            bytes_here = sum(t.data.nbytes for t in sharded_tensors(sharded) if is_main_replica(t.replica_id))
        total_bytes = sum(self.comm.all_gather(bytes_here))
        with errors_on_all_ranks(self.comm):
            if self.comm.rank == 0:
                _make_room(self.folder, new, total_bytes)
        contents = [CONTENTS_MODEL, CONTENTS_OPTIMIZER, *([CONTENTS_TEACHER] if self.teacher else [])]
        state = describe(step, self.policy, contents) | {
            "trainer": trainer_state,
            "ratings": dict(ratings or {}),
        }
        with self._failures(new, step), actor_device():
            writing = ShardWriting(sharded, new, self.comm)
        for role in (self.policy, self.teacher):
            if role is not None:
                role.lend(writing.writer)
        self._current = _Save(target, new, state, self._settings, writing, started)
        if not self.in_background:
            self.finish()

    def poll(self) -> None:
        """Completes the checkpoint if it is written; does not wait. Raises OSError as `save` does."""
        self._advance(wait=False)

    def finish(self) -> None:
        """Waits for the checkpoint that is being written, if any. Raises OSError as `save` does."""
        self._advance(wait=True)

    def _advance(self, wait: bool) -> None:
        current = self._current
        if current is None:
            return
        self._current = None
        with self._failures(current.new, current.state["step"]), actor_device():
            done = current.writing.is_done(wait)
        if not done:
            self._current = current
            return
        files: dict[str, dict[str, int]] = {}
        for part in self.comm.all_gather(current.writing.files()):
            files |= part
        with errors_on_all_ranks(self.comm):
            if self.comm.rank == 0:
                _complete(current, files)
        logger.info(
            "%s is complete, %.1f s after its begin", current.target, time.perf_counter() - current.started
        )
        prune(self.folder, self.retention, self.comm)

    @contextmanager
    def _failures(self, new: Path, step: int) -> Iterator[None]:
        """Turns every failure of writing into one OSError, and removes the half-written folder."""
        try:
            yield
        except (CheckpointException, OSError, RuntimeError) as error:
            # A shard that cannot be written fails on every rank. The small files are rank 0's alone: then the
            # others wait in a collective until rank 0 has left, which torchrun answers by ending them all.
            if self.comm.rank == 0:
                shutil.rmtree(new, ignore_errors=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} "
                f"({_free_mib(self.folder)} MiB free): {_reason(error)}. Earlier checkpoints are intact; "
                "free space there or set run.output_dir to another disk, then resume"
            ) from error


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
        return "; ".join(failures)
    return str(error)


def describe(step: int, policy: MegatronPolicy, contents: list[str]) -> dict[str, Any]:
    """The content of state.json for a policy's checkpoint, without what the trainer adds."""
    layout = policy.layout
    return {
        "step": step,
        "num_updates": policy.num_updates,
        "contents": contents,
        "architecture": policy.model.shape.architecture,
        "dims": saved_sizes(policy.model.shape),
        "layout": {"tensor": layout.tp_size, "pipeline": layout.pp_size, "data": layout.dp_size},
        "config": asdict(policy.config),
        "versions": versions(),
    }


def _complete(save: _Save, files: dict[str, dict[str, int]]) -> None:
    """Rank 0's end of a save: the small files, state.json, and the name."""
    try:
        model = save.state["config"]["model"]
        copy_hf_files(Path(model["path"]), save.new / HF_FILES, model["chat_template"])
        save.settings.write(save.new / HF_FILES)
        write_state(save.new, save.state, files)
        problem = find_problem(save.new)
        if problem:
            raise OSError(f"{save.new} was written but {problem}; do all nodes see this folder?")
        publish(save.new, save.target)
    except OSError:
        shutil.rmtree(save.new, ignore_errors=True)
        raise


def load_checkpoint(
    path: Path, policy: MegatronPolicy, teacher: MegatronTeacher | None = None
) -> dict[str, Any]:
    """Fills the policy (weights, Adam, update count) and the teacher; returns the trainer's state.

    The layout may differ from the one that saved. A collective.

    Raises:
        ValueError: on every rank, before the policy is touched: the checkpoint is incomplete, of another
            model, or has no optimizer or no teacher.
    """
    with errors_on_all_ranks(policy.comm):
        problem = find_problem(path)
        if problem:
            raise ValueError(
                f"{path} is not a complete checkpoint: {problem}. Move it away, and the newest complete one "
                "is used"
            )
        saved = read_state(path)
        if CONTENTS_OPTIMIZER not in saved["contents"]:
            raise ValueError(
                f"{path} holds weights only and no run can go on from it; start one from it with "
                "model.checkpoint"
            )
        if teacher is not None and CONTENTS_TEACHER not in saved["contents"]:
            raise ValueError(
                f"{path} has no teacher, which this run's reward.method needs; resume with the method that "
                "it was saved with, or start a run from it with model.checkpoint"
            )
    with actor_device():
        state = sharded_state(policy, teacher, is_loading=True)
        if teacher is not None and not has_teacher_rest(path):
            state["teacher"] = {n: t for n, t in state["teacher"].items() if not n.startswith(REST)}
        check_model(path, state, policy.model.shape)
        loaded = dist_checkpointing.load(state, str(path))
        load_model_state(policy.model.module, loaded["model"])
        load_optimizer_state(policy.optimizer, loaded["optimizer"])
        if teacher is not None:
            teacher.load_state(loaded["teacher"])
    policy.num_updates = saved["num_updates"]
    return saved["trainer"]


def has_teacher_rest(path: Path) -> bool:
    """Checkpoints of 0.1 have the teacher's average alone."""
    return any(key.startswith(REST_PREFIX) for key in dist_checkpointing.load_tensors_metadata(str(path)))


def sharded_state(
    policy: MegatronPolicy, teacher: MegatronTeacher | None = None, *, is_loading: bool = False
) -> dict[str, Any]:
    """All that is sharded as Megatron's sharded tensors; both saving and loading walk it. A collective."""
    policy.settle()
    model = sharded_model(policy.model.module)
    optimizer = sharded_optimizer_state(
        policy.optimizer, model, policy.optimizer_tensor, is_loading=is_loading
    )
    force_all_tensors_to_non_fp8(model)  # after the optimizer's, which looks parameters up in it
    return {
        "model": model,
        "optimizer": optimizer,
        **({"teacher": teacher.sharded_state()} if teacher is not None else {}),
    }
