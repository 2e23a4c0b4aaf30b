"""All checks of several keys together, in one place, before any model or engine is built.

The allowed values of a single key stand at its field (config/schema.py). Every error is one ValueError that
says what was given, what is allowed and which key to change. Cheap checks come first; the model folder, which
may have to be fetched, is read last. Imports no torch, and so asks nothing about the device.
"""

import tempfile
from pathlib import Path

from megatron_coreward.config.chat_template import template_text
from megatron_coreward.config.fields import DATA_SUFFIXES
from megatron_coreward.config.hf_datasets import is_data_set, parse
from megatron_coreward.config.hf_files import some
from megatron_coreward.config.model_shape import ModelShape, read_model_shape, read_planned_shape
from megatron_coreward.config.precision import check_fp8_sizes, check_installed, check_precision
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.layout import check_model, check_ranks
from megatron_coreward.preflight.method import check_method
from megatron_coreward.preflight.monitor import check_monitor
from megatron_coreward.utils.run_names import CHECKPOINTS, RUN_MARKS
from megatron_coreward.utils.step_ranges import step_ranges


def validate(config: Config, world_size: int) -> ModelShape:
    """Checks everything that can be known before a model or engine is built; returns the model's sizes.

    Only reads (a hub id in model.path is fetched). All ranks must have passed it before the first of them
    writes into the run folder: a rank that comes later would take that for an existing run.

    Raises:
        ValueError: the first thing found wrong.
    """
    _check_before_model(config, world_size)
    shape = read_model_shape(config.model)
    _check_shape(config, shape, world_size)
    return shape


def validate_plan(config: Config, world_size: int) -> tuple[ModelShape | None, str]:
    """`validate` that fetches no weights, and a line about what was not read.

    There is no shape where model.path is a hub id that is not in the cache and cannot be looked up.
    """
    _check_before_model(config, world_size)
    shape, unread = read_planned_shape(config.model)
    if shape is not None:
        _check_shape(config, shape, world_size)
    return shape, unread


def _check_before_model(config: Config, world_size: int) -> None:
    _check_settings(config, world_size)
    check_installed(config)
    template_text(config.model.chat_template)
    _check_data(config)
    _check_run_folder(config)


def validate_layout(config: Config, shape: ModelShape, world_size: int) -> None:
    """`validate` without files and folders, for a model of which the sizes are known.

    Raises:
        ValueError: the first thing found wrong.
    """
    _check_settings(config, world_size)
    _check_shape(config, shape, world_size)


def _check_settings(config: Config, world_size: int) -> None:
    _check_training(config)
    check_profile_steps(config, config.run.steps)
    check_monitor(config)
    check_method(config)
    check_precision(config)
    check_ranks(config, world_size)


def _check_shape(config: Config, shape: ModelShape, world_size: int) -> None:
    check_model(config, shape, world_size)
    check_fp8_sizes(config, shape)


def _check_training(config: Config) -> None:
    if config.optimizer.min_lr > config.optimizer.lr:
        raise ValueError(
            f"optimizer.min_lr is {config.optimizer.min_lr:g}, but must not exceed optimizer.lr "
            f"({config.optimizer.lr:g})."
        )
    algorithm, samples, voters = config.algorithm, config.rollout.samples, config.rollout.vote_samples
    if 0 < voters < samples:
        raise ValueError(
            f"rollout.vote_samples is {voters}, but must be at least rollout.samples ({samples}), since all "
            f"responses that are trained on vote, too. Raise it, or set it to 0 to let just those vote."
        )
    if samples == 1:
        raise ValueError(
            f"algorithm.advantage is {algorithm.advantage}, but with rollout.samples=1 there are no other "
            "responses to compare with: every advantage is 0 and nothing can be learned. Set rollout.samples "
            "to 2 or more."
        )
    keeps_kl = algorithm.kl_coef > 0 and algorithm.denominator == "all"
    if algorithm.skip_no_signal and keeps_kl and not algorithm.mask_truncated:
        raise ValueError(
            f"algorithm.skip_no_signal is true, but nothing can be skipped: algorithm.kl_coef is "
            f"{algorithm.kl_coef:g}, and with algorithm.denominator=all groups without signal keep their KL "
            f"penalty. Set algorithm.denominator=active to drop it, or algorithm.kl_coef=0 to have none."
        )


