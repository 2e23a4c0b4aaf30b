"""Entropy minimisation (RENT, arXiv 2505.22660): reward responses drawn from peaked distributions.

    r(y) = - 1/|y| sum_t H(p_t)

over all response tokens, at the sampling temperature, before the update and without gradient. RENT's option
`base_format` is `reward.no_answer_entropy`: a response without an extractable answer counts as having that
entropy (7 nats there).
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Groups, Judgement
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import Response, View


def signal(response: Response, config: Config) -> float:
    """Mean entropy per token in nats, at least 0."""
    assert response.confidence is not None, "the policy has not measured its confidence"
    return response.confidence.entropy


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Looks at answers only to see whether there is one, and only with `no_answer_entropy`."""
    fallback = config.no_answer_entropy
    return {
        view: Judgement(
            [
                -fallback if fallback > 0 and answer == NO_ANSWER else -entropy
                for answer, entropy in zip(group.answers.classes, group.signals, strict=True)
            ]
        )
        for view, group in groups.items()
    }
