"""Co-Reward for one pair: each view is judged by the other view's majority (Eq. 6, 7).

    r_i  = 1[ans(y_i)  = y'_v]      y_i on the original question, y'_v the vote on its rephrasing
    r'_i = 1[ans(y'_i) = y_v ]

Without a label every reward it would give is 0, as in the reference; the group then has advantage 0.
"""

from collections.abc import Sequence

from megatron_coreward.coreward.grader import NO_ANSWER
from megatron_coreward.coreward.voting import Vote, vote


def co_reward(
    original: Sequence[int], rephrased: Sequence[int], ties: str, min_agreement: float
) -> tuple[tuple[Vote, Vote], tuple[list[float], list[float]]]:
    """Votes and rewards of both views.

    Args:
        original: class of each response to the original question, in the order of samples. Classes are
            common to both views; NO_ANSWER is in none and never earns a reward.
        rephrased: the same for the rephrased question.
        ties, min_agreement: see voting.vote.

    Returns:
        ((vote of original, vote of rephrased), (rewards of original, rewards of rephrased)); the rewards of
        one view follow from the vote of the other.
    """
    votes = vote(original, ties, min_agreement), vote(rephrased, ties, min_agreement)
    return votes, (_rewards(original, votes[1]), _rewards(rephrased, votes[0]))


def _rewards(classes: Sequence[int], judge: Vote) -> list[float]:
    return [float(c == judge.label) if c != NO_ANSWER else 0.0 for c in classes]
