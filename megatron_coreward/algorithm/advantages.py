"""Group-relative advantages (Eq. 7), and two rules that users of GRPO expect beside it.

    group-norm   A_i = (r_i - mean) / (std + 1e-6)             the paper; std with divisor G - 1
    no-std       A_i =  r_i - mean                             Dr. GRPO (Liu et al., arXiv 2503.20783)
    rloo         A_i =  r_i - mean of the other G - 1          REINFORCE leave-one-out (Ahmadian et al.,
                                                               arXiv 2402.14740; first Kool et al., 2019)

group-norm makes a question with one right answer in eight weigh more per answer than one with four in
eight; no-std takes that away. rloo is no-std times G / (G - 1): its baseline does not contain the response
itself, so the gradient is unbiased and not short of 1 / G.

The group is the trained samples of one `(pair_id, view)`: the two wordings of a question are normalised
apart, as in the paper, and samples beyond `rollout.samples`, which only vote, have no part in mean and std
(as in TTRL, arXiv 2504.16084). Equal rewards give exactly 0, so a group without signal moves the policy
through the KL penalty alone. A group of one has nothing to be compared with and also gets 0 (the authors'
code sets mean 0 and std 1 there, which would make the bare reward the advantage).

With `reward.weight_by_share` the advantage is multiplied by the share of the vote that the label won: all
responses of a group have one label, so this equals weighting the reward under no-std and rloo, whereas
group-norm would divide such a weight out again.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from megatron_coreward.config.schema import Config
from megatron_coreward.types import ScoredResponse

STD_EPSILON = 1e-6


def with_advantages(scored: Sequence[ScoredResponse], config: Config) -> list[ScoredResponse]:
    """The same responses in the same order, with `advantage` set. Groups must be complete.

    Responses that only vote (sample at or above `rollout.samples`) get advantage 0.
    """
    members: defaultdict[tuple[int, str], list[int]] = defaultdict(list)
    for index, response in enumerate(scored):
        if response.sample < config.rollout.samples:
            members[response.group].append(index)
    advantages = np.zeros(len(scored))
    for indices in members.values():
        rewards_G = np.array([scored[i].reward for i in indices])
        advantages[indices] = group_advantages(rewards_G, config.algorithm.advantage)
    if config.reward.weight_by_share:
        advantages *= [response.label_share for response in scored]
    return [replace(response, advantage=float(a)) for response, a in zip(scored, advantages, strict=True)]


def group_advantages(rewards_G: np.ndarray, rule: str = "group-norm") -> np.ndarray:
    """Advantages (float64, [G]) of one group from its rewards (float64, [G]); `rule` as in the header."""
    assert np.isfinite(rewards_G).all(), f"a reward is not finite: {rewards_G}"
    if rewards_G.min() == rewards_G.max():  # exact: the rounded mean of equal numbers may differ from them
        return np.zeros_like(rewards_G)
    centred_G = rewards_G - rewards_G.mean()
    match rule:
        case "group-norm":
            return centred_G / (rewards_G.std(ddof=1) + STD_EPSILON)
        case "no-std":
            return centred_G
        case "rloo":
            return centred_G * len(rewards_G) / (len(rewards_G) - 1)
    raise AssertionError(f"advantage rule {rule!r} passed validation")
