"""The model of an evaluation or of `ask`: what it carries of its run, how it is asked, and its engine.

A model is asked as it was trained: the run's settings (config/run_settings.py) take the place of the
defaults, and the command line wins over both. Whatever is drawn from a model outside of a run goes through
`read_model` and `run_with_engine`.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_coreward.actor.checkpoint.folder import run_settings
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape, read_model_shape, read_shape, require_tokenizer
from megatron_coreward.config.run_settings import RunSettings, read_run_settings, value_of
from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import read_tokenizer
from megatron_coreward.evaluation.model_folder import config_folder, exported
from megatron_coreward.grading.grader import Grader
from megatron_coreward.preflight.files import (
    check_kv_cache,
    check_token_ids,
    check_transformers_reads,
    check_weights,
)
from megatron_coreward.preflight.layout import check_engine
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.utils.failures import REFUSED, Failure

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

LENGTHS = ("data.max_prompt_tokens", "rollout.max_response_tokens")
DEFAULT_LENGTH = 1024
"""Of each of LENGTHS where neither a run nor the command line says it; less if the context is shorter."""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with its settings, checked but for its weights' values."""

    config: Config
    folder: Path
    """Config and tokenizer, and the weights unless there is a checkpoint."""
    checkpoint: Path | None
    scratch: Path | None
    shape: ModelShape
    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: tuple[int, ...]


def read_model(
    model: str, checkpoint: Path | None, scratch: Path | None, given: Sequence[str], world_size: int
) -> EvaluatedModel:
    """Reads and checks a Hugging Face folder (or hub id), or a checkpoint; says how it will be asked.

    `given` are the overrides of the command line.

    Raises:
        ValueError: for the first thing that is wrong.
    """
    import torch  # slow to import

    named = [f"model.path={checkpoint or model}"]
    asked = load_config([], [*named, *given])
    trusted = asked.model.trust_remote_code
    if checkpoint is not None:
        folder = config_folder(checkpoint)
        shape = read_shape(folder, trusted)
        require_tokenizer(folder, "--checkpoint")
        settings = run_settings(checkpoint)
    else:
        try:
            shape = read_model_shape(asked.model)
        except ValueError as error:
            raise ValueError(str(error).replace("model.path", "--model")) from error
        folder = shape.folder
        check_weights(shape, option="--model", exactly=False)
        settings = read_run_settings(folder)
    carried = settings.overrides() if settings else []
    lengths = _default_lengths([*carried, *given], shape.max_positions)
    config = load_config([], [*named, "evaluation.limit=0", *lengths, *carried, *given])
    check_engine(config, shape, world_size)
    check_kv_cache(config, on_gpu=torch.cuda.is_available())
    check_transformers_reads(folder, trusted)
    tokenizer, stop_ids = read_tokenizer(folder, config.model, shape.vocab)
    stop_ids = _stop_ids(settings, stop_ids)
    check_token_ids(shape, stop_ids, [])
    _say_prompt(config, settings)
    return EvaluatedModel(config, folder, checkpoint, scratch, shape, tokenizer, stop_ids)


def _default_lengths(chosen: Sequence[str], context: int) -> list[str]:
    """Overrides for those of LENGTHS that `chosen` does not set: what the others leave of the context."""
    names = [override.partition("=")[0].strip() for override in chosen]
    config = load_config([], ["model.path=unused", *chosen])
    free = [key for key in LENGTHS if key not in names]
    room = context - sum(value_of(config, key) for key in LENGTHS if key in names)
    fitting = room // max(len(free), 1)
    if not free or fitting >= DEFAULT_LENGTH or fitting < 1:  # below 1 the error about the context says so
        return [f"{key}={DEFAULT_LENGTH}" for key in free]
    fitted = [f"{key}={fitting}" for key in free]
    logger.info("%s: what fits the model's context of %d tokens", ", ".join(fitted), context)
    return fitted


def _stop_ids(settings: RunSettings | None, own: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the run, if it says them; else what the folder's files say, which is the same if untouched."""
    stored = settings.stop_token_ids if settings else ()
    if stored and stored != own:
        logger.info("stop tokens %s are the run's; the model's files now say %s", list(stored), list(own))
    return stored or own


def _say_prompt(config: Config, settings: RunSettings | None) -> None:
    differences = settings.differences(config) if settings else []
    origin = "of no run: the defaults, or as given"
    if settings:
        origin = "from the run's config" + (" and the command line" if differences else "")
    system = config.data.system_prompt
    logger.info(
        "prompt: %s, up to %d + %d tokens, %s",
        *(f"system {system!r}" if system else "no system turn", *(value_of(config, key) for key in LENGTHS)),
        origin,
    )
    for line in differences:
        logger.info("%s", line)


def run_with_engine(
    model: EvaluatedModel, work: Callable[[RolloutEngine, Communicator, Grader], None]
) -> int:
    """Builds the engine, hands it to `work`, and ends it; the program's exit code. A collective."""
    from megatron_coreward.planning.this_machine import with_sequences
    from megatron_coreward.rollout.engine import VllmEngine
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown

    initialize()
    comm = TorchCommunicator()
    config = model.config
    with ExitStack() as stack:
        folder = model.folder
        if model.checkpoint is not None:
            try:
                folder = stack.enter_context(exported(model.checkpoint, model.scratch, comm))
            except (ValueError, OSError) as error:
                shutdown()
                raise Failure(str(error), REFUSED) from error
        counted = with_sequences(config, model.shape, comm.world_size)
        engine = VllmEngine(counted, str(folder), model.stop_ids, config.run.seed)
    grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)
    work(engine, comm, grader)
    engine.close()
    return 0
