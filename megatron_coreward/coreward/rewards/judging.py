"""The records that a reward method works on: the answers to one question, and its judgement of them.

A method is a function from the groups of one question to judgements, one per group:

    judge(groups, config) -> {view: Judgement}

It sees classes of equal answers (grading/grader.py), never texts, ranks or other questions. registry.py
lists the methods; docs/reward_methods.md says how to add one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.voting import Vote, vote
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View


@dataclass(frozen=True)
class Answers:
    """Answers to one wording, in the order of samples.

    `classes` number equal answers alike, over all answers to the question; NO_ANSWER is in no class.
    `forms` are their normal forms, `vote` is the majority vote among them.
    """

    classes: Sequence[int] = ()
    forms: Sequence[str] = ()
    vote: Vote = Vote()

    @property
    def winner(self) -> str:
        """The spelling of the vote's label by its first sample; "" without a label."""
        return "" if self.vote.label is None else self.forms[self.classes.index(self.vote.label)]


def voted(classes: Sequence[int], forms: Sequence[str], config: RewardConfig) -> Answers:
    """Answers with their vote."""
    return Answers(classes, forms, vote(classes, config.ties, config.min_agreement))


@dataclass(frozen=True)
class Group:
    """All that a method may ask about one wording of one question.

    `answers` are those of the policy's responses, which are judged; `scores` what registry.Method.score gives
    each of these responses; `teacher` are the answers of the teacher's responses to the same wording; `truth`
    is the one ground truth, in its own class and in those of the answers that equal it. What the method does
    not need is empty.
    """

    answers: Answers
    scores: Sequence[float] = ()
    teacher: Answers = Answers()
    truth: Answers = Answers()


@dataclass(frozen=True)
class Judgement:
    """Rewards of one group's responses, in the order of samples.

    `label` is the normal form of the answer that was rewarded ("" = none), `share` the share of the vote
    that it won (0 without a vote), `vote` the vote that it comes from.
    """

    rewards: list[float]
    label: str = ""
    share: float = 0.0
    vote: Vote | None = None


Groups = Mapping[View, Group]
Judge = Callable[[Groups, RewardConfig], dict[View, Judgement]]


def by_vote(answers: Answers, voters: Answers) -> Judgement:
    """1 for every answer that equals the majority answer of `voters`, else 0.

    Without a label every reward is 0, as in the authors' code; the group then has advantage 0.
    """
    label = voters.vote.label
    if label is None:
        return Judgement([0.0] * len(answers.classes), vote=voters.vote)
    return Judgement(rewards_for(answers, label), voters.winner, voters.vote.share, voters.vote)


def by_score(group: Group) -> Judgement:
    """The score itself as reward."""
    return Judgement(list(group.scores))


def rewards_for(answers: Answers, label: int) -> list[float]:
    """1 for the answers of class `label`, else 0. No answer never earns a reward."""
    return [float(c == label) if c != NO_ANSWER else 0.0 for c in answers.classes]
