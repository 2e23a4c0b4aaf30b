"""All checks of a configuration, in one place, before any model or engine is built.

Every error is one ValueError that says what was given, what is allowed and which key to change. Cheap
checks come first; the model folder, which may have to be fetched, is read last. Imports no torch, and so
asks nothing about the device.
"""

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.config.loading import nearest
from megatron_coreward.config.model_shape import ModelShape, read_model_shape
from megatron_coreward.config.precision import RECIPES, check_fp8_sizes, check_installed, check_precision
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.registry import METHODS, VIEWS, views_of
from megatron_coreward.preflight.experts import check_experts
from megatron_coreward.preflight.method import check_method
from megatron_coreward.utils.run_names import CHECKPOINTS, RUN_MARKS

_WHERE = ("auto", "always", "never")

CHOICES = {
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.transformer_impl": ("auto", "transformer_engine", "local"),
    "data.source": ("parquet", "synthetic"),
    "rollout.views": ("auto", *VIEWS),
    "reward.method": tuple(METHODS),
    "reward.equality": ("math", "exact"),
    "reward.ties": ("first", "abstain"),
    "algorithm.advantage": ("group-norm", "no-std", "rloo"),
    "algorithm.aggregation": ("seq-mean", "token-mean", "dr-grpo"),
    "algorithm.denominator": ("all", "active"),
    "algorithm.kl_estimator": ("k1", "k2", "k3"),
    "optimizer.schedule": ("cosine", "constant"),
    "optimizer.nonfinite": ("stop", "skip"),
    "memory.offload_optimizer": _WHERE,
    "memory.offload_reference": _WHERE,
    "memory.rollout_sleep": _WHERE,
    "memory.recompute": ("none", "selective", "full"),
    "fp8.format": ("none", "hybrid", "e4m3"),
    "fp8.recipe": tuple(RECIPES),
}
"""Text keys that take one of a few values."""


