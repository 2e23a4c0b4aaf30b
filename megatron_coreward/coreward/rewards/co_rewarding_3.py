"""Co-rewarding-III (arXiv 2508.00410v3): I and II combined, the teacher's vote on the other wording.

r_i  = 1[ans(y_i)  = vote(teacher on x')]      y_i on the original question x, y'_i on its rephrasing x'
r'_i = 1[ans(y'_i) = vote(teacher on x )]
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Needs both views, of policy and teacher."""
    return {view: by_vote(group.answers, groups[view.other].teacher) for view, group in groups.items()}
