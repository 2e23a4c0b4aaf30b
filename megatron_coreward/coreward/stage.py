"""The reward stage across ranks: responses in, rewards out, whatever the method.

The two views of a pair, and the teacher's responses, may have been drawn on different ranks. What crosses
ranks is the normal form of each answer, never its text:

    holder: extract, normalise       --(pair, view, sample, form, signal)-->   owner of the pair
    owner:  classes, votes, rewards  --(label, share, majority, reward)----->  holder

Each pair has one owner, so no two ranks ever decide the same question. The result is a pure function of
the step's responses: the number of ranks, the placement of groups and the order of the list change
nothing. The reference gathers all text on one driver and loops over it.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Answers, Group, Judgement
from megatron_coreward.coreward.rewards.registry import method_of, views_of
from megatron_coreward.coreward.voting import Vote, vote
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, ScoredResponse, View
from megatron_coreward.utils.metrics import Figures

POLICY, TEACHER = "policy", "teacher"


class _Answer(NamedTuple):
    """One response as its pair's owner sees it; sorts in canonical order, the policy's first."""

    pair_id: int
    source: str
    view: str
    sample: int
    form: str
    signal: float = 0.0


class _Verdict(NamedTuple):
    label: str
    share: float
    majority: str
    reward: float


class CoRewardStage:
    """roles.RewardStage, for every method of rewards/registry.py.

    `truths` by pair_id is for a method that needs it; any other must not be given one.

    After a call, on every rank:
        figures: what the owner knows of its pairs; merge over ranks (names in docs/metrics.md).
        last_bytes: pickled bytes that this rank sent to others.
        last_seconds: duration of the call.
    """

    def __init__(
        self, comm: Communicator, grader: Grader, config: Config, truths: Mapping[int, str] | None = None
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
        self.figures = Figures()
        self.last_bytes = 0
        self.last_seconds = 0.0

    def __call__(
        self, responses: Sequence[Response], teacher: Sequence[Response] = ()
    ) -> list[ScoredResponse]:
        """The policy's `responses`, in the same order, with what was decided. A collective.

        `teacher` are the teacher's responses that this rank holds.
        """
        started = time.perf_counter()
        timeouts, bytes_before = self._grader.timeouts, self._comm.bytes_sent
        self.figures = Figures()
        answers = [self._answer(r, POLICY) for r in responses]
        outgoing = self._by_owner(answers + [self._answer(r, TEACHER) for r in teacher])
        received = self._exchange(outgoing)
        verdicts = self._judge(sorted(_Answer._make(item) for part in received for item in part))
        returned = self._exchange([[verdicts[a] for a in part if a[1] == POLICY] for part in received])
        verdict_of = {
            answer: _Verdict._make(item)
            for sent, back in zip(outgoing, returned, strict=True)
            for answer, item in zip([a for a in sent if a.source == POLICY], back, strict=True)
        }
        self._note_top_answers(answers)
        self.figures.add_sum("grader/timeouts", self._grader.timeouts - timeouts)
        self.last_bytes = self._comm.bytes_sent - bytes_before
        self.figures.add_sum("stage/bytes", self.last_bytes)
        self.last_seconds = time.perf_counter() - started
        return [_scored(r, a, verdict_of[a]) for r, a in zip(responses, answers, strict=True)]

    def _answer(self, response: Response, source: str) -> _Answer:
        form = self._grader.form(extract_answer(response.text, self._grader.equality))
        signal = 0.0
        if self._method.signal is not None:
            signal = self._method.signal(response, self._config.run.seed)
        return _Answer(response.pair_id, source, response.view.value, response.sample, form, signal)

    def _by_owner(self, answers: Sequence[_Answer]) -> list[list[_Answer]]:
        owners = self._owners({answer.pair_id for answer in answers})
        outgoing: list[list[_Answer]] = [[] for _ in range(self._comm.world_size)]
        for answer in answers:
            outgoing[owners[answer.pair_id]].append(answer)
        return outgoing

    def _owners(self, pair_ids: set[int]) -> dict[int, int]:
        """Owner rank of every pair of the step: dealt out in order, so ranks differ by one pair at most."""
        gathered = self._comm.all_gather(sorted(pair_ids))
        distinct = sorted({pair_id for part in gathered for pair_id in part})
        return {pair_id: i % self._comm.world_size for i, pair_id in enumerate(distinct)}

    def _exchange(self, outgoing: Sequence[Sequence[tuple]]) -> list[list]:
        # plain tuples: pickled without the name of their class in every item
        return self._comm.all_to_all([[tuple(item) for item in part] for part in outgoing])

    def _judge(self, answers: Sequence[_Answer]) -> dict[tuple, _Verdict]:
        """Verdicts on the policy's responses to this rank's own pairs; `answers` in canonical order."""
        by_pair: dict[int, list[_Answer]] = {}
        for answer in answers:
            by_pair.setdefault(answer.pair_id, []).append(answer)
        truths = {pair_id: self._grader.form(self._truths[pair_id]) for pair_id in by_pair if self._truths}
        forms = [[*(a.form for a in found), truths.get(pair_id, "")] for pair_id, found in by_pair.items()]
        verdicts: dict[tuple, _Verdict] = {}
        for (pair_id, found), classes in zip(by_pair.items(), self._grader.classify(forms), strict=True):
            truth = Answers()
            if truths:  # each answer is compared with the truth alone: company must not change its reward
                right = self._grader.equal_many([(answer.form, truths[pair_id]) for answer in found])
                matched = [c for c, equal in zip(classes, right, strict=False) if equal]
                truth = Answers([*classes[-1:], *matched], [truths[pair_id]])
            groups, asked = self._groups(pair_id, found, classes, truth)
            judgements = self._method.judge(groups, self._config.reward)
            votes = {view: self._vote(group.answers) for view, group in groups.items()}
            self._note_pair(groups, votes, judgements)
            for view, judgement in judgements.items():
                majority = groups[view].answers.winner(votes[view])
                for answer, reward in zip(asked[view], judgement.rewards, strict=True):
                    verdicts[answer] = _Verdict(judgement.label, judgement.share, majority, reward)
        return verdicts

    def _groups(
        self, pair_id: int, found: Sequence[_Answer], classes: Sequence[int], truth: Answers
    ) -> tuple[dict[View, Group], dict[View, list[_Answer]]]:
        """The groups of a pair, and the policy's answers that they are made of."""
        asked: dict[tuple[str, str], list[_Answer]] = {}
        ids: dict[tuple[str, str], list[int]] = {}
        for answer, class_id in zip(found, classes, strict=False):  # the truth's class is the last one
            asked.setdefault((answer.source, answer.view), []).append(answer)
            ids.setdefault((answer.source, answer.view), []).append(class_id)
        _check_pair(pair_id, asked, [POLICY, TEACHER] if self._method.teacher else [POLICY], self._views)

        def answers_of(source: str, view: View) -> Answers:
            key = (source, view.value)
            return Answers(ids.get(key, ()), [a.form for a in asked.get(key, ())])

        groups = {
            view: Group(
                answers=answers_of(POLICY, view),
                signals=[a.signal for a in asked[POLICY, view.value]],
                teacher=answers_of(TEACHER, view),
                truth=truth,
            )
            for view in self._views
        }
        return groups, {view: asked[POLICY, view.value] for view in self._views}

    def _vote(self, answers: Answers) -> Vote:
        return vote(answers.classes, self._config.reward.ties, self._config.reward.min_agreement)

    def _note_pair(
        self, groups: Mapping[View, Group], votes: Mapping[View, Vote], judgements: Mapping[View, Judgement]
    ) -> None:
        for view, group in groups.items():
            own, judged = votes[view], judgements[view].vote
            self.figures.add_mean(f"{view.value}/majority_share", own.share, 1)
            distinct = set(group.answers.classes) - {NO_ANSWER}
            self.figures.add_mean(f"{view.value}/distinct_answers", len(distinct), 1)
            if judged is not None:
                self.figures.add_mean("coreward/labelled", judged.label is not None, 1)
                self.figures.add_mean("coreward/tied", judged.tied, 1)
            if group.teacher.classes:
                self._note_agreement("coreward/teacher_agreement", own, self._vote(group.teacher))
        if len(votes) == 2:
            self._note_agreement("coreward/agreement", *votes.values())

    def _note_agreement(self, name: str, one: Vote, other: Vote) -> None:
        """Only where there are two labels to compare."""
        if one.label is not None and other.label is not None:
            self.figures.add_mean(name, one.label == other.label, 1)

    def _note_top_answers(self, answers: Sequence[_Answer]) -> None:
        """The share of the one most frequent answer among all questions: near 1 after a collapse."""
        local = {view: Counter(a.form for a in answers if a.view == view.value) for view in self._views}
        gathered = self._comm.all_gather(local)
        if self._comm.rank == 0:
            for view in self._views:
                counts: Counter[str] = sum((part[view] for part in gathered), Counter())
                top = max((n for form, n in counts.items() if form), default=0)
                self.figures.add_mean(f"{view.value}/top_answer_share", top, counts.total())


def _check_pair(
    pair_id: int,
    asked: Mapping[tuple[str, str], Sequence[_Answer]],
    sources: Sequence[str],
    views: Sequence[View],
) -> None:
    expected = [(source, view.value) for source in sources for view in views]
    assert sorted(asked) == sorted(expected), (
        f"pair {pair_id} has only {sorted(asked)} responses, it needs {expected}"
    )
    for (source, view), answers in asked.items():
        samples = [answer.sample for answer in answers]
        assert len(set(samples)) == len(samples), (
            f"pair {pair_id}, {source}, {view}: repeated samples {samples}"
        )


def _scored(response: Response, answer: _Answer, verdict: _Verdict) -> ScoredResponse:
    decided = {
        "answer": answer.form,
        "pseudo_label": verdict.label,
        "label_share": verdict.share,
        "majority": verdict.majority,
        "reward": verdict.reward,
    }
    return ScoredResponse(**(vars(response) | decided))
