"""Self-Harmony's label (arXiv 2511.01191): the answer with the largest harmonic mean of shares.

    label = argmax_a 2 p(a) p'(a) / (p(a) + p'(a))      r_i = 1[ans(y_i) = label], in both views

An answer that only one wording gives has 0 and is never the label. Its share, for `reward.min_agreement`, is
(p + p') / 2. The paper also trains the model to rephrase; here the rephrasings are the data's.
"""

from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_vote, pooled
from megatron_coreward.coreward.voting import Vote, elected
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Needs both views. With ties=first the original's samples decide."""
    original, rephrased = (groups[view].answers for view in View)
    voters = pooled(original, rephrased, harmonic_vote(original.classes, rephrased.classes, config))
    return {view: by_vote(group.answers, voters) for view, group in groups.items()}


def harmonic_vote(original: Sequence[int], rephrased: Sequence[int], config: RewardConfig) -> Vote:
    """The vote of both views; its `count` is that of both, its `share` the mean of the two shares."""
    counts, others = Counter(original), Counter(rephrased)
    scores = {  # a Counter keeps the order of first appearance
        c: Fraction(2 * counts[c] * others[c], counts[c] * len(rephrased) + others[c] * len(original))
        for c in counts
        if c != NO_ANSWER and others[c]
    }

    def share(label: int) -> float:
        return (counts[label] / len(original) + others[label] / len(rephrased)) / 2

    return elected(scores, lambda c: (counts[c] + others[c], share(c)), config.ties, config.min_agreement)