def check_profile_steps(config: Config, total_steps: int) -> None:
    """Raises ValueError unless run.profile_steps names steps of a run of `total_steps` (0: not known yet)."""
    given = config.run.profile_steps
    last = max((steps[-1] for steps in step_ranges("run.profile_steps", given)), default=0)
    if 0 < total_steps < last:
        raise ValueError(
            f"run.profile_steps is {given!r}, but the run ends after step {total_steps}. Name steps up to "
            "that one, or raise run.steps or run.epochs."
        )


def data_files(config: Config) -> dict[str, str]:
    """The files that a run reads, by key; "" for none."""
    data, evaluation = config.data, config.evaluation
    probe = {f"monitor.{name}": vars(config.monitor)[name] for name in ("original", "rephrased")}
    return {
        "data.original": data.original,
        "data.rephrased": data.rephrased,
        "evaluation.file": evaluation.file,
        **(probe if config.monitor.every else {}),
    }


def _check_synthetic(config: Config) -> None:
    """Raises ValueError for keys of synthetic problems in a run that has none."""
    task, split = config.data.synthetic_task, config.evaluation.synthetic_split
    if task != "arithmetic" and config.data.source != "synthetic":
        raise ValueError(
            f"data.synthetic_task is {task}, but data.source is {config.data.source}. Set data.source to "
            "synthetic, or data.synthetic_task to arithmetic, its default."
        )
    if split != "all" and (config.evaluation.file or config.data.source != "synthetic"):
        raise ValueError(
            f"evaluation.synthetic_split is {split}, but evaluation asks no synthetic problems. Set "
            "data.source to synthetic and clear evaluation.file, or set evaluation.synthetic_split to all."
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.source == "parquet" and not data.original:
        raise ValueError(
            "data.original is empty. Name a file of questions (Parquet, JSONL, JSON or CSV), or set "
            "data.source=synthetic."
        )
    if data.source == "synthetic" and (data.original or data.rephrased):
        raise ValueError("data.source=synthetic reads no files: clear data.original and data.rephrased.")
    _check_synthetic(config)
    for key, name in data_files(config).items():
        if is_data_set(name):
            parse(name, key)
            continue
        if name and Path(name).is_dir():
            inside = sorted(file.name for file in Path(name).iterdir() if file.is_file())
            raise ValueError(
                f"{key} is {name!r}, a folder. Set it to a file in it ({some(inside) or 'it has none'})."
            )
        if name and not Path(name).is_file():
            section, _, which = key.partition(".")
            hint = f" Leave it empty if {section}.original holds both wordings." * (which == "rephrased")
            if not Path(name).is_absolute():
                hint += f" It is looked for from {Path.cwd()}."
            raise ValueError(f"{key} is {name!r}, but there is no such file.{hint}")
    evaluation = config.evaluation.file
    if evaluation and Path(evaluation).suffix.lower() not in DATA_SUFFIXES:
        allowed = ", ".join(DATA_SUFFIXES)
        raise ValueError(f"evaluation.file is {evaluation!r}, but must end in one of {allowed}.")


def _check_run_folder(config: Config) -> None:
    folder = Path(config.run.output_dir)
    marks = [mark for mark in RUN_MARKS if (folder / mark).exists()]
    if config.run.resume:
        checkpoints = folder / CHECKPOINTS
        if not checkpoints.is_dir() or not any(checkpoints.iterdir()):
            raise ValueError(
                f"run.resume is true, but {checkpoints} holds no checkpoint. Check run.output_dir, or set "
                f"run.resume=false to start anew."
            )
    elif marks and not config.run.auto_resume:
        raise ValueError(
            f"run.output_dir is {str(folder)!r}, which holds a run already ({', '.join(marks)}). Set "
            f"run.resume=true to go on with it, or choose another run.output_dir."
        )
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):  # asking for permissions tells root nothing
            pass
    except OSError as error:
        raise ValueError(
            f"run.output_dir is {str(folder)!r}, but {existing} cannot be written to ({error.strerror})."
        ) from error
