"""The modules that compute the actor's layers and their precision, in Megatron's words.

Nothing here has run on a GPU yet; docs/gpu/fp8.md says what is checked without one.
"""

import contextlib
import functools
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from megatron_coreward.config.precision import TE_PACKAGE, Machine
from megatron_coreward.config.schema import Fp8Config, ModelConfig
from megatron_coreward.utils.versions import installed

logger = logging.getLogger(__name__)

LOCAL: dict[str, Any] = {"transformer_impl": "local"}
"""Settings of a model in Megatron's own torch modules, in the precision of its weights."""


@functools.cache
def this_machine() -> Machine:
    """The hardware and the libraries that this rank runs on."""
    gpu = torch.cuda.get_device_capability() if torch.cuda.is_available() else None
    return Machine(gpu, torch.version.cuda, _te_version())


def _te_version() -> str | None:
    try:
        import transformer_engine.pytorch  # noqa: F401  # what is installed may still lack the part for torch
    except ImportError:
        return None
    return installed(TE_PACKAGE)


def choose_modules(wanted: str, machine: Machine) -> tuple[str, str]:
    """`model.transformer_impl` without auto, and the reason."""
    if wanted != "auto":
        return wanted, "asked for"
    if machine.capability is None:
        return "local", "there is no GPU"
    if machine.te_version is None:
        return "local", "Transformer Engine cannot be imported"
    return "transformer_engine", f"there are a GPU and Transformer Engine {machine.te_version}"


@functools.cache
def transformer_impl(wanted: str) -> str:
    """The modules for this rank; logs the choice once."""
    chosen, reason = choose_modules(wanted, this_machine())
    logger.info("model.transformer_impl: %s (%s)", chosen, reason)
    return chosen


def megatron_settings(model: ModelConfig, fp8: Fp8Config, impl: str) -> dict[str, Any]:
    """Arguments of Megatron's TransformerConfig; `impl` is what `transformer_impl` chose."""
    assert fp8.format == "none" or impl == "transformer_engine", "check_machine refuses FP8 without it"
    return {
        "transformer_impl": impl,
        "deterministic_mode": model.deterministic,
        **(fp8_settings(fp8) if fp8.format != "none" else {}),
    }


def fp8_settings(fp8: Fp8Config) -> dict[str, Any]:
    """Arguments of Megatron's TransformerConfig for a model in FP8."""
    return {
        "fp8": fp8.format,
        "fp8_recipe": fp8.recipe,
        "fp8_param": fp8.params,
        "first_last_layers_bf16": fp8.first_last_bf16 > 0,
        "num_layers_at_start_in_bf16": fp8.first_last_bf16,
        "num_layers_at_end_in_bf16": fp8.first_last_bf16,
        "fp8_amax_history_len": fp8.amax_history,
        "fp8_amax_compute_algo": "max",
    }


def of_frozen_model(fp8: Fp8Config) -> Fp8Config:
    """FP8 of the reference and the teacher, which only run forward.

    They compute as the policy does, or the KL penalty would hold the difference, but keep bfloat16 weights.
    With the delayed recipe they stay in bfloat16: it updates its scales in passes with gradients only, and
    theirs would stay at 1.
    """
    return replace(fp8, params=False) if fp8.recipe != "delayed" else Fp8Config()


@contextlib.contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """torch.use_deterministic_algorithms while the actor computes, and not for vLLM in the same process."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(wanted or before)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
