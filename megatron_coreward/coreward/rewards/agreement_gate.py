"""Agreement gate: a question has a label only where the majority answers to both wordings are the same.

    r_i = 1[ans(y_i) = v] and the same for y'_i, if vote(y) = vote(y') = v; else the fallback

Ours, after the gates of JURY-RL (arXiv 2604.25419, where a proof decides) and of DCRL's code. The fallback
is `zero`, or JURY-RL's ResZero, by which the answers that lost the view's own vote are compared with each
other. With M the supporters of the view's majority, R the others, alpha = |M| / G, z_i the share of ans(y_i)
among the other members of R (0 without an answer) and z its mean over R:

    r_i = alpha (z_i - z) + c alpha^2 in R,   -c alpha + c alpha^2 in M,   c = 0.01

These rewards are small and sum to 0: use `algorithm.advantage=no-std` with them, or group-norm blows them up
to full size.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import (
    Answers,
    Groups,
    Judgement,
    Method,
    OptionValue,
    by_vote,
    pooled,
)
from megatron_coreward.coreward.voting import Vote
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View

OPTIONS = {"fallback": "zero"}
CHOICES = {"fallback": ("zero", "reszero")}
PENALTY = 0.01
"""c: how much the supporters of a majority without a label lose."""


def adapted(method: Method, options: Mapping[str, OptionValue]) -> Method:
    """A reward of ResZero above 0 does not say that the answer is held for right."""
    return replace(method, graded=options["fallback"] == "zero")


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Needs both views; swapping them swaps the judgements."""
    original, rephrased = (groups[view].answers for view in View)
    first, second = original.vote, rephrased.vote
    agreed = first.label is not None and first.label == second.label
    label = first.label if agreed else None
    counts, share = first.count + second.count, (first.share + second.share) / 2
    voters = pooled(original, rephrased, Vote(label, counts, share, first.tied or second.tied))
    judged = {view: by_vote(group.answers, voters) for view, group in groups.items()}
    if not agreed and config.options["fallback"] == "reszero":
        for view, group in groups.items():
            judged[view] = Judgement(
                residual_rewards(group.answers), share=group.answers.vote.share, vote=voters.vote
            )
    return judged


def residual_rewards(answers: Answers) -> list[float]:
    """ResZero, as in the header; 0 for all where the view has no majority."""
    majority = answers.vote.label
    if majority is None:
        return [0.0] * len(answers.classes)
    rest = Counter(c for c in answers.classes if c != majority)
    alpha = answers.vote.share
    others = max(rest.total() - 1, 1)  # a lone one has nobody to agree with

    def support(c: int) -> float:
        return (rest[c] - 1) / others if c != NO_ANSWER else 0.0

    mean = sum(count * support(c) for c, count in rest.items()) / max(rest.total(), 1)
    offset = PENALTY * alpha**2
    return [
        offset - PENALTY * alpha if c == majority else offset + alpha * (support(c) - mean)
        for c in answers.classes
    ]
