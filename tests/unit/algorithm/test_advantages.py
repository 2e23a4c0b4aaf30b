"""Eq. 7, group-relative advantages, and the other rules."""

import statistics
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.algorithm.advantages import group_advantages, with_advantages
from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.learning import AlgorithmConfig, RewardConfig
from megatron_coreward.config.schema import Config, RolloutConfig
from megatron_coreward.types import ScoredResponse, View

RULES = all_keys()["algorithm.advantage"].choices


def scored(pair_id: int, view: View, sample: int, reward: float) -> ScoredResponse:
    return ScoredResponse(
        pair_id=pair_id,
        view=view,
        sample=sample,
        prompt_ids=(1,),
        response_ids=np.array([2], dtype=np.int32),
        rollout_logps=np.zeros(1, dtype=np.float32),
        text="",
        finish_reason="stop",
        weights_version=0,
        reward=reward,
    )


def test_matches_the_formula_worked_by_hand():
    # mean 1/4; variance (3 * 1/16 + 9/16) / 3 = 1/4 with divisor G - 1
    assert group_advantages(np.array([1.0, 0, 0, 0])) == pytest.approx(
        np.array([0.75, -0.25, -0.25, -0.25]) / (0.5 + 1e-6), rel=1e-12
    )


def test_other_rules_worked_by_hand():
    rewards = np.array([1.0, 0, 0, 0])
    assert group_advantages(rewards, "no-std") == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert group_advantages(rewards, "rloo") == pytest.approx([1, -1 / 3, -1 / 3, -1 / 3])


@given(rewards=st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=9))
def test_rloo_compares_each_reward_with_the_mean_of_the_others(rewards):
    others = [statistics.fmean(rewards[:i] + rewards[i + 1 :]) for i in range(len(rewards))]
    found = group_advantages(np.array(rewards), "rloo")
    assert found == pytest.approx(np.array(rewards) - others, abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
@given(reward=st.floats(-1e6, 1e6), size=st.integers(1, 9))
def test_equal_rewards_give_exactly_zero(rule, reward, size):
    assert (group_advantages(np.full(size, reward), rule) == 0).all()


@pytest.mark.parametrize("rule", RULES)
def test_a_group_of_one_has_advantage_zero(rule):
    config = Config(algorithm=AlgorithmConfig(advantage=rule))
    assert with_advantages([scored(0, View.ORIGINAL, 0, 1.0)], config)[0].advantage == 0.0


def test_an_unknown_rule():
    with pytest.raises(AssertionError, match="coin"):
        group_advantages(np.array([0.0, 1.0]), "coin")


@pytest.mark.parametrize("rule", RULES)
def test_responses_that_only_vote_have_no_advantage_and_no_part_in_the_baseline(rule):
    algorithm, rewards = AlgorithmConfig(advantage=rule), [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    drawn = [scored(0, View.ORIGINAL, sample, reward) for sample, reward in enumerate(rewards)]
    more = with_advantages(
        drawn, Config(algorithm=algorithm, rollout=RolloutConfig(samples=3, vote_samples=6))
    )
    just = with_advantages(drawn[:3], Config(algorithm=algorithm, rollout=RolloutConfig(samples=3)))
    assert more[:3] == just
    assert [r.advantage for r in more[3:]] == [0.0] * 3


@pytest.mark.parametrize("rule", RULES)
def test_weighting_by_share_scales_the_advantage(rule):
    """Equal to weighting the reward, but for group-norm, which would divide that weight out again."""
    plain = [scored(0, View.ORIGINAL, sample, reward) for sample, reward in enumerate([1.0, 0.0, 0.0, 1.0])]
    plain += [scored(0, View.REPHRASED, sample, reward) for sample, reward in enumerate([0.0, 0.0, 1.0])]
    shared = [replace(r, label_share=0.75 if r.view is View.ORIGINAL else 0.5) for r in plain]
    base = Config(algorithm=AlgorithmConfig(advantage=rule))
    weighted = with_advantages(shared, replace(base, reward=RewardConfig(weight_by_share=True)))
    unweighted = with_advantages(shared, base)
    assert [w.advantage for w in weighted] == [r.label_share * r.advantage for r in unweighted]
    of_reward = with_advantages([replace(r, reward=r.reward * r.label_share) for r in shared], base)
    same = np.allclose([w.advantage for w in weighted], [r.advantage for r in of_reward])
    assert same is (rule != "group-norm")
    assert [r.reward for r in weighted] == [r.reward for r in plain]


def test_groups_are_normalised_apart_whatever_the_order():
    rewards = {(0, View.ORIGINAL): [1, 0], (0, View.REPHRASED): [5, 7], (1, View.ORIGINAL): [2, 2]}
    responses = [scored(p, v, s, r) for (p, v), group in rewards.items() for s, r in enumerate(group)]
    shuffled = [responses[i] for i in (3, 0, 5, 2, 4, 1)]

    result = with_advantages(shuffled, Config())

    assert [r.key for r in result] == [r.key for r in shuffled]
    unit = 0.5 / (np.sqrt(0.5) + 1e-6)
    advantages = {r.key: r.advantage for r in result}
    assert advantages[(0, "original", 0)] == pytest.approx(unit)
    assert advantages[(0, "original", 1)] == pytest.approx(-unit)
    assert advantages[(0, "rephrased", 0)] == pytest.approx(-1 / (np.sqrt(2) + 1e-6))
    assert advantages[(0, "rephrased", 1)] == pytest.approx(1 / (np.sqrt(2) + 1e-6))
    assert advantages[(1, "original", 0)] == advantages[(1, "original", 1)] == 0.0


def test_a_reward_that_is_not_finite_is_refused():
    with pytest.raises(AssertionError, match="not finite"):
        group_advantages(np.array([1.0, np.nan]))


def test_no_responses_give_no_advantages():
    assert with_advantages([], Config()) == []
