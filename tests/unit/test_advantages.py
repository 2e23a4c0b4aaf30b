"""Eq. 7: group-relative advantages."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.algorithm.advantages import group_advantages, with_advantages
from megatron_coreward.types import ScoredResponse, View


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


@given(reward=st.floats(-1e6, 1e6), size=st.integers(1, 9))
def test_equal_rewards_give_exactly_zero(reward, size):
    assert (group_advantages(np.full(size, reward)) == 0).all()


def test_a_group_of_one_has_advantage_zero():
    assert with_advantages([scored(0, View.ORIGINAL, 0, 1.0)])[0].advantage == 0.0


def test_groups_are_normalised_apart_whatever_the_order():
    rewards = {(0, View.ORIGINAL): [1, 0], (0, View.REPHRASED): [5, 7], (1, View.ORIGINAL): [2, 2]}
    responses = [scored(p, v, s, r) for (p, v), group in rewards.items() for s, r in enumerate(group)]
    shuffled = [responses[i] for i in (3, 0, 5, 2, 4, 1)]

    result = with_advantages(shuffled)

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
    assert with_advantages([]) == []
