"""Consensus: an answer earns the probability that it wins the vote of a few judges.

    r_i = P(ans(y_i) wins the vote of m of the judges, drawn without replacement)

A tie of t answers counts 1/t; no answer never wins. `subset` is m, 0 for all of them. The `judges` are

    own             the responses to the same wording; y_i is always one of the m
    other           those to the other wording
    teacher         the teacher's to the same wording
    teacher_other   the teacher's to the other one

The mean over who votes takes the luck of the draw out of a vote: GMAE (arXiv 2609.36750, Eq. 10) without its
normalisation. With m = all it is majority_voting, co_reward, co_rewarding_2 and co_rewarding_3, but for ties.
With other and m = 1 it is the soft form of Co-Reward, r_i = p'(ans(y_i)), the share in the other view. With
own and m = 1 everybody would win; that is read as r_i = p(ans(y_i)), the share in the group, which is EMPO's
reward (arXiv 2504.05812). The probabilities are exact: nothing is drawn.

Use `algorithm.advantage=no-std` or `rloo`, since group-norm divides out how sure the judges are.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from math import comb

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import (
    Answers,
    Groups,
    Judgement,
    Method,
    OptionValue,
    by_vote,
)
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View

OPTIONS: dict[str, OptionValue] = {"judges": "other", "subset": 1}
CHOICES = {"judges": ("own", "other", "teacher", "teacher_other")}


def adapted(method: Method, options: Mapping[str, OptionValue]) -> Method:
    """What the judges need."""
    judges = str(options["judges"])
    return replace(method, both_views="other" in judges, teacher="teacher" in judges)


def check(config: Config) -> None:
    """Raises ValueError for a vote of more judges than there are."""
    judges, subset = str(config.reward.options["judges"]), int(config.reward.options["subset"])
    key, present = "rollout.samples or rollout.vote_samples", config.rollout.drawn
    if "teacher" in judges:
        key, present = "teacher.samples", config.teacher.samples or config.rollout.samples
    if not 0 <= subset <= present:
        raise ValueError(
            f"reward.options.subset is {subset}, but reward.options.judges={judges} has {present} judges of "
            f"a wording. Set it to 1 to {present}, to 0 for all of them, or raise {key}."
        )


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """The label is that of all judges' vote; where `reward.ties` or the like leave none, nothing is paid."""
    who, subset = str(config.options["judges"]), int(config.options["subset"])
    judged = {}
    for view, group in groups.items():
        of_wording = groups[view.other] if "other" in who else group
        judges = of_wording.teacher if "teacher" in who else of_wording.answers
        judged[view] = by_vote(group.answers, judges)
        if judges.vote.label is not None:
            chances = _chances(judges, subset or len(judges.classes), own=who == "own")
            rewards = [chances.get(c, 0.0) for c in group.answers.classes]
            judged[view] = replace(judged[view], rewards=rewards)
    return judged


def _chances(judges: Answers, size: int, own: bool) -> dict[int, float]:
    """How often each of the judges' answers wins. Answers of as many judges have exactly equal chances."""
    assert size <= len(judges.classes), f"a vote of {size} among {len(judges.classes)} judges"
    counts = Counter(c for c in judges.classes if c != NO_ANSWER)
    silent = len(judges.classes) - counts.total()
    by_count = {}
    for count in set(counts.values()):
        rivals = sorted(counts.values())
        rivals.remove(count)
        by_count[count] = float(win_chance(count, rivals, silent, size, certain=own and size > 1))
    return {answer: by_count[count] for answer, count in counts.items()}


def win_chance(count: int, rivals: list[int], silent: int, size: int, certain: bool) -> Fraction:
    """The probability that an answer wins the vote of `size` judges; of t tied answers each wins 1/t.

    Args:
        count: judges that gave the answer; `certain`: one of them always votes.
        rivals: the judges of each other answer; silent: those without an answer, who do not vote.
    """
    free, seats = count - certain, size - certain
    wins = Fraction(0)
    for drawn in range(1 - certain, min(free, seats) + 1):
        votes = drawn + certain
        ways = {(seats - drawn, 1): comb(free, drawn)}  # by seats left and answers with that many votes
        for rival in rivals:
            filled: Counter[tuple[int, int]] = Counter()
            for (left, tied), number in ways.items():
                for n in range(min(rival, votes, left) + 1):
                    filled[left - n, tied + (n == votes)] += number * comb(rival, n)
            ways = filled
        wins += sum(Fraction(number * comb(silent, left), tied) for (left, tied), number in ways.items())
    return wins / comb(free + sum(rivals) + silent, seats)
