"""How much of the device an update uses, by the arithmetic of benchmarks/actor.py, and what surrounds it.

On a GPU the model has the shape of Qwen3-0.6B and random weights; on a CPU it is tiny, which shows only that
the check runs.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.actor import SHAPES, config_of, make_batch, measure, policy_of, product_rate, timed
from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.utils.distributed import initialize
from tests.support.models import tiny_model
from tools.gpu_check.table import Figures


def local(folder: Path) -> Figures:
    return speed(folder, "local")


def transformer_engine(folder: Path) -> Figures:
    return speed(folder, "transformer_engine")


def speed(folder: Path, modules: str) -> Figures:
    """Of one packed micro-batch."""
    initialize()
    shape, tokens = ("0.6B", 4096) if torch.cuda.is_available() else ("tiny", 512)
    product = product_rate()
    started = time.perf_counter()
    model = tiny_model(folder / "model", **SHAPES[shape])
    policy = policy_of(config_of(model, modules, tokens, recompute="none"))
    built = time.perf_counter() - started
    update = measure(policy, shape, tokens, product)
    batch = make_batch(policy, tokens)
    log_probs = statistics.median(timed(lambda: policy.log_probs(batch)))
    figures: Figures = {
        "device": str(compute_device()),
        "model": shape,
        "tokens": tokens,
        "matrix product, TFLOP/s": product / 1e12,
        "writing and building the model, s": built,
        "update, s": update.seconds,
        "update, TFLOP/s": update.tflops,
        "update, share of the product": update.of_product,
        "update, MFU of the stated rate": update.of_stated or "not known for this device",
        "log-probs, tokens/s": tokens / log_probs,
    }
    figures |= away_and_back(policy)
    if update.peak_gib is not None:
        figures["peak GiB"] = update.peak_gib
    dist.destroy_process_group()
    return figures


def away_and_back(policy: MegatronPolicy) -> Figures:
    """The optimizer's state to main memory and back, twice: the first time allocates the copies."""
    figures: Figures = {}
    for time_ in ("first", "second"):
        before = allocated()
        figures[f"offload, {time_}, s"] = seconds(policy.offload)
        figures[f"offload, {time_}, GiB freed"] = before - allocated()
        figures[f"onload, {time_}, s"] = seconds(policy.onload)
    return figures


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def allocated() -> float:
    """GiB on the device; 0 on a CPU."""
    return torch.cuda.memory_allocated() / 2**30 if torch.cuda.is_available() else 0.0
