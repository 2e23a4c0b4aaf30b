"""One rank of a training run, and the only composition root.

    coreward train run.yaml [key.sub=value ...]                    starts the ranks (cli/train.py)
    torchrun --nproc-per-node 2 -m megatron_coreward.train run.yaml [key.sub=value ...]

Arguments and exit codes: launch/options.py.
"""

import sys

if __name__ == "__main__":  # ahead of the imports, which fail where the packages are missing
    from megatron_coreward.utils.failures import run_program

    sys.exit(run_program("megatron_coreward.train", sys.argv[1:]))

import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_coreward.actor.checkpoint.folder import Retention, read_state, require_intact
from megatron_coreward.actor.checkpoint.inspect import check_start
from megatron_coreward.actor.model.precision import this_machine
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.hf_datasets import is_here
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import check_machine
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.diagnostics import diagnose
from megatron_coreward.coreward.rewards.judging import Method
from megatron_coreward.coreward.rewards.registry import data_needs, method_of, with_options
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.pairs import EVALUATION_KEY, PAIR_KEYS, PROBE_KEYS
from megatron_coreward.data.prompts import (
    EvaluationQuestion,
    build_pairs,
    build_probe,
    build_questions,
    evaluation_questions,
    pair_records,
    probe_records,
    read_tokenizer,
)
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.evaluation.outcomes import evaluate
from megatron_coreward.evaluation.probe import Probe
from megatron_coreward.grading.grader import Grader
from megatron_coreward.launch.options import TrainOptions, parse_train
from megatron_coreward.phases.memory import check_memory_settings, make_room
from megatron_coreward.phases.meter import Meter
from megatron_coreward.phases.table import PHASES
from megatron_coreward.planning.this_machine import check_gpu_memory, with_sequences
from megatron_coreward.preflight.checks import check_profile_steps, data_files, validate, validate_plan
from megatron_coreward.preflight.costs import batch_arithmetic, planned_pairs
from megatron_coreward.preflight.dry_run import show
from megatron_coreward.preflight.files import (
    check_free_space,
    check_kv_cache,
    check_token_ids,
    check_transformers_reads,
    check_weights,
)
from megatron_coreward.roles import Communicator
from megatron_coreward.run.folder import RunFolder
from megatron_coreward.run.start import at, claim, join, resume_point, warn_of_changes
from megatron_coreward.run.watchdog import watching
from megatron_coreward.trainer import Trainer
from megatron_coreward.types import QuestionPair, View
from megatron_coreward.utils.distributed import choose_device, require_same, shutdown
from megatron_coreward.utils.failures import NOT_FINITE, STOPPED, Failure
from megatron_coreward.utils.logging import exit_code, repeated_warnings, setup_logging
from megatron_coreward.utils.memory import keep_freed_memory
from megatron_coreward.utils.run_names import CHECKPOINTS, HF_EXPORT

if TYPE_CHECKING:
    from megatron_coreward.actor.policy import MegatronPolicy
    from megatron_coreward.actor.reference import MegatronReference
    from megatron_coreward.actor.saver import CheckpointSaver
    from megatron_coreward.actor.teacher import MegatronTeacher
    from megatron_coreward.rollout.engine import VllmEngine

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(prepare, parse_train(arguments))


def prepare(options: TrainOptions) -> int | Callable[[], int]:
    """Makes every check that this rank can make, then meets the others; returns the run that is left to do.

    Raises:
        ValueError: on every rank if the ranks have met.
    """
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    config = with_options(options.config())
    setup_logging(rank)
    logger.info("checking the configuration, the data and the model's files")
    if options.dry_run:
        return dry_run(config, rank, world_size)
    if choose_device() is None:
        keep_freed_memory()
    shape = validate(config, world_size)
    check_memory_settings(config.memory)
    check_machine(config, this_machine(), os.environ)
    check_gpu_memory(config, shape, world_size)
    config = at(shape.folder, config)  # a hub id's local copy
    data = read_inputs(config, shape, world_size)
    try:
        comm = join(config)
        file = {f"the file of reward.method={config.reward.method}": method_of(config).fingerprint}
        require_same(comm, file, "give all nodes the same one")
        lock = claim(Path(config.run.output_dir), comm)
        resumed = resume_point(config, comm)
        if config.model.checkpoint:
            require_intact(Path(config.model.checkpoint), comm)
    except ValueError:
        shutdown()
        raise

    def locked_run() -> int:
        try:
            return run(config, data, resumed, comm)
        finally:
            if lock is not None:
                lock.release()

    return locked_run


