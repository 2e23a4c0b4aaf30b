"""The reward stage across ranks: responses in, rewards out, whatever the method.

The two views of a pair, and the teacher's responses, may have been drawn on different ranks. What crosses
ranks is the normal form of each answer, never its text:

    holder: extract, normalise       --(pair, source, view, sample, form, signal)-->  owner of the pair
    owner:  classes, votes, rewards  --(label, share, majority, reward)----------->   holder

Each pair has one owner, so no two ranks ever decide the same question. The result is a pure function of
the step's responses: the number of ranks, the placement of groups and the order of the list change
nothing. The authors' code gathers all text on one driver and loops over it.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.answer_tokens import Decode, answer_tokens
from megatron_coreward.coreward.rewards.judging import Answers, Group, Groups, Judgement, judged, voted
from megatron_coreward.coreward.rewards.registry import method_of, views_of
from megatron_coreward.coreward.voting import Vote, in_band
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, ScoredResponse, View
from megatron_coreward.utils.metrics import Figures

POLICY, TEACHER = "policy", "teacher"
_Identity = tuple[int, str, str, int]
"""(pair_id, source, view, sample)"""


class _Answer(NamedTuple):
    """One response as its pair's owner sees it; sorts in canonical order, the policy's first."""

    pair_id: int
    source: str
    view: str
    sample: int
    form: str
    signal: float = 0.0

    @property
    def identity(self) -> _Identity:
        return (self.pair_id, self.source, self.view, self.sample)


_ByGroup = dict[tuple[str, str], list[tuple[_Answer, int]]]
"""Answers of one pair with their classes, by (source, view)."""


class _Verdict(NamedTuple):
    label: str
    share: float
    majority: str
    reward: float


class CoRewardStage:
    """roles.RewardStage, for every method of rewards/registry.py.

    `config` is complete (registry.with_options). `truths` by pair_id is for a method that needs it; any other
    must not be given one. `decode` is for `algorithm.mask_answer`.
    """

    def __init__(
        self,
        comm: Communicator,
        grader: Grader,
        config: Config,
        truths: Mapping[int, str] | None = None,
        decode: Decode | None = None,
    ) -> None:
        self._comm = comm
        self._grader = grader
        self._config = config
        self._method = method_of(config)
        self._views = views_of(config)
        assert (truths is not None) == self._method.truth, (
            f"reward.method={config.reward.method}: ground truths {'missing' if truths is None else 'given'}"
        )
        self._truths = truths or {}
        self._decode = decode

    def __call__(
        self, responses: Sequence[Response], teacher: Sequence[Response] = ()
    ) -> tuple[list[ScoredResponse], Figures]:
        """roles.RewardStage."""
        timeouts, bytes_before = self._grader.timeouts, self._comm.bytes_sent
        answers = [self._answer(response, POLICY) for response in responses]
        outgoing = self._by_owner([*answers, *(self._answer(response, TEACHER) for response in teacher)])
        received = [[_Answer(*item) for item in of_rank] for of_rank in self._exchange(outgoing)]
        verdicts, figures = self._judge(sorted(answer for of_rank in received for answer in of_rank))
        returned = self._exchange(
            [[verdicts[a.identity] for a in of_rank if a.source == POLICY] for of_rank in received]
        )
        verdict_of = {
            answer.identity: _Verdict(*item)
            for sent, items in zip(outgoing, returned, strict=True)
            for answer, item in zip([a for a in sent if a.source == POLICY], items, strict=True)
        }
        figures.merge(self._top_answer_figures(answers))
        figures.add_sum("grader/timeouts", self._grader.timeouts - timeouts)
        figures.add_sum("stage/bytes", self._comm.bytes_sent - bytes_before)
        scored = [_scored(r, a, verdict_of[a.identity]) for r, a in zip(responses, answers, strict=True)]
        if self._config.algorithm.mask_answer:
            scored = [self._with_answer_tokens(response, figures) for response in scored]
        return scored, figures

    def _answer(self, response: Response, source: str) -> _Answer:
        form = self._grader.form(extract_answer(response.text, self._grader.equality))
        signal = 0.0
        if self._method.signal is not None and source == POLICY:
            signal = float(self._method.signal(response, self._config))
        return _Answer(response.pair_id, source, response.view.value, response.sample, form, signal)

    def _with_answer_tokens(self, response: ScoredResponse, figures: Figures) -> ScoredResponse:
        if response.sample >= self._config.rollout.samples:  # it only votes
            return response
        assert self._decode is not None, "algorithm.mask_answer needs the tokenizer"
        ids, equality = response.response_ids.tolist(), self._config.reward.equality
        tokens = answer_tokens(response.text, ids, self._decode, equality)
        figures.add_mean(f"{response.view.value}/answer_tokens", len(tokens), 1)
        return replace(response, answer_tokens=tokens)

    def _by_owner(self, answers: Sequence[_Answer]) -> list[list[_Answer]]:
        owners = self._owners({answer.pair_id for answer in answers})
        outgoing: list[list[_Answer]] = [[] for _ in range(self._comm.world_size)]
        for answer in answers:
            outgoing[owners[answer.pair_id]].append(answer)
        return outgoing

    def _owners(self, pair_ids: set[int]) -> dict[int, int]:
        """Owner rank of every pair of the step: dealt out in order, so ranks differ by one pair at most."""
        gathered = self._comm.all_gather(sorted(pair_ids))
        distinct = sorted({pair_id for of_rank in gathered for pair_id in of_rank})
        return {pair_id: i % self._comm.world_size for i, pair_id in enumerate(distinct)}

    def _exchange(self, outgoing: Sequence[Sequence[tuple]]) -> list[list[tuple]]:
        # plain tuples: pickled without the name of their class in every item
        return self._comm.all_to_all([[tuple(item) for item in to_rank] for to_rank in outgoing])

    def _judge(self, answers: Sequence[_Answer]) -> tuple[dict[_Identity, _Verdict], Figures]:
        """Verdicts on the policy's responses to this rank's own pairs; `answers` in canonical order."""
        by_pair: dict[int, list[_Answer]] = {}
        for answer in answers:
            by_pair.setdefault(answer.pair_id, []).append(answer)
        truths = {pair_id: self._grader.form(self._truths[pair_id]) for pair_id in by_pair if self._truths}
        forms = [
            [*(a.form for a in of_pair), truths.get(pair_id, "")] for pair_id, of_pair in by_pair.items()
        ]
        verdicts: dict[_Identity, _Verdict] = {}
        figures = Figures()
        for of_pair, classes in zip(by_pair.values(), self._grader.classify(forms), strict=True):
            by_group = self._by_group(of_pair, classes)
            truth = self._truth(truths[of_pair[0].pair_id], of_pair, classes) if truths else Answers()
            groups = {view: self._group(by_group, view, truth) for view in self._views}
            judgements = judged(self._method, groups, self._config.reward)
            figures.merge(_pair_figures(groups, judgements, self._config.reward))
            for view, judgement in judgements.items():
                majority = groups[view].answers.winner
                for (answer, _), reward in zip(by_group[POLICY, view], judgement.rewards, strict=True):
                    verdicts[answer.identity] = _Verdict(judgement.label, judgement.share, majority, reward)
        return verdicts, figures

    def _truth(self, form: str, of_pair: Sequence[_Answer], classes: Sequence[int]) -> Answers:
        """The ground truth in its own class, and in those of the answers that equal it taken alone.

        Other answers of the group must not change whether one is right.
        """
        right = self._grader.equal_many([(answer.form, form) for answer in of_pair])
        return Answers([classes[-1], *(c for c, equal in zip(classes, right, strict=False) if equal)], [form])

    def _by_group(self, of_pair: Sequence[_Answer], classes: Sequence[int]) -> _ByGroup:
        by_group: _ByGroup = {}
        for answer, class_id in zip(of_pair, classes, strict=False):  # the truth's class is the last one
            by_group.setdefault((answer.source, answer.view), []).append((answer, class_id))
        sources = [POLICY, TEACHER] if self._method.teacher else [POLICY]
        _check_pair(
            of_pair[0].pair_id, by_group, [(source, view.value) for source in sources for view in self._views]
        )
        return by_group

    def _group(self, by_group: _ByGroup, view: View, truth: Answers) -> Group:
        def answers_of(source: str) -> Answers:
            members = by_group.get((source, view), [])
            return voted([c for _, c in members], [answer.form for answer, _ in members], self._config.reward)

        of_policy = by_group[POLICY, view] if self._method.signal is not None else []
        signals = [answer.signal for answer, _ in of_policy]
        return Group(answers_of(POLICY), signals, answers_of(TEACHER), truth)

    def _top_answer_figures(self, answers: Sequence[_Answer]) -> Figures:
        """The share of the one most frequent answer among all questions: near 1 after a collapse."""
        local = {view: Counter(a.form for a in answers if a.view == view.value) for view in self._views}
        gathered = self._comm.all_gather(local)
        figures = Figures()
        if self._comm.rank == 0:
            for view in self._views:
                counts: Counter[str] = sum((of_rank[view] for of_rank in gathered), Counter())
                top = max((n for form, n in counts.items() if form), default=0)
                figures.add_mean(f"{view.value}/top_answer_share", top, counts.total())
        return figures


def _check_pair(pair_id: int, by_group: _ByGroup, expected: Sequence[tuple[str, str]]) -> None:
    assert sorted(by_group) == sorted(expected), (
        f"pair {pair_id} has only {sorted(by_group)} responses, it needs {expected}"
    )
    for (source, view), members in by_group.items():
        samples = [answer.sample for answer, _ in members]
        assert len(set(samples)) == len(samples), (
            f"pair {pair_id}, {source}, {view}: repeated samples {samples}"
        )


def _pair_figures(groups: Groups, judgements: Mapping[View, Judgement], config: RewardConfig) -> Figures:
    figures, band = Figures(), (config.min_entropy, config.max_entropy)
    for view, group in groups.items():
        own, judging = group.answers.vote, judgements[view].vote
        figures.add_mean(f"{view.value}/majority_share", own.share, 1)
        distinct = set(group.answers.classes) - {NO_ANSWER}
        figures.add_mean(f"{view.value}/distinct_answers", len(distinct), 1)
        if judging is not None:
            figures.add_mean("coreward/labelled", judging.label is not None, 1)
            figures.add_mean("coreward/tied", judging.tied, 1)
        if any(band):
            figures.add_mean("coreward/in_band", in_band(group.answers.classes, *band), 1)
        if group.signals:
            figures.add_mean("reward/signal", sum(group.signals), len(group.signals))
        if group.teacher.classes:
            _add_agreement(figures, "coreward/teacher_agreement", own, group.teacher.vote)
    if len(groups) == 2:
        _add_agreement(figures, "coreward/agreement", *(group.answers.vote for group in groups.values()))
    return figures


def _add_agreement(figures: Figures, name: str, first: Vote, second: Vote) -> None:
    """Only where there are two labels to compare."""
    if first.label is not None and second.label is not None:
        figures.add_mean(name, first.label == second.label, 1)


def _scored(response: Response, answer: _Answer, verdict: _Verdict) -> ScoredResponse:
    decided = {
        "answer": answer.form,
        "pseudo_label": verdict.label,
        "label_share": verdict.share,
        "majority": verdict.majority,
        "reward": verdict.reward,
    }
    return ScoredResponse(**(vars(response) | decided))