@dataclass(frozen=True)
class Range:
    """Allowed numbers; `above` and `below` are limits that are themselves not allowed.

    `or_zero` allows 0 as well, which switches an option off.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    or_zero: bool = False

    def __contains__(self, value: float) -> bool:
        if self.or_zero and value == 0:
            return True
        return math.isfinite(value) and self.least <= value <= self.most and self.above < value < self.below

    def __str__(self) -> str:
        limits = {"at least": self.least, "at most": self.most, "above": self.above, "below": self.below}
        words = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        return f"0 or {words}" if self.or_zero else words


_POSITIVE, _AT_LEAST_ONE, _NOT_NEGATIVE = Range(above=0), Range(least=1), Range(least=0)

_TEMPERATURE = Range(least=0.01)
"""vLLM raises lower ones to 0.01, silently."""

RANGES = {
    "run.seed": _NOT_NEGATIVE,
    "run.steps": _NOT_NEGATIVE,
    "run.epochs": _AT_LEAST_ONE,
    "run.stall_timeout_s": _NOT_NEGATIVE,
    "parallel.tensor": _AT_LEAST_ONE,
    "parallel.pipeline": _AT_LEAST_ONE,
    "parallel.expert": _AT_LEAST_ONE,
    "data.batch_pairs": _AT_LEAST_ONE,
    "data.max_prompt_tokens": _AT_LEAST_ONE,
    "data.limit": _NOT_NEGATIVE,
    "data.synthetic_pairs": _AT_LEAST_ONE,
    "rollout.samples": _AT_LEAST_ONE,
    "rollout.vote_samples": _NOT_NEGATIVE,
    "rollout.temperature": _TEMPERATURE,
    "rollout.max_response_tokens": _AT_LEAST_ONE,
    "rollout.tensor_parallel_size": _AT_LEAST_ONE,
    "rollout.memory_gb": _POSITIVE,
    "rollout.gpu_memory_utilization": Range(above=0, most=1),
    "rollout.max_num_seqs": _AT_LEAST_ONE,
    "reward.min_agreement": Range(least=0, most=1),
    "reward.no_answer_entropy": _NOT_NEGATIVE,
    "reward.timeout_s": _POSITIVE,
    "reward.workers": _AT_LEAST_ONE,
    "teacher.samples": _NOT_NEGATIVE,
    "teacher.alpha_start": Range(least=0, most=1),
    "teacher.alpha_end": Range(least=0, most=1),
    "teacher.every": _NOT_NEGATIVE,
    "algorithm.clip": Range(above=0, below=1),
    "algorithm.clip_high": _NOT_NEGATIVE,
    "algorithm.dual_clip": Range(above=1, or_zero=True),
    "algorithm.tis_cap": Range(least=1, or_zero=True),
    "algorithm.kl_coef": _NOT_NEGATIVE,
    "algorithm.updates_per_batch": _AT_LEAST_ONE,
    "optimizer.lr": _POSITIVE,
    "optimizer.min_lr": _NOT_NEGATIVE,
    "optimizer.warmup_ratio": Range(least=0, most=1),
    "optimizer.weight_decay": _NOT_NEGATIVE,
    "optimizer.beta1": Range(least=0, below=1),
    "optimizer.beta2": Range(least=0, below=1),
    "optimizer.eps": _POSITIVE,
    "optimizer.clip_grad": _NOT_NEGATIVE,
    "optimizer.micro_batch_tokens": _AT_LEAST_ONE,
    "evaluation.limit": _NOT_NEGATIVE,
    "evaluation.every": _NOT_NEGATIVE,
    "evaluation.samples": _AT_LEAST_ONE,
    "evaluation.temperature": _TEMPERATURE,
    "checkpoint.every": _NOT_NEGATIVE,
    "checkpoint.keep_last": _NOT_NEGATIVE,
    "checkpoint.keep_every": _NOT_NEGATIVE,
    "checkpoint.keep_best": _NOT_NEGATIVE,
    "weight_sync.bucket_mb": _AT_LEAST_ONE,
    "weight_sync.tolerance": _POSITIVE,
    "fp8.first_last_bf16": _NOT_NEGATIVE,
    "fp8.amax_history": _AT_LEAST_ONE,
}
"""Every numeric key and what it may be."""

_EVALUATION_SUFFIXES = (".parquet", ".json", ".jsonl")


def validate(config: Config, world_size: int) -> ModelShape:
    """Checks everything that can be known before a model or engine is built; returns the model's sizes.

    Only reads (a hub id in model.path is fetched). All ranks must have passed it before the first of them
    writes into the run folder: a rank that comes later would take that for an existing run.

    Raises:
        ValueError: the first thing found wrong.
    """
    _check_settings(config, world_size)
    check_installed(config)
    _check_data(config)
    _check_run_folder(config)
    shape = read_model_shape(config.model)
    _check_shape(config, shape, world_size)
    return shape


def validate_layout(config: Config, shape: ModelShape, world_size: int) -> None:
    """`validate` without files and folders, for a model of which the sizes are known.

    Raises:
        ValueError: the first thing found wrong.
    """
    _check_settings(config, world_size)
    _check_shape(config, shape, world_size)


def validate_engine(config: Config, shape: ModelShape, world_size: int) -> None:
    """What a program needs that draws responses with vLLM and trains nothing.

    Raises:
        ValueError: the first thing found wrong.
    """
    _check_values(config)
    _check_world(config, world_size)
    _check_replica(config, shape)
    _check_context(config, shape)


def _check_settings(config: Config, world_size: int) -> None:
    _check_values(config)
    _check_algorithm(config)
    check_method(config)
    check_precision(config)
    _check_world(config, world_size)
    _check_batch(config, world_size)


def _check_shape(config: Config, shape: ModelShape, world_size: int) -> None:
    _check_layout(config, shape)
    _check_replica(config, shape)
    check_experts(config, shape, world_size)
    check_fp8_sizes(config, shape)
    _check_context(config, shape)


def _value(config: Config, key: str) -> Any:
    section, _, name = key.partition(".")
    return vars(vars(config)[section])[name]


def _check_values(config: Config) -> None:
    for key, choices in CHOICES.items():
        given = _value(config, key)
        if given not in choices:
            guess = nearest(given, choices)
            hint = f" Did you mean {guess}?" if guess else ""
            raise ValueError(f"{key} is {given!r}, but must be one of {', '.join(choices)}.{hint}")
    for key, allowed in RANGES.items():
        given = _value(config, key)
        if given not in allowed:
            raise ValueError(f"{key} is {given}, but must be {allowed}.")
    if config.optimizer.min_lr > config.optimizer.lr:
        raise ValueError(
            f"optimizer.min_lr is {config.optimizer.min_lr:g}, but must not exceed optimizer.lr "
            f"({config.optimizer.lr:g})."
        )
    if config.parallel.sequence and config.parallel.tensor == 1:
        raise ValueError("parallel.sequence is true, but needs parallel.tensor above 1. Set it to false.")


def _check_algorithm(config: Config) -> None:
    algorithm, samples, voters = config.algorithm, config.rollout.samples, config.rollout.vote_samples
    if 0 < voters < samples:
        raise ValueError(
            f"rollout.vote_samples is {voters}, but must be at least rollout.samples ({samples}), since all "
            f"responses that are trained on vote, too. Raise it, or set it to 0 to let just those vote."
        )
    if algorithm.advantage == "rloo" and samples == 1:
        raise ValueError(
            "algorithm.advantage is rloo, but with rollout.samples=1 there are no other responses to compare "
            "with. Set rollout.samples to 2 or more, or choose another algorithm.advantage."
        )
    keeps_kl = algorithm.kl_coef > 0 and algorithm.denominator == "all"
    if algorithm.skip_no_signal and keeps_kl and not algorithm.mask_truncated:
        raise ValueError(
            f"algorithm.skip_no_signal is true, but nothing can be skipped: algorithm.kl_coef is "
            f"{algorithm.kl_coef:g}, and with algorithm.denominator=all groups without signal keep their KL "
            f"penalty. Set algorithm.denominator=active to drop it, or algorithm.kl_coef=0 to have none."
        )


def _check_world(config: Config, world_size: int) -> None:
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    if world_size % (tensor * pipeline):
        raise ValueError(
            f"The run has {world_size} ranks, but parallel.tensor={tensor} x parallel.pipeline={pipeline} = "
            f"{tensor * pipeline} must divide their number. Change either, or start another number of ranks."
        )
    rollout_tp = config.rollout.tensor_parallel_size
    if world_size % rollout_tp:
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the {world_size} ranks."
        )


def _check_batch(config: Config, world_size: int) -> None:
    pairs = config.data.batch_pairs
    data_parallel = world_size // (config.parallel.tensor * config.parallel.pipeline)
    if pairs % data_parallel:
        raise ValueError(
            f"data.batch_pairs is {pairs}, but must be a multiple of the data-parallel size {data_parallel} "
            f"(ranks / (parallel.tensor x parallel.pipeline))."
        )
    replicas = world_size // config.rollout.tensor_parallel_size
    views = len(views_of(config))
    if views * pairs % replicas:
        raise ValueError(
            f"data.batch_pairs is {pairs}, so {views * pairs} groups ({views} view(s) a pair), but that must "
            f"be a multiple of the {replicas} rollout replicas (ranks / rollout.tensor_parallel_size)."
        )


def _check_data(config: Config) -> None:
    data = config.data
    if data.source == "parquet" and not data.original:
        raise ValueError("data.original is empty. Name a Parquet file, or set data.source=synthetic.")
    if data.source == "synthetic" and (data.original or data.rephrased):
        raise ValueError("data.source=synthetic reads no files: clear data.original and data.rephrased.")
    files = {"data.original": data.original, "data.rephrased": data.rephrased}
    files["evaluation.file"] = config.evaluation.file
    for key, name in files.items():
        if name and not Path(name).is_file():
            raise ValueError(f"{key} is {name!r}, but there is no such file.")
    evaluation = config.evaluation.file
    if evaluation and Path(evaluation).suffix not in _EVALUATION_SUFFIXES:
        allowed = ", ".join(_EVALUATION_SUFFIXES)
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


def _check_layout(config: Config, shape: ModelShape) -> None:
    tensor, pipeline = config.parallel.tensor, config.parallel.pipeline
    if shape.heads % tensor or (shape.intermediate % tensor and not shape.experts):
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the model's {shape.heads} attention heads and MLP "
            f"size {shape.intermediate}."
        )
    if shape.kv_heads % tensor and tensor % shape.kv_heads:
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the model's {shape.kv_heads} key/value heads or "
            f"be a multiple of them."
        )
    rows = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    if rows % tensor:  # possible with fewer key/value heads than ranks only
        raise ValueError(
            f"parallel.tensor is {tensor}, but must divide the {rows} rows of the model's fused projection "
            f"to queries, keys and values."
        )
    if shape.layers < pipeline:
        raise ValueError(
            f"parallel.pipeline is {pipeline}, but must not exceed the model's {shape.layers} layers."
        )


def _check_replica(config: Config, shape: ModelShape) -> None:
    rollout_tp = config.rollout.tensor_parallel_size
    if shape.heads % rollout_tp or shape.intermediate % rollout_tp:
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the model's {shape.heads} "
            f"attention heads and MLP size {shape.intermediate}."
        )
    if shape.kv_heads % rollout_tp and rollout_tp % shape.kv_heads:  # vLLM replicates when there are fewer
        raise ValueError(
            f"rollout.tensor_parallel_size is {rollout_tp}, but must divide the model's {shape.kv_heads} "
            f"key/value heads or be a multiple of them."
        )


def _check_context(config: Config, shape: ModelShape) -> None:
    prompt, response = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    if prompt + response > shape.max_positions:
        raise ValueError(
            f"data.max_prompt_tokens={prompt} + rollout.max_response_tokens={response} = {prompt + response} "
            f"tokens, but the model's context is {shape.max_positions} (max_position_embeddings). Lower "
            "either."
        )
