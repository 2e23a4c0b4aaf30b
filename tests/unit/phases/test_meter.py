"""The useful work of a step, counted by hand, and the rates and idle shares made of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.phases.flops import forward_flops, linear_flops_per_token, useful_flops
from megatron_coreward.phases.meter import Meter, Work, with_rates
from megatron_coreward.types import ScoredResponse, View, WeightedResponse

SHAPE = ModelShape(Path("model"), "Qwen2ForCausalLM", 4, 8, 16, 4, 2, 2, 11, True, 8192)
GROUP = (5, [3, 7, 2])
"""A prompt of 5 tokens and three responses."""


def held(pair_id: int, prompt: int, lengths: list[int]) -> list[WeightedResponse]:
    first = ScoredResponse(
        *(pair_id, View.ORIGINAL, 0, tuple(range(prompt)), np.zeros(0, np.int32), np.zeros(0, np.float32)),
        text="",
        finish_reason="stop",
        weights_version=0,
    )
    responses = [
        replace(first, sample=sample, response_ids=np.zeros(length, np.int32))
        for sample, length in enumerate(lengths)
    ]
    return [WeightedResponse(response, 0.0, 1.0) for response in responses]


def test_each_distinct_token_counts_once() -> None:
    """By hand: the layers, the scores with the tokens before, and the rows of the head."""
    prompt, lengths = GROUP
    tokens = prompt + sum(lengths)
    rows = sum(lengths) - 2  # the prompt's last token predicts the first of all three
    pairs = prompt**2 + sum((prompt + r) ** 2 - prompt**2 for r in lengths)  # scores, twice the causal half
    attention = 4 * SHAPE.heads * SHAPE.head_dim * SHAPE.layers * pairs // 2
    by_hand = linear_flops_per_token(SHAPE) * tokens + 2 * SHAPE.hidden * SHAPE.vocab * rows + attention
    assert useful_flops(SHAPE, [GROUP]) == by_hand


def test_a_response_of_its_own_shares_nothing() -> None:
    assert useful_flops(SHAPE, [(5, [3])]) == forward_flops(SHAPE, [8], 3)
    assert useful_flops(SHAPE, [(5, [3]), (5, [7])]) == forward_flops(SHAPE, [8, 12], 10)


def test_a_step_is_counted_by_groups_and_passes() -> None:
    meter = Meter(SHAPE, gemm_rate=1e9)
    meter.count_trained([*held(1, *GROUP), *held(2, 4, [6])], log_prob_passes=2)
    meter.count_drawn([item.response for item in held(1, *GROUP)])
    forward = useful_flops(SHAPE, [GROUP, (4, [6])])
    assert meter.work == Work(
        generated_tokens=12,
        trained_tokens=17 + 10,
        log_probs_flops=2 * forward,
        update_flops=3 * forward,
        gemm_flops_per_second=1e9,
    )
    meter.restart()
    assert meter.work == Work(gemm_flops_per_second=1e9)


TIMES = {"time/rollout": 3.0, "time/max/rollout": 4.0, "time/update": 2.0, "time/max/update": 2.0}
TIMES |= {"time/log_probs": 1.0, "time/max/log_probs": 1.0}


def test_rates_are_those_of_all_ranks_by_the_slowest() -> None:
    works = [Work(100, 40, 6 * 10**9, 2 * 10**9, 4e9), Work(300, 60, 0, 8 * 10**9, 6e9)]
    rated = with_rates(TIMES, works)
    assert rated == TIMES | {
        "time/idle/rollout": 0.25,
        "time/idle/update": 0.0,
        "time/idle/log_probs": 0.0,
        "throughput/generated_tokens_per_second": 100.0,
        "throughput/trained_tokens_per_second": 50.0,
        "throughput/gemm_tflops": pytest.approx(0.01),
        "throughput/log_probs_tflops": pytest.approx(0.006),
        "throughput/log_probs_gemm_share": pytest.approx(0.6),
        "throughput/update_tflops": pytest.approx(0.005),
        "throughput/update_gemm_share": pytest.approx(0.5),
    }


def test_one_rank_has_no_idle_share_and_no_passes_have_no_rate() -> None:
    rated = with_rates(TIMES, [Work(100, 40, 0, 10**9, 1e9)])
    assert not [name for name in rated if name.startswith(("time/max/", "time/idle/"))]
    assert "throughput/log_probs_tflops" not in rated and rated["throughput/update_tflops"] == 0.0005
