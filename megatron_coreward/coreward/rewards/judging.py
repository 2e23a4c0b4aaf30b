"""The record of a reward method, and those that it works on: the answers to one question, its judgement.

A method is a function from the groups of one question to judgements, one per group:

    judge(groups, config) -> {view: Judgement}

It sees classes of equal answers (grading/grader.py), never ranks or other questions. What it wants to know of
a response's text, length or log-probs is its signal, a number that is taken where the response is held:

    signal(response, config) -> float

registry.py lists the built-in methods; docs/reward_methods.md says how to write one.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.voting import Vote, in_band, vote
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import Response, View


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

    `answers` are those of the policy's responses, which are judged; `signals` what Method.signal gives each
    of these responses; `teacher` are the answers of the teacher's responses to the same wording; `truth`
    is the one ground truth, in its own class and in those of the answers that equal it. What the method does
    not need is empty.
    """

    answers: Answers
    signals: Sequence[float] = ()
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
Judge = Callable[[Groups, RewardConfig], Mapping[View, Judgement]]
Signal = Callable[[Response, Config], float]
OptionValue = bool | int | float | str


class Source(NamedTuple):
    """The file of a method of one's own, and the beginning of its SHA-256."""

    file: str
    fingerprint: str


@dataclass(frozen=True)
class Method:
    """One reward method.

    Attributes:
        judge: the method itself: judge(groups, config.reward).
        signal: a number per response, taken where the response is held: signal(response, config).
        both_views: it judges one wording by the other, so `rollout.views` must be both.
        votes: its labels are majority votes; `reward.ties`, `.min_agreement`, `.weight_by_share`,
            `.min_entropy`, `.max_entropy` and `rollout.vote_samples` apply.
        teacher: it needs the teacher's responses (section `teacher`); the KL penalty is towards the teacher.
        truth: it needs the ground truth of every question.
        confidence: the policy must measure Response.confidence first.
        graded: a reward above 0 says that the method holds the answer for right, which the log then compares
            with the ground truth (diagnostics/reward_accuracy).
        options: keys of its own, `reward.options.NAME`, with defaults: booleans, numbers or texts. A given
            value must be of the default's type; `judge` finds them all in `config.options`.
        choices: the values that an option may have, where they are few.
        adapted: the record with the flags that its options decide: adapted(method, options).
        check: raises ValueError for options that do not go with the rest of the configuration: check(config),
            before a run starts.
        source: where a method of one's own comes from (own.py sets it).
    """

    judge: Judge
    signal: Signal | None = None
    both_views: bool = False
    votes: bool = False
    teacher: bool = False
    truth: bool = False
    confidence: bool = False
    graded: bool = True
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    choices: Mapping[str, Sequence[OptionValue]] = field(default_factory=dict)
    adapted: Callable[["Method", Mapping[str, OptionValue]], "Method"] | None = None
    check: Callable[[Config], None] | None = None
    source: Source | None = None

    @property
    def fingerprint(self) -> str:
        """That of the source; "" for a built-in method."""
        return self.source.fingerprint if self.source is not None else ""


def judged(method: Method, groups: Groups, config: RewardConfig) -> Mapping[View, Judgement]:
    """The method's judgements of one question; none where the band of entropies excludes a group.

    Raises:
        ValueError: they are not one finite reward for every response of every group.
    """
    judgements = method.judge(groups, config)
    if set(judgements) != set(groups):
        raise ValueError(f"the method judged {_views(judgements)}, but was given {_views(groups)}")
    for view, group in groups.items():
        rewards, responses = judgements[view].rewards, len(group.answers.classes)
        if len(rewards) != responses:
            raise ValueError(f"the method gave {len(rewards)} rewards to {responses} responses")
        if not all(map(math.isfinite, rewards)):
            raise ValueError(f"the method gave the rewards {rewards}, which are not all finite numbers")
    return {view: _gated(groups[view], judgement, config) for view, judgement in judgements.items()}


def _gated(group: Group, judgement: Judgement, config: RewardConfig) -> Judgement:
    classes = group.answers.classes
    if in_band(classes, config.min_entropy, config.max_entropy):
        return judgement
    unlabelled = None if judgement.vote is None else replace(judgement.vote, label=None)
    return Judgement([0.0] * len(classes), vote=unlabelled)


def _views(by_view: Mapping[View, object]) -> str:
    return ", ".join(view.value for view in by_view) or "no view"


def by_vote(answers: Answers, voters: Answers) -> Judgement:
    """1 for every answer that equals the majority answer of `voters`, else 0.

    Without a label every reward is 0, as in the authors' code; the group then has advantage 0.
    """
    label = voters.vote.label
    if label is None:
        return Judgement([0.0] * len(answers.classes), vote=voters.vote)
    return Judgement(rewards_for(answers, label), voters.winner, voters.vote.share, voters.vote)


def pooled(original: Answers, rephrased: Answers, vote: Vote) -> Answers:
    """The answers to both wordings with a vote of both, originals first."""
    return Answers([*original.classes, *rephrased.classes], [*original.forms, *rephrased.forms], vote)


def by_signal(group: Group) -> Judgement:
    """The signal itself as reward."""
    return Judgement(list(group.signals))


def rewards_for(answers: Answers, label: int) -> list[float]:
    """1 for the answers of class `label`, else 0. No answer never earns a reward."""
    return [float(c == label) if c != NO_ANSWER else 0.0 for c in answers.classes]
