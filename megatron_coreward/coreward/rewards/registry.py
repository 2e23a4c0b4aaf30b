"""The reward methods of `reward.method`, and the inputs that each of them needs from a step."""

from collections.abc import Callable
from dataclasses import dataclass

from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards import (
    co_reward,
    co_rewarding_2,
    co_rewarding_3,
    entropy,
    ground_truth,
    majority_voting,
    random_reward,
    self_certainty,
)
from megatron_coreward.coreward.rewards.judging import Judge
from megatron_coreward.types import Response, View


@dataclass(frozen=True)
class Method:
    """One reward method.

    Attributes:
        judge: the method itself.
        both_views: it judges one wording by the other, so `rollout.views` must be both.
        votes: its labels are majority votes; `reward.ties`, `.min_agreement`, `.weight_by_share` and
            `rollout.vote_samples` apply.
        teacher: it needs the teacher's responses (section `teacher`); the KL penalty is towards the teacher.
        truth: it needs the ground truth of every question.
        confidence: the policy must measure Response.confidence first.
        score: a number per response, taken where the response is held: score(response, run.seed).
    """

    judge: Judge
    both_views: bool = False
    votes: bool = False
    teacher: bool = False
    truth: bool = False
    confidence: bool = False
    score: Callable[[Response, int], float] | None = None

    @property
    def graded(self) -> bool:
        """Rewards are 0 or 1 for wrong and right, in the method's opinion."""
        return self.score is None


METHODS = {
    "co_reward": Method(co_reward.judge, both_views=True, votes=True),
    "co_rewarding_2": Method(co_rewarding_2.judge, votes=True, teacher=True),
    "co_rewarding_3": Method(co_rewarding_3.judge, both_views=True, votes=True, teacher=True),
    "majority_voting": Method(majority_voting.judge, votes=True),
    "ground_truth": Method(ground_truth.judge, truth=True),
    "self_certainty": Method(self_certainty.judge, confidence=True, score=self_certainty.score),
    "entropy": Method(entropy.judge, confidence=True, score=entropy.score),
    "random": Method(random_reward.judge, score=random_reward.score),
}

VIEWS = {
    "original": (View.ORIGINAL,),
    "rephrased": (View.REPHRASED,),
    "both": (View.ORIGINAL, View.REPHRASED),
}


def method_of(config: Config) -> Method:
    return METHODS[config.reward.method]


def views_of(config: Config) -> tuple[View, ...]:
    """The wordings that a run answers and trains on (`rollout.views`)."""
    chosen = config.rollout.views
    if chosen == "auto":
        chosen = "both" if method_of(config).both_views else "original"
    return VIEWS[chosen]