@dataclass(frozen=True)
class RunData:
    """The data that is read before any model is built."""

    stop_ids: tuple[int, ...]
    pairs: list[QuestionPair]
    questions: list[EvaluationQuestion]
    probe: list[QuestionPair]
    warnings: dict[str, str]
    """What was wrong with the data, for the run's last line (utils/logging.repeated_warnings)."""


def read_inputs(
    config: Config, shape: ModelShape, world_size: int, *, weights: bool = True, absent: Collection[str] = ()
) -> RunData:
    """Reads everything that a run needs before a model is built, for the run itself and for --dry-run.

    Tokenised pairs and evaluation questions are returned, none where the file of a key in `absent` is not in
    the cache. Of the weights, if they are there, and of model.checkpoint only headers are read.

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
    tokenizer, stop_ids = read_tokenizer(folder, config.model, shape.vocab)
    needs = data_needs(config) | {"box_needed": method_of(config).graded}
    with repeated_warnings() as warnings:
        data = RunData(
            stop_ids=stop_ids,
            pairs=[] if {*PAIR_KEYS} & {*absent} else build_pairs(config, tokenizer, **needs),
            questions=[] if EVALUATION_KEY in absent else build_questions(config, tokenizer),
            probe=[] if {*PROBE_KEYS} & {*absent} else build_probe(config, tokenizer),
            warnings=warnings,
        )
    prompts = [ids for pair in data.pairs + data.probe for ids in (pair.original_ids, pair.rephrased_ids)]
    prompts += [question.prompt_ids for question in data.questions]
    check_token_ids(shape, data.stop_ids, prompts)
    if data.pairs:
        check_profile_steps(config, batch_arithmetic(config, world_size, len(data.pairs)).steps)
    check_free_space(config, shape, world_size, len(data.pairs) or planned_pairs(config))
    return data


def dry_run(config: Config, rank: int, world_size: int) -> int:
    """Checks and reads what a run would, and shows the plan. What would have to be fetched is left out."""
    config = with_options(config)
    shape, unread = validate_plan(config, world_size)
    absent = [key for key, given in data_files(config).items() if not is_here(given, key)]
    pairs = 0
    if shape is not None:
        local = at(shape.folder, config)
        read = read_inputs(local, shape, world_size, weights=not unread, absent=absent).pairs
        if pairs := len(read):  # made for the sake of its warnings
            PairSampler(read, config.data.batch_pairs, config.data.shuffle, config.run.seed)
    elif not absent:
        pairs = len(pair_records(config, **data_needs(config)))
        evaluation_questions(config)
        probe_records(config)
        unread += f"; data not read with its tokenizer: planned for all {pairs} pairs"
    if rank == 0:
        data = f"data not read: not in the cache, the run fetches {', '.join(absent)}" if absent else ""
        show(config, shape, world_size, pairs=pairs, unread="; ".join(filter(None, (unread, data))))
    return 0


def run(config: Config, data: RunData, resumed: Path | None, comm: Communicator) -> int:
    """Builds every part, trains, exports. A collective over all ranks."""
    # Imported here, since a dry run and a refused configuration need neither megatron nor vllm.
    from megatron_coreward.actor.export import export_hf
    from megatron_coreward.actor.gemm_rate import measure_gemm_rate
    from megatron_coreward.actor.saver import load_checkpoint

    output = Path(config.run.output_dir)
    console = setup_logging(comm.rank, output)
    method, pairs = _announced(config), {pair.pair_id: pair for pair in data.pairs}
    truths = {pair.pair_id: pair.answer for pair in data.pairs if pair.answer}
    with repeated_warnings() as warnings:
        sampler = PairSampler(data.pairs, config.data.batch_pairs, config.data.shuffle, config.run.seed)
    total_steps = config.run.steps or config.run.epochs * sampler.steps_per_epoch
    policy, teacher, reference = _build_actors(config, comm, total_steps)
    saver = _saver(config, policy, teacher, data.stop_ids)
    state = load_checkpoint(resumed, policy, teacher) if resumed else None
    make_room(config.memory, policy, teacher or reference, PHASES["rollout"])
    engine = _engine(config, data, policy.model.shape, comm.world_size)
    grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)
    evaluation = partial(evaluate, engine, comm, data.questions, config, grader)
    with (
        watching(config.run.stall_timeout_s) as watchdog,
        RunFolder(config, comm, console, total_steps, state, saver, data.warnings | warnings) as folder,
    ):
        trainer = Trainer(
            config=config,
            policy=policy,
            reference=reference,
            teacher=teacher,
            rollout=engine,
            reward_stage=CoRewardStage(comm, grader, config, truths if method.truth else None, engine.decode),
            objective=GrpoObjective(config.algorithm),
            sampler=sampler,
            comm=comm,
            observer=folder,
            watchdog=watchdog,
            meter=Meter(policy.model.shape, measure_gemm_rate(config, policy.model.shape)),
            evaluate=evaluation if data.questions else None,
            probe=Probe(engine, comm, data.probe, config) if data.probe else None,
            diagnose=partial(diagnose, pairs=pairs, grader=grader, method=method, comm=comm),
            total_steps=total_steps,
        )
        if resumed and state:
            trainer.load_state_dict(state)
            logger.info("resumed after step %d from %s", trainer.step, resumed)
            warn_of_changes(read_state(resumed), config, method.fingerprint)
        ended = _fit(trainer)
        saver.finish()
        folder.on_phase("export")
        watchdog.enter(trainer.step, "export")
        if ended is None and config.run.export_hf:
            export_hf(policy, Path(config.model.path), output / HF_EXPORT, stop_ids=data.stop_ids)
    engine.close()
    shutdown()
    if ended is not None:
        raise ended
    logger.info("done: %s", folder.summary())
    return 0


def _announced(config: Config) -> Method:
    """The run's method, once the log says whose it is and whether it is label-free."""
    name, method = config.reward.method, method_of(config)
    if method.source:
        logger.info("reward.method %s is that of %s, fingerprint %s", name, *method.source)
    if method.truth:
        logger.info("reward.method %s reads the ground truth: this run is not label-free", name)
    return method


