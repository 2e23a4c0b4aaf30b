"""The rate of bare products: of the model's shapes, quickly, and without a trace in the random numbers."""

import random
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from megatron_coreward.actor.gemm_rate import measure_gemm_rate, products
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.phases.flops import head_flops, linear_flops_per_token

SHAPE = ModelShape(Path("model"), "Qwen2ForCausalLM", 4, 8, 16, 4, 2, 2, 12, True, 8192)
SMOLLM2 = ModelShape(Path("model"), "LlamaForCausalLM", 30, 576, 1536, 9, 3, 64, 49152, True, 2048)


@pytest.mark.parametrize("experts", [0, 4])
def test_the_products_are_those_of_the_model(experts: int) -> None:
    shape = replace(SHAPE, experts=experts, active_experts=2 if experts else 0)
    router = 2 * shape.hidden * experts * shape.layers  # too small to be measured
    of_token = linear_flops_per_token(shape) - router + head_flops(shape, 1)
    assert sum(product.flops for product in products(shape, 1, 100)) == of_token


def test_a_tensor_parallel_rank_multiplies_its_part() -> None:
    """All ranks' products are those of the model, for as many rows."""
    for whole, half in zip(products(SHAPE, 1, 100), products(SHAPE, 2, 100), strict=True):
        assert whole.inputs * whole.outputs == 2 * half.inputs * half.outputs
        assert (whole.rows, whole.flops) == (half.rows, half.flops)


def test_it_is_quick_and_touches_no_random_numbers() -> None:
    def states() -> tuple[bytes, object, object]:
        return torch.get_rng_state().numpy().tobytes(), np.random.get_state()[1].tolist(), random.getstate()

    before, threads, started = states(), torch.get_num_threads(), time.perf_counter()
    rate = measure_gemm_rate(Config(), SMOLLM2)
    seconds = time.perf_counter() - started
    assert states() == before and torch.get_num_threads() == threads
    assert seconds < 5, "under a second on an idle machine"
    counted = sum(2 * p.rows * p.inputs * min(p.outputs, 8192) for p in products(SMOLLM2, 1, 256))
    assert rate > counted / seconds, "at least the rate of all that was done in that time, once"
