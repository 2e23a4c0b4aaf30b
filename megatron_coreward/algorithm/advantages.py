"""Group-relative advantages of GRPO (Eq. 7).

    A_i = (r_i - mean(r_1..r_G)) / (std(r_1..r_G) + 1e-6)        std with divisor G - 1

The group is all samples of one `(pair_id, view)`: the two wordings of a question are normalised apart, as
in the paper. Equal rewards give exactly 0, so a group without signal moves the policy through the KL
penalty alone. A group of one has nothing to be compared with and also gets 0 (the paper's code sets mean
0 and std 1 there, which would make the bare reward the advantage).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from megatron_coreward.types import ScoredResponse

STD_EPSILON = 1e-6


def with_advantages(scored: Sequence[ScoredResponse]) -> list[ScoredResponse]:
    """The same responses in the same order, with `advantage` set. Groups must be complete."""
    members: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for index, response in enumerate(scored):
        members[response.group].append(index)
    advantages = np.zeros(len(scored))
    for indices in members.values():
        advantages[indices] = group_advantages(np.array([scored[i].reward for i in indices]))
    return [replace(response, advantage=float(a)) for response, a in zip(scored, advantages, strict=True)]


def group_advantages(rewards_G: np.ndarray) -> np.ndarray:
    """Advantages (float64, [G]) of one group from its rewards (float64, [G])."""
    assert np.isfinite(rewards_G).all(), f"a reward is not finite: {rewards_G}"
    if rewards_G.min() == rewards_G.max():  # exact: the rounded mean of equal numbers may differ from them
        return np.zeros_like(rewards_G)
    return (rewards_G - rewards_G.mean()) / (rewards_G.std(ddof=1) + STD_EPSILON)