def _saver(
    config: Config, policy: "MegatronPolicy", teacher: "MegatronTeacher | None", stop_ids: tuple[int, ...]
) -> "CheckpointSaver":
    from megatron_coreward.actor.saver import CheckpointSaver

    kept, folder = config.checkpoint, Path(config.run.output_dir) / CHECKPOINTS
    retention = Retention(kept.keep_last, kept.keep_every, kept.keep_best, kept.keep_best_by)
    return CheckpointSaver(
        *(folder, policy, retention, teacher), in_background=kept.async_save, stop_ids=stop_ids
    )


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


def _engine(config: Config, data: RunData, shape: ModelShape, world_size: int) -> "VllmEngine":
    from megatron_coreward.rollout.engine import VllmEngine

    batch = batch_arithmetic(config, world_size, len(data.pairs))
    probed = len(View) * config.monitor.pairs * config.monitor.samples if config.monitor.every else 0
    evaluated = len(data.questions) * config.evaluation.samples
    drawn = max(batch.drawn, batch.by_teacher, evaluated, probed)
    counted = with_sequences(config, shape, world_size, drawn)
    return VllmEngine(counted, config.model.path, data.stop_ids, config.run.seed)


def _fit(trainer: Trainer) -> Failure | None:
    """Trains; what ended the run early, on every rank."""
    try:
        if trainer.fit():
            return None
    except FloatingPointError as error:
        return Failure(str(error), NOT_FINITE)
    reason = f" by the {'; the '.join(trainer.alarms)}" if trainer.alarms else ""
    return Failure(f"stopped after step {trainer.step}{reason}; go on with: run.resume=true", STOPPED)
