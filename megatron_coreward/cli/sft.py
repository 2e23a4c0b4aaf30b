"""Supervised training of a model on questions with responses, before a run without labels.

    coreward sft examples/smollm2_135m_arithmetic/sft.yaml --ranks 2
    coreward sft model.path=MODEL data.original=examples.jsonl optimizer.lr=1e-5

Takes files and keys of coreward train, and uses those of the sections run, model, parallel, data, optimizer
and memory. Writes metrics.jsonl and the Hugging Face folder hf/ to run.output_dir, and no checkpoints:
docs/supervised.md.

Exit codes: 0 done, 2 wrong input, 4 loss or gradient not finite, 1 anything else.
"""

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from shlex import quote

from megatron_coreward.cli.train import gpus
from megatron_coreward.config.hf_files import fingerprint
from megatron_coreward.config.loading import to_yaml
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import read_tokenizer
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.data.supervised import Example, build_examples, example_texts
from megatron_coreward.launch.options import TrainOptions, parse_sft
from megatron_coreward.preflight.checks import validate
from megatron_coreward.preflight.files import (
    check_export_space,
    check_token_ids,
    check_transformers_reads,
    check_weights,
)
from megatron_coreward.roles import Communicator
from megatron_coreward.utils.failures import NOT_FINITE, Failure
from megatron_coreward.utils.logging import exit_code, setup_logging
from megatron_coreward.utils.metrics import MetricsWriter
from megatron_coreward.utils.run_names import CONFIG_FILE, HF_EXPORT, RUN_MARKS

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_sft(arguments, __doc__)
    return exit_code(prepare if "RANK" in os.environ else start, options)


def start(options: TrainOptions) -> int | Callable[[], int]:
    """Raises ValueError for what can be found wrong before a rank starts."""
    config, ranks = options.config(), options.ranks or gpus() or 1
    _check(config, ranks)
    example_texts(config)
    if ranks == 1:
        return prepare(options)
    from megatron_coreward.launch.ranks import start_ranks

    arguments = ["sft", *options.of_a_rank()]
    return partial(start_ranks, ranks, "megatron_coreward.cli.main", arguments, 0)


def _check(config: Config, world_size: int) -> ModelShape:
    """The model's shape. Raises ValueError also for what a run without labels may do and this one cannot."""
    if config.run.resume or config.run.auto_resume:
        raise ValueError(
            "run.resume and run.auto_resume must be false: supervised training leaves no checkpoints. Start "
            "anew in another run.output_dir."
        )
    if config.rollout.temperature != 1.0:
        raise ValueError(
            f"rollout.temperature is {config.rollout.temperature:g}, but the likelihood of a given response "
            "is taken at temperature 1. Set it to 1."
        )
    if config.model.checkpoint:
        raise ValueError(
            f"model.checkpoint is {config.model.checkpoint!r}, but supervised training starts from "
            "model.path alone. Make a folder of it with `coreward convert`, and set model.path to that."
        )
    if not config.run.export_hf:
        raise ValueError("run.export_hf is false, but the folder hf/ is all that remains. Set it to true.")
    marks = [mark for mark in RUN_MARKS if Path(config.run.output_dir, mark).exists()]
    if marks:
        raise ValueError(
            f"run.output_dir is {config.run.output_dir!r}, which holds a run already ({', '.join(marks)}). "
            "Choose another one: supervised training cannot go on where it was stopped."
        )
    shape = validate(config, world_size)
    check_export_space(config, shape)
    return shape


def prepare(options: TrainOptions) -> Callable[[], int]:
    """Makes every check of this rank, then meets the others; returns the training. Raises ValueError."""
    from megatron_coreward.actor.model.precision import this_machine  # these import torch
    from megatron_coreward.config.precision import check_machine
    from megatron_coreward.run.start import at, claim, join
    from megatron_coreward.utils.distributed import choose_device, shutdown
    from megatron_coreward.utils.memory import keep_freed_memory

    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    config = options.config()
    setup_logging(rank)
    if choose_device() is None:
        keep_freed_memory()
    shape = _check(config, world_size)
    check_machine(config, this_machine(), os.environ)
    check_weights(shape)
    config = at(shape.folder, config)
    check_transformers_reads(shape.folder, config.model.trust_remote_code)
    tokenizer, stop_ids = read_tokenizer(shape.folder, config.model, shape.vocab)
    examples = build_examples(config, tokenizer, stop_ids)
    check_token_ids(shape, stop_ids, (e.prompt_ids + e.response_ids for e in examples))
    try:
        comm = join(config)
        lock = claim(Path(config.run.output_dir), comm)
    except ValueError:
        shutdown()
        raise

    def locked_run() -> int:
        try:
            return run(config, examples, stop_ids, comm)
        finally:
            if lock is not None:
                lock.release()
            shutdown()

    return locked_run


def run(config: Config, examples: list[Example], stop_ids: tuple[int, ...], comm: Communicator) -> int:
    """Trains and exports. A collective over all ranks."""
    output = Path(config.run.output_dir)
    setup_logging(comm.rank, output)
    # Imported here, after setup_logging has silenced what Megatron says of Apex and Transformer Engine.
    from megatron_coreward.actor.export import export_hf
    from megatron_coreward.actor.parallel import initialize as initialize_parallel
    from megatron_coreward.actor.policy import MegatronPolicy
    from megatron_coreward.actor.supervised import supervised_update

    sampler = PairSampler(examples, config.data.batch_pairs, config.data.shuffle, config.run.seed)
    steps = config.run.steps or config.run.epochs * sampler.steps_per_epoch
    policy = MegatronPolicy(config, initialize_parallel(config.parallel), comm, steps)
    with closing(_Figures(config, comm.rank)) as figures:
        for step in range(1, steps + 1):
            started = time.perf_counter()
            batch = [(example.prompt_ids, example.response_ids) for example in sampler.next()]
            try:
                measured = supervised_update(policy, batch).as_dict()
            except FloatingPointError as error:
                raise Failure(f"step {step}: {error}; lower optimizer.lr", NOT_FINITE) from error
            figures.log(step, {**measured, "time/step": time.perf_counter() - started})
            loss = measured["policy/loss"]
            logger.info("step %d/%d: loss %.4f nats per response token", step, steps, loss)
    export_hf(policy, Path(config.model.path), output / HF_EXPORT, stop_ids=stop_ids)
    if comm.rank == 0:
        folder = output / HF_EXPORT
        model = quote(str(folder))
        logger.info("SHA-256 of the weights in %s: %s", folder, fingerprint(folder))
        logger.info("done. Next: coreward evaluate --model %s; coreward train model.path=%s", model, model)
    return 0


class _Figures:
    """metrics.jsonl and its companions, and config.yaml; on rank 0 only."""

    def __init__(self, config: Config, rank: int) -> None:
        self._writer: MetricsWriter | None = None
        if rank == 0:
            folder = Path(config.run.output_dir)
            self._writer = MetricsWriter(folder, tensorboard=config.logging.tensorboard)
            (folder / CONFIG_FILE).write_text(to_yaml(config))

    def log(self, step: int, figures: dict[str, float]) -> None:
        if self._writer is not None:
            self._writer.log(step, figures)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
