"""Token weights: the averages of Eq. 4 over the whole step, with both views summed."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.algorithm.loss_weights import (
    Counts,
    contributes,
    local_counts,
    token_weights,
    with_weights,
)
from megatron_coreward.config.learning import AlgorithmConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.types import ScoredResponse, View
from tests.support.fakes import run_threads

AGGREGATIONS = ("seq-mean", "token-mean", "dr-grpo")
MEANS = ("seq-mean", "token-mean")
MAX_TOKENS = 60


def make(pair_id: int, view: View, sample: int, length: int, reward: float) -> ScoredResponse:
    return ScoredResponse(
        pair_id=pair_id,
        view=view,
        sample=sample,
        prompt_ids=(1,),
        response_ids=np.zeros(length, dtype=np.int32),
        rollout_logps=np.zeros(length, dtype=np.float32),
        text="",
        finish_reason="stop",
        weights_version=0,
        reward=reward,
    )


def step(lengths, rewards, pairs=2, samples=3, views=tuple(View)) -> list[ScoredResponse]:
    tags = itertools.product(range(pairs), views, range(samples))
    return [make(*tag, length=n, reward=r) for tag, n, r in zip(tags, lengths, rewards, strict=True)]


def weights_of(responses, config):
    return token_weights(responses, local_counts(responses, config), config, MAX_TOKENS)


def view_total(responses, weights, view):
    return sum(w * len(r.response_ids) for r, w in zip(responses, weights, strict=True) if r.view is view)


def truncate(responses, *indices):
    return [replace(r, finish_reason="length") if i in indices else r for i, r in enumerate(responses)]


LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]
REWARDS = [1, 0, 0, 0, 0, 0, 1, 1, 1, 0, 1, 1]  # groups (0, original) and (1, rephrased) have a signal


def test_seq_mean_is_the_mean_over_tokens_then_samples_then_questions():
    responses = step(LENGTHS, REWARDS)
    weights = weights_of(responses, AlgorithmConfig(aggregation="seq-mean"))
    assert weights == pytest.approx([1 / (2 * 3 * n) for n in LENGTHS])


def test_token_mean_counts_the_tokens_of_its_own_view():
    responses = step(LENGTHS, REWARDS)
    weights = weights_of(responses, AlgorithmConfig(aggregation="token-mean"))
    tokens = {view: sum(len(r.response_ids) for r in responses if r.view is view) for view in View}
    assert weights == pytest.approx([1 / tokens[r.view] for r in responses])


@pytest.mark.parametrize("denominator", ["all", "active"])
def test_dr_grpo_divides_by_a_constant_whatever_the_lengths(denominator):
    responses = step(LENGTHS, REWARDS)
    weights = weights_of(responses, AlgorithmConfig(aggregation="dr-grpo", denominator=denominator))
    expected = 1 / (6 * MAX_TOKENS) if denominator == "all" else 1 / (3 * MAX_TOKENS)
    assert [w for w in weights if w] == pytest.approx([expected] * (12 if denominator == "all" else 6))


@given(
    lengths=st.lists(st.integers(1, 50), min_size=12, max_size=12),
    aggregation=st.sampled_from(MEANS),
)
def test_weights_of_each_view_sum_to_one(lengths, aggregation):
    responses = step(lengths, REWARDS)
    for denominator in ("all", "active"):
        weights = weights_of(responses, AlgorithmConfig(aggregation=aggregation, denominator=denominator))
        for view in View:
            assert view_total(responses, weights, view) == pytest.approx(1.0)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_active_drops_groups_without_signal_and_all_keeps_them(aggregation):
    responses = step(LENGTHS, REWARDS)
    active = weights_of(responses, AlgorithmConfig(aggregation=aggregation, denominator="active"))
    assert [w > 0 for w in active] == [True] * 3 + [False] * 6 + [True] * 3
    every = weights_of(responses, AlgorithmConfig(aggregation=aggregation, denominator="all"))
    assert all(w > 0 for w in every)


def test_a_response_at_the_mean_of_an_active_group_stays_active():
    responses = step([2, 2, 2], [0.0, 0.5, 1.0], pairs=1, views=(View.ORIGINAL,))
    config = AlgorithmConfig(denominator="active")
    assert weights_of(responses, config) == pytest.approx([1 / 6] * 3)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("denominator", ["all", "active"])
@pytest.mark.parametrize("mask", [False, True])
def test_counts_of_ranks_add_up_to_the_weights_of_one(aggregation, denominator, mask):
    config = AlgorithmConfig(aggregation=aggregation, denominator=denominator, mask_truncated=mask)
    responses = truncate(step(LENGTHS, REWARDS), 0, 4, 11)
    shares = [responses[:3], responses[3:9], [], responses[9:]]  # whole groups, uneven, one rank empty
    counts = sum((local_counts(share, config) for share in shares), Counts())
    split = [w for share in shares for w in token_weights(share, counts, config, MAX_TOKENS)]
    assert split == weights_of(responses, config)


def test_counts():
    counts = local_counts(step(LENGTHS, REWARDS), AlgorithmConfig(denominator="active"))
    assert (counts.responses[View.ORIGINAL], counts.tokens[View.ORIGINAL]) == (3, 8)
    assert (counts.responses[View.REPHRASED], counts.tokens[View.REPHRASED]) == (3, 16)


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_an_empty_response_weighs_nothing_but_stays_in_the_divisor(aggregation):
    responses = step([0, 4, 4], [1, 0, 0], pairs=1, views=(View.ORIGINAL,))
    weights = weights_of(responses, AlgorithmConfig(aggregation=aggregation))
    expected = {"seq-mean": 1 / (3 * 4), "token-mean": 1 / 8, "dr-grpo": 1 / (3 * MAX_TOKENS)}[aggregation]
    assert weights == pytest.approx([0.0, expected, expected])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_a_step_without_any_signal_or_token_has_weights_zero(aggregation):
    config = AlgorithmConfig(aggregation=aggregation, denominator="active")
    assert weights_of(step(LENGTHS, [1] * 12), config) == [0.0] * 12
    empty = step([0, 0, 0], [1, 0, 0], pairs=1, views=(View.ORIGINAL,))
    assert weights_of(empty, AlgorithmConfig(aggregation=aggregation)) == [0.0] * 3


def test_a_one_view_method_has_the_weights_of_its_view():
    two = step(LENGTHS, REWARDS)
    one = [r for r in two if r.view is View.ORIGINAL]
    config = AlgorithmConfig()
    of_two = [w for r, w in zip(two, weights_of(two, config), strict=True) if r.view is View.ORIGINAL]
    assert weights_of(one, config) == of_two


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_masked_truncated_responses_weigh_nothing_and_all_keeps_them_in_the_divisor(aggregation):
    responses = truncate(step(LENGTHS, REWARDS), 0, 4)
    masked = AlgorithmConfig(aggregation=aggregation, mask_truncated=True)
    plain = weights_of(responses, AlgorithmConfig(aggregation=aggregation))
    assert weights_of(responses, masked) == [0.0 if i in (0, 4) else w for i, w in enumerate(plain)]


def test_active_leaves_masked_responses_out_of_the_divisor():
    responses = truncate(step(LENGTHS, REWARDS), 0)  # of the active group (0, original), lengths 3, 1, 4
    config = AlgorithmConfig(mask_truncated=True, denominator="active")
    assert weights_of(responses, config)[:3] == pytest.approx([0, 1 / 2, 1 / 8])
    counts = local_counts(responses, config)
    assert (counts.responses[View.ORIGINAL], counts.tokens[View.ORIGINAL]) == (2, 5)


def test_truncated_rewards_still_decide_whether_a_group_is_active():
    responses = truncate(step([2, 2, 2], [0, 1, 1], pairs=1, views=(View.ORIGINAL,)), 0)
    config = AlgorithmConfig(mask_truncated=True, denominator="active")
    assert weights_of(responses, config) == pytest.approx([0, 1 / 4, 1 / 4])


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("denominator", ["all", "active"])
def test_a_step_of_truncated_responses_only_has_weights_zero(aggregation, denominator):
    config = AlgorithmConfig(aggregation=aggregation, denominator=denominator, mask_truncated=True)
    responses = truncate(step(LENGTHS, REWARDS), *range(12))
    assert weights_of(responses, config) == [0.0] * 12
    assert contributes(responses, config) == [False] * 12


def test_masked_tokens_weigh_nothing_and_the_others_keep_their_weights():
    """Of 17 tokens the two of the answer: fifteen keep 1 / (n 17)."""
    responses = step([17, 17, 5], [1, 0, 0], pairs=1, views=(View.ORIGINAL,))
    masked = [replace(responses[0], answer_tokens=(14, 15)), *responses[1:]]
    plain, batch = (
        make_batch(run_threads(1, lambda comm, held=held: with_weights(held, Config(), comm))[0])
        for held in (responses, masked)
    )
    expected = [1 / (3 * 17)] * 34 + [1 / (3 * 5)] * 5
    assert plain.weights_T.tolist() == pytest.approx(expected)
    expected[14:16] = [0, 0]
    assert batch.weights_T.tolist() == pytest.approx(expected)
    micro_batch = batch.select([2, 0])
    assert micro_batch.weights_T.tolist() == pytest.approx(expected[-5:] + expected[:17])


def test_a_response_of_masked_tokens_only_does_not_contribute():
    responses = step([2, 2, 2], [1, 0, 0], pairs=1, views=(View.ORIGINAL,))
    responses = [replace(responses[0], answer_tokens=(0, 1), advantage=1.0), *responses[1:]]
    assert contributes(responses, AlgorithmConfig(kl_coef=0.1)) == [False, True, True]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # advantage, no advantage, truncated, without tokens; then a group with equal rewards
        (AlgorithmConfig(kl_coef=0.0), [1, 0, 1, 0, 0, 0]),
        (AlgorithmConfig(kl_coef=0.1), [1, 1, 1, 0, 1, 1]),
        (AlgorithmConfig(kl_coef=0.1, denominator="active"), [1, 1, 1, 0, 0, 0]),
        (AlgorithmConfig(kl_coef=0.1, mask_truncated=True), [1, 1, 0, 0, 1, 1]),
        (AlgorithmConfig(kl_coef=0.0, mask_truncated=True), [1, 0, 0, 0, 0, 0]),
    ],
)
def test_what_contributes_to_the_loss(config, expected):
    responses = [
        make(0, View.ORIGINAL, i, n, r) for i, (n, r) in enumerate([(3, 1), (3, 0.5), (3, 0), (0, 0)])
    ]
    responses += [make(1, View.ORIGINAL, i, 3, 1) for i in range(2)]
    responses = truncate(responses, 2)
    advantages = [1.0, 0.0, -1.0, -1.0, 0.0, 0.0]
    responses = [replace(r, advantage=a) for r, a in zip(responses, advantages, strict=True)]
    assert contributes(responses, config) == expected
