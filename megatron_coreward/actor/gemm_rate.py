"""The rate at which this rank's device multiplies matrices of the model's shapes: what training could reach.

Measured once when a run starts, on all ranks at about the same time, since ranks may share cores, and after
the engine is built, which may set the number of threads.
"""

import logging
import time
from typing import NamedTuple

import torch

from megatron_coreward.actor.device import compute_device, compute_dtype
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config

logger = logging.getLogger(__name__)

ROWS = {"cuda": 4096, "cpu": 256}
"""Tokens of a product, at most."""
MAX_COLUMNS = 8192
"""The head is cut to so many: more make it longer, not faster."""
BUDGET_S = 0.15
"""For one shape, after a product to warm up; at least one is timed."""
MAX_REPEATS = 20
CALLS = {"cuda": 10, "cpu": 1}
"""Products between two looks at the clock."""


class Product(NamedTuple):
    """rows x inputs times inputs x outputs on one rank; `flops` is its part of a token's forward pass."""

    rows: int
    inputs: int
    outputs: int
    flops: int


def products(shape: ModelShape, tensor: int, tokens: int) -> list[Product]:
    """The products of the linear layers and the head for `tokens`, with `tensor` tensor-parallel ranks."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    active = max(shape.active_experts, 1)
    expert_rows, hidden = max(1, tokens * active // max(shape.experts, 1)), shape.hidden
    width, layers = shape.intermediate, 2 * shape.layers
    split = 1 if shape.experts else tensor  # an expert is whole
    return [
        Product(tokens, hidden, (queries + 2 * keys) // tensor, layers * hidden * (queries + 2 * keys)),
        Product(tokens, queries // tensor, hidden, layers * queries * hidden),
        Product(expert_rows, hidden, 2 * width // split, layers * active * 2 * hidden * width),
        Product(expert_rows, width // split, hidden, layers * active * width * hidden),
        Product(tokens, hidden, shape.padded_vocab(tensor) // tensor, 2 * hidden * shape.vocab),
    ]


def measure_gemm_rate(config: Config, shape: ModelShape) -> float:
    """FLOP/s of this rank's products, each shape weighted by its share of the operations. Under a second.

    Draws no number of a generator that the run draws from.
    """
    started = time.perf_counter()
    device, dtype = compute_device(), compute_dtype(config.model.dtype)
    tokens = min(ROWS[device.type], config.optimizer.micro_batch_tokens)
    measured = products(shape, config.parallel.tensor, tokens)
    seconds = sum(product.flops / _rate(product, device, dtype) for product in measured)
    rate = sum(product.flops for product in measured) / seconds
    logger.info(
        "matrix products of the model's shapes run at %.3g TFLOP/s on this rank in %s (measured in %.1f s)",
        *(rate / 1e12, str(dtype).removeprefix("torch."), time.perf_counter() - started),
    )
    return rate


def _rate(product: Product, device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s, the best of some repetitions."""
    generator = torch.Generator(device).manual_seed(0)
    outputs = min(product.outputs, MAX_COLUMNS)
    inputs, weight = (
        torch.randn(size, product.inputs, device=device, dtype=dtype, generator=generator)
        for size in (product.rows, outputs)
    )
    calls = CALLS[device.type]

    def seconds() -> float:
        started = time.perf_counter()
        for _ in range(calls):
            torch.nn.functional.linear(inputs, weight)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    with torch.no_grad():
        seconds()
        best, started = seconds(), time.perf_counter()
        for _ in range(MAX_REPEATS):
            if time.perf_counter() - started > BUDGET_S:
                break
            best = min(best, seconds())
    return 2 * product.rows * product.inputs * outputs * calls / best
