"""Split vote, a control: of the responses to one wording, each half is judged by the other half's majority.

    r_i = 1[ans(y_i) = vote(y_j, j odd)]  for even i,  and conversely

Samples count from 0. Nobody votes on itself, as in Co-Reward, but all have answered one wording: what
Co-Reward gains over it is due to the second wording. A half has half as many voters.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Answers, Groups, Judgement, by_vote, voted
from megatron_coreward.coreward.voting import Vote
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Each wording for itself. `reward.ties` and `.min_agreement` apply to each half.

    The label is that of both halves, "" where they differ; the share is the mean of theirs.
    """
    return {view: _judged(group.answers, config) for view, group in groups.items()}


def _judged(answers: Answers, config: RewardConfig) -> Judgement:
    even, odd = (voted(answers.classes[i::2], answers.forms[i::2], config) for i in (0, 1))
    rewards = [0.0] * len(answers.classes)
    rewards[::2], rewards[1::2] = by_vote(even, odd).rewards, by_vote(odd, even).rewards
    votes = [half.vote for half in (even, odd) if half.vote.label is not None]
    vote = Vote(
        votes[0].label if votes else None,
        count=sum(v.count for v in votes),
        share=sum(v.share for v in votes) / 2,
        tied=even.vote.tied or odd.vote.tied,
    )
    label = even.winner if even.vote.label == odd.vote.label else ""
    return Judgement(rewards, label, vote.share, vote)
