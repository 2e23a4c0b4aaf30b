"""The Co-Reward stage across ranks (Eq. 6-8): responses in, rewards out.

The two views of a pair may have been drawn on different ranks. What crosses ranks is the normal form of
each answer, never its text:

    holder: extract, normalise       --(pair, view, sample, form)-->   owner of the pair
    owner:  classes, votes, rewards  --(label, share, reward)------->  holder

Each pair has one owner, so no two ranks ever decide the same question. The result is a pure function of
the step's responses: the number of ranks, the placement of groups and the order of the list change
nothing. The reference gathers all text on one driver and loops over it.
"""

import time
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from megatron_coreward.config import RewardConfig
from megatron_coreward.coreward.answers import extract_answer
from megatron_coreward.coreward.grader import NO_ANSWER, Grader
from megatron_coreward.coreward.rewards import co_reward
from megatron_coreward.coreward.voting import Vote
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, ScoredResponse, View
from megatron_coreward.utils.metrics import Figures

VIEWS = (View.ORIGINAL, View.REPHRASED)


class _Answer(NamedTuple):
    """One response as its pair's owner sees it; sorts in canonical order."""

    pair_id: int
    view: str
    sample: int
    form: str


class _Verdict(NamedTuple):
    label: str
    share: float
    reward: float


class CoRewardStage:
    """roles.RewardStage: every view is judged by the other view's majority. Sees no ground truth.

    After a call, on every rank:
        figures: what the owner knows of its pairs; merge over ranks (names in docs/metrics.md).
        last_bytes: pickled bytes that this rank sent to others.
        last_seconds: duration of the call.
    """

    def __init__(self, comm: Communicator, grader: Grader, config: RewardConfig) -> None:
        assert config.method == "co_reward", f"CoRewardStage cannot do reward.method={config.method}"
        self._comm = comm
        self._grader = grader
        self._config = config
        self.figures = Figures()
        self.last_bytes = 0
        self.last_seconds = 0.0

    def __call__(self, responses: Sequence[Response]) -> list[ScoredResponse]:
        """The same responses in the same order, with answer, label, its share, and reward. A collective."""
        started = time.perf_counter()
        timeouts, bytes_before = self._grader.timeouts, self._comm.bytes_sent
        self.figures = Figures()
        answers = [
            _Answer(r.pair_id, r.view.value, r.sample, self._grader.form(extract_answer(r.text)))
            for r in responses
        ]
        owners = self._owners({answer.pair_id for answer in answers})
        outgoing: list[list[_Answer]] = [[] for _ in range(self._comm.world_size)]
        for answer in answers:
            outgoing[owners[answer.pair_id]].append(answer)
        received = self._exchange(outgoing)
        verdicts = self._judge(sorted(_Answer._make(item) for part in received for item in part))
        returned = self._exchange([[verdicts[answer] for answer in part] for part in received])
        verdict_of = {
            answer: _Verdict._make(item)
            for sent, back in zip(outgoing, returned, strict=True)
            for answer, item in zip(sent, back, strict=True)
        }
        self._note_top_answers(answers)
        self.figures.add_sum("grader/timeouts", self._grader.timeouts - timeouts)
        self.last_bytes = self._comm.bytes_sent - bytes_before
        self.figures.add_sum("stage/bytes", self.last_bytes)
        self.last_seconds = time.perf_counter() - started
        return [_scored(r, a, verdict_of[a]) for r, a in zip(responses, answers, strict=True)]

    def _owners(self, pair_ids: set[int]) -> dict[int, int]:
        """Owner rank of every pair of the step: dealt out in order, so ranks differ by one pair at most."""
        gathered = self._comm.all_gather(sorted(pair_ids))
        distinct = sorted({pair_id for part in gathered for pair_id in part})
        return {pair_id: i % self._comm.world_size for i, pair_id in enumerate(distinct)}

    def _exchange(self, outgoing: Sequence[Sequence[tuple]]) -> list[list]:
        # plain tuples: pickled without the name of their class in every item
        return self._comm.all_to_all([[tuple(item) for item in part] for part in outgoing])

    def _judge(self, answers: Sequence[_Answer]) -> dict[tuple, _Verdict]:
        """Verdicts on all responses of the pairs that this rank owns; `answers` in canonical order."""
        by_pair: dict[int, dict[str, list[_Answer]]] = {}
        for answer in answers:
            by_pair.setdefault(answer.pair_id, {}).setdefault(answer.view, []).append(answer)
        for pair_id, views in by_pair.items():
            _check_pair(pair_id, views)
        pairs = [[views[view.value] for view in VIEWS] for views in by_pair.values()]
        classes = self._grader.classify([[a.form for answers in pair for a in answers] for pair in pairs])
        verdicts: dict[tuple, _Verdict] = {}
        for pair, ids in zip(pairs, classes, strict=True):
            halves = ids[: len(pair[0])], ids[len(pair[0]) :]
            votes, rewards = co_reward(*halves, self._config.ties, self._config.min_agreement)
            labels = [_label(*voted) for voted in zip(votes, pair, halves, strict=True)]
            for answers_of_view, judge, earned in zip(pair, reversed(labels), rewards, strict=True):
                for answer, reward in zip(answers_of_view, earned, strict=True):
                    verdicts[answer] = _Verdict(*judge, reward)
            self._note_pair(votes, halves)
        return verdicts

    def _note_pair(self, votes: Sequence[Vote], halves: Sequence[Sequence[int]]) -> None:
        for view, vote, classes in zip(VIEWS, votes, halves, strict=True):
            self.figures.add_mean(f"{view.value}/majority_share", vote.share, 1)
            self.figures.add_mean(f"{view.value}/distinct_answers", len(set(classes) - {NO_ANSWER}), 1)
            self.figures.add_mean("coreward/labelled", vote.label is not None, 1)
            self.figures.add_mean("coreward/tied", vote.tied, 1)
        if all(vote.label is not None for vote in votes):
            self.figures.add_mean("coreward/agreement", votes[0].label == votes[1].label, 1)

    def _note_top_answers(self, answers: Sequence[_Answer]) -> None:
        """The share of the one most frequent answer among all questions: near 1 after a collapse."""
        local = {view: Counter(a.form for a in answers if a.view == view.value) for view in VIEWS}
        gathered = self._comm.all_gather(local)
        if self._comm.rank == 0:
            for view in VIEWS:
                counts: Counter[str] = sum((part[view] for part in gathered), Counter())
                top = max((n for form, n in counts.items() if form), default=0)
                self.figures.add_mean(f"{view.value}/top_answer_share", top, counts.total())


def _check_pair(pair_id: int, views: dict[str, list[_Answer]]) -> None:
    assert len(views) == len(VIEWS), f"pair {pair_id} has only {sorted(views)} responses, it needs both views"
    for view, answers in views.items():
        samples = [answer.sample for answer in answers]
        assert len(set(samples)) == len(samples), f"pair {pair_id}, {view}: repeated samples in {samples}"


def _label(vote: Vote, answers: Sequence[_Answer], classes: Sequence[int]) -> tuple[str, float]:
    """The form of the label's first sample and the share of its vote; ("", 0) without a label."""
    return ("", 0.0) if vote.label is None else (answers[classes.index(vote.label)].form, vote.share)


def _scored(response: Response, answer: _Answer, verdict: _Verdict) -> ScoredResponse:
    decided = {
        "answer": answer.form,
        "pseudo_label": verdict.label,
        "label_share": verdict.share,
        "reward": verdict.reward,
    }
    return ScoredResponse(**(vars(response) | decided))
