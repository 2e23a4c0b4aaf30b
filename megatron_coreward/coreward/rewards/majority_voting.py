"""Majority voting: the group's own majority answer is its label (SRT, arXiv 2505.21444; TTRL, 2504.16084).

    r_i = 1[ans(y_i) = vote(y)]

The baseline that Co-Reward is compared with, on original questions, on rephrasings (`rollout.views`), or on
both, each for itself. It can be satisfied by giving one answer to everything.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Each wording for itself."""
    return {view: by_vote(group.answers, group.answers) for view, group in groups.items()}
