"""Co-rewarding-II (arXiv 2508.00410v2, Eq. 9-11): a slowly moving teacher's majority answer is the label.

    r_i = 1[ans(y_i) = vote(teacher on x)]      y_i the policy's responses to x

The teacher is the moving average of the policy (actor/teacher.py) and also the reference of the KL penalty.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Each wording for itself, by the teacher's vote on the same wording."""
    return {view: by_vote(group.answers, group.teacher) for view, group in groups.items()}
