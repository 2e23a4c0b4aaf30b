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
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_coreward.actor.checkpoint.folder import Retention, read_state, require_intact
from megatron_coreward.actor.checkpoint.inspect import check_start
from megatron_coreward.actor.model.precision import this_machine
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import check_machine
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.diagnostics import diagnose
from megatron_coreward.coreward.rewards.registry import method_of, views_of
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.prompts import (
    EvaluationQuestion,
    build_pairs,
    build_questions,
    evaluation_questions,
    load_generation_config,
    load_tokenizer,
    pair_records,
    stop_token_ids,
)
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.evaluation.outcomes import evaluate
from megatron_coreward.grading.grader import Grader
from megatron_coreward.phases.memory import check_memory_settings, make_room
from megatron_coreward.phases.table import PHASES
from megatron_coreward.preflight.checks import validate, validate_plan
from megatron_coreward.preflight.dry_run import show
from megatron_coreward.preflight.files import (
    check_free_space,
    check_kv_cache,
    check_stop_ids,
    check_token_ids,
    check_transformers_reads,
    check_weights,
)
from megatron_coreward.roles import Communicator
from megatron_coreward.run.folder import RunFolder
from megatron_coreward.run.start import claim, join, resume_point, warn_of_changes
from megatron_coreward.run.watchdog import watching
from megatron_coreward.trainer import Trainer
from megatron_coreward.types import QuestionPair, View
from megatron_coreward.utils.distributed import shutdown
from megatron_coreward.utils.logging import print_error, setup_logging
from megatron_coreward.utils.run_names import CHECKPOINTS, HF_EXPORT

if TYPE_CHECKING:
    from megatron_coreward.actor.policy import MegatronPolicy
    from megatron_coreward.actor.reference import MegatronReference
    from megatron_coreward.actor.teacher import MegatronTeacher

logger = logging.getLogger("megatron_coreward.train")  # __name__ is __main__ when it is run

UNUSABLE, INTERRUPTED, FAILED = 2, 3, 4


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
        setup_logging(rank)
        if options.dry_run:
            return _dry_run(config, rank, world_size)
        shape = validate(config, world_size)
        check_memory_settings(config.memory)
        check_machine(config, this_machine(), os.environ)
        config = _at(shape.folder, config)  # a hub id's local copy
        data = read_inputs(config, shape, world_size)
        comm = join(config)
        lock = claim(Path(config.run.output_dir), comm)
        resumed = resume_point(config, comm)
        if config.model.checkpoint:
            require_intact(Path(config.model.checkpoint), comm)
    except ValueError as error:
        if rank == 0:
            print_error(error)
        return UNUSABLE
    code = run(config, data, resumed, comm)
    if lock is not None:
        lock.release()
    return code


@dataclass(frozen=True)
class RunData:
    """The data that is read before any model is built."""

    stop_ids: tuple[int, ...]
    pairs: list[QuestionPair]
    questions: list[EvaluationQuestion]


def read_inputs(config: Config, shape: ModelShape, world_size: int, *, weights: bool = True) -> RunData:
    """Reads everything that a run needs before a model is built, for the run itself and for --dry-run.

    Tokenised pairs and evaluation questions are returned. Of the weights, if they are there, and of
    model.checkpoint only headers are read.

    Raises:
        ValueError: for the first thing that would fail later.
    """
    folder, trusted = shape.folder, config.model.trust_remote_code
    check_kv_cache(config, on_gpu=this_machine().capability is not None)
    if weights:  # those of a checkpoint are in their place
        check_weights(shape, exactly=not config.model.checkpoint)
    if config.model.checkpoint:
        check_start(Path(config.model.checkpoint), shape)
    check_transformers_reads(folder, trusted)
    tokenizer = load_tokenizer(str(folder), trusted)
    generation = load_generation_config(str(folder), trusted)
    check_stop_ids(shape, generation)
    data = RunData(
        stop_ids=stop_token_ids(tokenizer, generation),
        pairs=build_pairs(config, tokenizer, box_needed=method_of(config).graded, **_data_needs(config)),
        questions=build_questions(config, tokenizer),
    )
    prompts = [ids for pair in data.pairs for ids in (pair.original_ids, pair.rephrased_ids)]
    prompts += [question.prompt_ids for question in data.questions]
    check_token_ids(shape, data.stop_ids, prompts)
    check_free_space(config, shape, world_size, len(data.pairs))
    return data


def _data_needs(config: Config) -> dict[str, bool]:
    needs_rephrasings = View.REPHRASED in views_of(config)
    return {"rephrased_needed": needs_rephrasings, "truth_needed": method_of(config).truth}


