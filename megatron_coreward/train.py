"""Entry point and the only composition root.

    torchrun --nproc-per-node 2 -m megatron_coreward.train --config run.yaml [key.sub=value ...]
    python -m megatron_coreward.train --config run.yaml --dry-run

Exit codes: 0 the run reached its end, 2 the configuration or the data are not usable (one line says why),
3 the run was interrupted, saved a checkpoint and can be resumed, 4 a loss or gradient was not finite
(optimizer.nonfinite), 5 a rank stalled (run.stall_timeout_s).
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from megatron_coreward.actor.checkpoint.folder import Retention, latest_checkpoint, read_state, require_intact
from megatron_coreward.actor.model.precision import this_machine
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.precision import check_machine
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.diagnostics import diagnose
from megatron_coreward.coreward.rewards.registry import method_of, views_of
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.prompts import (
    EvaluationQuestion,
    build_pairs,
    build_questions,
    load_generation_config,
    load_tokenizer,
    stop_token_ids,
)
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.evaluation.outcomes import evaluate
from megatron_coreward.grading.grader import Grader
from megatron_coreward.phases.memory import check_memory_settings, make_room
from megatron_coreward.phases.table import PHASES
from megatron_coreward.preflight.checks import validate
from megatron_coreward.preflight.dry_run import show
from megatron_coreward.roles import Communicator, Policy, Reference, RolloutEngine, Teacher
from megatron_coreward.run.folder import CHECKPOINTS, HF_EXPORT, RunFolder
from megatron_coreward.run.watchdog import Watchdog, watching
from megatron_coreward.trainer import Observer, Trainer
from megatron_coreward.types import QuestionPair, View
from megatron_coreward.utils.distributed import TorchCommunicator, initialize, require_same, shutdown
from megatron_coreward.utils.folders import FolderLock, errors_on_all_ranks
from megatron_coreward.utils.logging import print_error, setup_logging
from megatron_coreward.utils.versions import versions

logger = logging.getLogger("megatron_coreward.train")  # __name__ is __main__ when it is run

UNUSABLE, INTERRUPTED, FAILED = 2, 3, 4
_OF_ONE_START = (("run", "resume"), ("run", "auto_resume"), ("run", "output_dir"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="megatron_coreward.train", description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, help="YAML file; see docs/config.md")
    parser.add_argument(
        "--dry-run", action="store_true", help="check everything, show the plan, build nothing"
    )
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="override one key")
    options = parser.parse_intermixed_args(arguments)

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        config = load_config(options.config, options.overrides)
        shape = validate(config, world_size)
        if options.dry_run:
            if rank == 0:
                show(config, shape, world_size)
            return 0
        check_memory_settings(config.memory)
        check_machine(config, this_machine(), os.environ)
        config = replace(config, model=replace(config.model, path=str(shape.folder)))  # a hub id's local copy
        setup_logging(rank)
        data = _load_data(config)
        comm = _join(config)
        claim = _claim(Path(config.run.output_dir), comm)
        resumed = _resume_point(config, comm)
        if config.model.checkpoint:
            require_intact(Path(config.model.checkpoint), comm)
    except ValueError as error:
        if rank == 0:
            print_error(error)
        return UNUSABLE
    code = run(config, data, resumed, comm)
    if claim is not None:
        claim.release()
    return code


@dataclass(frozen=True)
class RunData:
    """What is read before any model is built."""

    stop_ids: tuple[int, ...]
    pairs: list[QuestionPair]
    questions: list[EvaluationQuestion]


def _load_data(config: Config) -> RunData:
    """Tokenised pairs and evaluation questions. Raises ValueError for anything wrong with the data."""
    tokenizer = load_tokenizer(config.model.path, config.model.trust_remote_code)
    generation = load_generation_config(config.model.path, config.model.trust_remote_code)
    return RunData(
        stop_ids=stop_token_ids(tokenizer, generation),
        pairs=build_pairs(
            config,
            tokenizer,
            rephrased_needed=View.REPHRASED in views_of(config),
            truth_needed=method_of(config).truth,
            box_needed=method_of(config).graded,
        ),
        questions=build_questions(config, tokenizer),
    )


def _claim(output: Path, comm: Communicator) -> FolderLock | None:
    """Rank 0's hold on the run folder.

    Raises:
        ValueError: on every rank: another run is at work there.
    """
    with errors_on_all_ranks(comm):
        try:
            return FolderLock(output) if comm.rank == 0 else None
        except BlockingIOError as error:
            raise ValueError(f"run.output_dir: {error}. Wait for it, or choose another folder") from error


def _resume_point(config: Config, comm: Communicator) -> Path | None:
    """The checkpoint to go on from; None for a new run. A collective.

    Raises:
        ValueError: `run.resume` without an intact checkpoint. Starting anew would overwrite the old figures.
    """
    if not (config.run.resume or config.run.auto_resume):
        return None
    folder = Path(config.run.output_dir) / CHECKPOINTS
    found = latest_checkpoint(folder, comm)
    if found is None and config.run.resume:
        raise ValueError(
            f"run.resume=true, but {folder} holds no intact checkpoint; start anew in another run.output_dir"
        )
    return found


def _join(config: Config) -> Communicator:
    """Waits for the other ranks, which have then made the same checks, and compares what they run.

    Raises:
        ValueError: a rank has another configuration, which would hang in the others' collectives, or another
            version of a package.
    """
    initialize()
    comm = TorchCommunicator()
    keys = {f"{section}.{key}": v for section, keys in asdict(config).items() for key, v in keys.items()}
    require_same(comm, keys, "give all ranks the same --config and overrides")
    require_same(comm, versions(), "install the same packages on all nodes")
    return comm


def run(config: Config, data: RunData, resumed: Path | None, comm: Communicator) -> int:
    """Builds every part, trains, exports. A collective over all ranks."""
    # Imported here, since a dry run and a refused configuration need neither megatron nor vllm.
    from megatron_coreward.actor.export import export_hf
    from megatron_coreward.actor.parallel import initialize as initialize_parallel
    from megatron_coreward.actor.policy import MegatronPolicy
    from megatron_coreward.actor.reference import MegatronReference
    from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
    from megatron_coreward.actor.teacher import MegatronTeacher
    from megatron_coreward.rollout.engine import VllmEngine

    output = Path(config.run.output_dir)
    console = setup_logging(comm.rank, output)
    layout = initialize_parallel(config.parallel)
    sampler = PairSampler(data.pairs, config.data.batch_pairs, config.data.shuffle, config.run.seed)
    total_steps = config.run.steps or config.run.epochs * sampler.steps_per_epoch
    policy = MegatronPolicy(config, layout, comm, total_steps * config.algorithm.updates_per_batch)
    teacher = MegatronTeacher(config, layout, policy) if method_of(config).teacher else None
    reference: Reference | None = None
    if config.algorithm.kl_coef > 0:
        reference = teacher or MegatronReference(config, layout)
    keep = Retention(config.checkpoint.keep_last, config.checkpoint.keep_every, config.checkpoint.keep_best)
    saver = CheckpointSaver(
        output / CHECKPOINTS, policy, keep, teacher=teacher, in_background=config.checkpoint.async_save
    )
    state = load_checkpoint(resumed, policy, teacher) if resumed else None
    make_room(config.memory, policy, teacher or reference, PHASES["rollout"])
    engine = VllmEngine(config, config.model.path, data.stop_ids, config.run.seed)
    grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)
    with (
        watching(config.run.stall_timeout_s) as watchdog,
        RunFolder(config, comm, console, total_steps, state, saver) as folder,
    ):
        roles = Roles(policy, reference, teacher, engine, folder, watchdog)
        trainer = _trainer(config, data, roles, grader, sampler, comm, total_steps)
        if resumed and state:
            trainer.load_state_dict(state)
            logger.info("resumed after step %d from %s", trainer.step, resumed)
            _warn_of_changes(read_state(resumed)["config"], asdict(config))
        code = _fit(trainer)
        saver.finish()
        folder.on_phase("export")
        watchdog.enter(trainer.step, "export")
        if code == 0 and config.run.export_hf:
            export_hf(policy, Path(config.model.path), output / HF_EXPORT)
    if code == 0:
        logger.info("done: %s", output)
    grader.close()
    engine.close()
    shutdown()
    return code


def _fit(trainer: Trainer) -> int:
    """Trains; the program's exit code."""
    try:
        if trainer.fit():
            return 0
    except FloatingPointError as error:  # on every rank
        logger.error("%s", error)
        return FAILED
    logger.warning("stopped after step %d; go on with: run.resume=true", trainer.step)
    return INTERRUPTED


