"""Co-Reward, also Co-rewarding-I: each wording is judged by the majority answer to the other (Eq. 6, 7).

r_i  = 1[ans(y_i)  = y'_v]      y_i on the original question, y'_v the vote on its rephrasing
r'_i = 1[ans(y'_i) = y_v ]
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Needs both views; swapping them swaps the judgements."""
    return {view: by_vote(group.answers, groups[view.other].answers) for view, group in groups.items()}
