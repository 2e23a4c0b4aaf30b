"""Checks of what a run reads and needs besides its configuration: weights, token ids, memory, free disk.

A run makes them before anything is built, `--dry-run` and `evaluate` make the same. Of the weights only the
headers are read. Errors are those of checks.py: one ValueError that names the key.
"""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import psutil

from megatron_coreward.config.hf_files import read_tensors
from megatron_coreward.config.hf_weights import (
    LEAVE_OUT_FIRST,
    check_extra_tensors,
    check_shapes,
    check_type,
    expected_shapes,
)
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import resolve_dtype
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import GIB, PRECISIONS, batch_arithmetic, count_parameters, disk
from megatron_coreward.utils.run_names import CHECKPOINTS

_MARGIN = 0.95
"""Of the least size of the files that is refused: an estimate may be a little too high."""


def check_weights(shape: ModelShape, *, option: str = "model.path", exactly: bool = True) -> None:
    """Raises ValueError unless the folder's weights are those of its config.json, by the files' headers.

    `exactly` refuses tensors that the architecture does not know, too, as loading does.
    """
    given = f"{shape.folder} ({option})"
    tensors = read_tensors(shape.folder, option)
    expected = expected_shapes(shape)
    check_shapes(tensors, given, expected)
    for name in expected:
        check_type(name, tensors[name], given)
    if exactly:
        check_extra_tensors(shape.folder, tensors, given, shape, LEAVE_OUT_FIRST)


def check_transformers_reads(folder: Path, trust_remote_code: bool, option: str = "model.path") -> None:
    """Raises ValueError for a config.json that transformers, and so vLLM, refuses."""
    from huggingface_hub.errors import StrictDataclassError  # these two are slow to import
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(
            f"config.json of {folder} ({option}) is refused by transformers: {reason}. Mend it, or take the "
            "model's folder anew."
        ) from error


def check_token_ids(shape: ModelShape, stop_ids: Iterable[int], prompts: Iterable[Iterable[int]]) -> None:
    """Raises ValueError for tokens of the tokenizer that the model's vocabulary does not hold."""
    used = {"ends a response with": stop_ids, "makes prompts with": (i for ids in prompts for i in ids)}
    for what, ids in used.items():
        largest = max(ids, default=0)
        if not 0 <= largest < shape.vocab:
            raise ValueError(
                f"The tokenizer of {shape.folder} (model.path) {what} token {largest}, but the model's "
                f"vocabulary ends at {shape.vocab - 1} (vocab_size of config.json). Give the model's own "
                "tokenizer."
            )


def check_kv_cache(config: Config, *, on_gpu: bool) -> None:
    """Raises ValueError if the KV caches of this machine's ranks are larger than its memory; CPU only."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    total = psutil.virtual_memory().total / GIB
    if not on_gpu and config.rollout.memory_gb * ranks > total:
        raise ValueError(
            f"rollout.memory_gb is {config.rollout.memory_gb:g}, but this machine has {total:.1f} GiB of "
            f"memory for {ranks} rank(s), each with a KV cache of that size and the model. Lower it."
        )


def check_free_space(config: Config, shape: ModelShape, world_size: int, pairs: int) -> None:
    """Raises ValueError if the checkpoints that a run keeps and its export cannot fit on the disk.

    The least that they take: in the smaller type that the model can have here, without rollouts. What the
    folder's checkpoints take already counts as free, since they are replaced.
    """
    batch = batch_arithmetic(config, world_size, pairs)
    usages = (disk(config, shape, batch, dtype) for dtype in _possible_types(config))
    usage = min(usages, key=lambda one: one["one checkpoint"])
    output = Path(config.run.output_dir)
    _refuse_full_disk(
        output,
        needed=usage["checkpoints kept"] + usage["final export"],
        replaced=sum(file.stat().st_size for file in (output / CHECKPOINTS).rglob("*") if file.is_file()),
        what="checkpoints and the export take",
        advice="choose another folder, or keep fewer (checkpoint.keep_last, keep_every, keep_best; each "
        f"takes {usage['one checkpoint'] / GIB:.3g} GiB)",
    )


def check_export_space(config: Config, shape: ModelShape) -> None:
    """Raises ValueError if the Hugging Face folder that is written at the end cannot fit on the disk."""
    needed = count_parameters(shape) * min(PRECISIONS[dtype].weight for dtype in _possible_types(config))
    output = Path(config.run.output_dir)
    _refuse_full_disk(output, needed, what="the export takes", advice="or choose another folder")


def _possible_types(config: Config) -> set[str]:
    return {resolve_dtype(config.model.dtype, on_gpu=gpu) for gpu in (False, True)}


def _refuse_full_disk(output: Path, needed: float, *, what: str, advice: str, replaced: int = 0) -> None:
    free = free_space(output)
    if _MARGIN * needed > free + replaced:
        raise ValueError(
            f"run.output_dir is {str(output)!r}, where {free / GIB:.3g} GiB are free, but {what} at least "
            f"{needed / GIB:.3g} GiB. Free space, {advice}."
        )


def free_space(folder: Path) -> int:
    """Free bytes on the disk of `folder`, which need not exist yet."""
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free