def _warn_of_changes(before: dict[str, Any], now: dict[str, Any]) -> None:
    """Names the keys that differ from those of the run that saved the checkpoint."""
    for section, keys in now.items():
        for key, value in keys.items():
            old = before.get(section, {}).get(key)
            if old != value and (section, key) not in _OF_ONE_START:
                logger.warning(
                    "%s.%s is now %r; it was %r when the checkpoint was saved", section, key, value, old
                )


@dataclass(frozen=True)
class Roles:
    """What has been built for a run."""

    policy: Policy
    reference: Reference | None
    teacher: Teacher | None
    engine: RolloutEngine
    observer: Observer
    watchdog: Watchdog


def _trainer(
    config: Config,
    data: RunData,
    roles: Roles,
    grader: Grader,
    sampler: PairSampler,
    comm: Communicator,
    total_steps: int,
) -> Trainer:
    """Puts the parts together."""
    method, engine = method_of(config), roles.engine
    truths = {pair.pair_id: pair.answer for pair in data.pairs if pair.answer}
    stage = CoRewardStage(comm, grader, config, truths if method.truth else None)
    by_id = {pair.pair_id: pair for pair in data.pairs}
    return Trainer(
        config=config,
        policy=roles.policy,
        reference=roles.reference,
        teacher=roles.teacher,
        rollout=engine,
        reward_stage=stage,
        objective=GrpoObjective(config.algorithm),
        sampler=sampler,
        comm=comm,
        observer=roles.observer,
        watchdog=roles.watchdog,
        evaluate=partial(evaluate, engine, comm, data.questions, config, grader) if data.questions else None,
        diagnose=lambda scored: diagnose(scored, by_id, stage, grader, method, comm),
        total_steps=total_steps,
    )


if __name__ == "__main__":
    sys.exit(main())