def _dry_run(config: Config, rank: int, world_size: int) -> int:
    """Checks and reads what a run would, and shows the plan. Only a model that is not fetched is left out."""
    shape, unread = validate_plan(config, world_size)
    if shape is None:
        pairs = len(pair_records(config, **_data_needs(config)))
        evaluation_questions(config)
        unread += f"; data not read with its tokenizer: planned for all {pairs} pairs"
    else:
        data = read_inputs(_at(shape.folder, config), shape, world_size, weights=not unread)
        pairs = len(data.pairs)
    if rank == 0:
        show(config, shape, world_size, pairs=pairs, unread=unread)
    return 0


def _at(folder: Path, config: Config) -> Config:
    return replace(config, model=replace(config.model, path=str(folder)))


def run(config: Config, data: RunData, resumed: Path | None, comm: Communicator) -> int:
    """Builds every part, trains, exports. A collective over all ranks."""
    # Imported here, since a dry run and a refused configuration need neither megatron nor vllm.
    from megatron_coreward.actor.export import export_hf
    from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
    from megatron_coreward.rollout.engine import VllmEngine

    output = Path(config.run.output_dir)
    console = setup_logging(comm.rank, output)
    method, pairs = method_of(config), {pair.pair_id: pair for pair in data.pairs}
    truths = {pair.pair_id: pair.answer for pair in data.pairs if pair.answer}
    sampler = PairSampler(data.pairs, config.data.batch_pairs, config.data.shuffle, config.run.seed)
    total_steps = config.run.steps or config.run.epochs * sampler.steps_per_epoch
    policy, teacher, reference = _build_actors(config, comm, total_steps)
    keep = Retention(config.checkpoint.keep_last, config.checkpoint.keep_every, config.checkpoint.keep_best)
    saver = CheckpointSaver(
        output / CHECKPOINTS, policy, keep, teacher=teacher, in_background=config.checkpoint.async_save
    )
    state = load_checkpoint(resumed, policy, teacher) if resumed else None
    make_room(config.memory, policy, teacher or reference, PHASES["rollout"])
    engine = VllmEngine(config, config.model.path, data.stop_ids, config.run.seed)
    grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)
    evaluation = partial(evaluate, engine, comm, data.questions, config, grader)
    with (
        watching(config.run.stall_timeout_s) as watchdog,
        RunFolder(config, comm, console, total_steps, state, saver) as folder,
    ):
        trainer = Trainer(
            config=config,
            policy=policy,
            reference=reference,
            teacher=teacher,
            rollout=engine,
            reward_stage=CoRewardStage(comm, grader, config, truths if method.truth else None),
            objective=GrpoObjective(config.algorithm),
            sampler=sampler,
            comm=comm,
            observer=folder,
            watchdog=watchdog,
            evaluate=evaluation if data.questions else None,
            diagnose=partial(diagnose, pairs=pairs, grader=grader, method=method, comm=comm),
            total_steps=total_steps,
        )
        if resumed and state:
            trainer.load_state_dict(state)
            logger.info("resumed after step %d from %s", trainer.step, resumed)
            warn_of_changes(read_state(resumed)["config"], config)
        code = _fit(trainer)
        saver.finish()
        folder.on_phase("export")
        watchdog.enter(trainer.step, "export")
        if code == 0 and config.run.export_hf:
            export_hf(policy, Path(config.model.path), output / HF_EXPORT)
    if code == 0:
        logger.info("done: %s", folder.summary())
    engine.close()
    shutdown()
    return code


def _build_actors(
    config: Config, comm: Communicator, total_steps: int
) -> tuple["MegatronPolicy", "MegatronTeacher | None", "MegatronReference | None"]:
    """The policy, the teacher if the method has one, and the model that the KL penalty is towards."""
    from megatron_coreward.actor.parallel import initialize as initialize_parallel
    from megatron_coreward.actor.policy import MegatronPolicy
    from megatron_coreward.actor.reference import MegatronReference
    from megatron_coreward.actor.teacher import MegatronTeacher

    layout = initialize_parallel(config.parallel)
    policy = MegatronPolicy(config, layout, comm, total_steps * config.algorithm.updates_per_batch)
    teacher = MegatronTeacher(config, layout, policy) if method_of(config).teacher else None
    has_penalty = config.algorithm.kl_coef > 0
    return policy, teacher, (teacher or MegatronReference(config, layout)) if has_penalty else None


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


if __name__ == "__main__":
    sys.exit(main())
