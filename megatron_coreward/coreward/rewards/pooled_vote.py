"""Pooled vote, a control: one vote of the responses to both wordings judges all of them.

    r_i = 1[ans(y_i) = vote(y, y')]      and the same for y'_i

It has as many voters as both views together, but nobody is judged by others alone. What Co-Reward gains over
it is not due to more voters.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote, pooled
from megatron_coreward.coreward.voting import vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Needs both views. With ties=first the original's samples come first."""
    original, rephrased = (groups[view].answers for view in View)
    classes = [*original.classes, *rephrased.classes]
    voters = pooled(original, rephrased, vote(classes, config.ties, config.min_agreement))
    return {view: by_vote(group.answers, voters) for view, group in groups.items()}
