"""The probe of a run: the same unlabelled pairs, drawn and compared every few steps (health.py says why).

Drawn by the rollout engine as an evaluation is, in a stream of its own (requests.py) and compared by a grader
of its own, so that training's seeds, rewards and the grader's memory are those of a run without it.
"""

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any

from megatron_coreward.config.schema import Config
from megatron_coreward.evaluation.health import Majority, Prompt, chance_of, changes_of, figures_of
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import Grader
from megatron_coreward.requests import PROBE, make_requests
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.types import QuestionPair, Response, Sampling, View

TEMPERATURE = 1.0
"""Of the samples."""
_GREEDY = -1
"""In the place of a greedy response's sample."""

_Answer = tuple[int, str, int, str]
"""Pair, wording, sample, normal form."""


class Probe:
    """Remembers the majorities of the start and of the last probe, and the figures of all, on every rank."""

    def __init__(
        self, engine: RolloutEngine, comm: Communicator, pairs: Sequence[QuestionPair], config: Config
    ) -> None:
        assert pairs, "a probe needs pairs"
        reward = config.reward
        self._engine, self._comm, self._pairs, self._config = engine, comm, pairs, config
        self._grader = Grader(reward.equality, reward.timeout_s, reward.workers)
        self._start: list[Majority] = []
        self._last: list[Majority] = []
        self.history: list[dict[str, float]] = []

    def draw(self) -> tuple[list[Response], list[Response]]:
        """The greedy and the sampled responses that this rank holds. A collective.

        At the start the samples are drawn a second time, with numbers from `monitor.samples` on.
        """
        run, limit = self._config.run, self._config.rollout.max_response_tokens
        samples = self._config.monitor.samples * (1 if self.history else 2)
        greedy, sampled = (
            self._engine.generate(
                make_requests(self._pairs, number, run.seed, 0, stream=PROBE), Sampling(temperature, limit)
            )
            for number, temperature in ((1, 0.0), (samples, TEMPERATURE))
        )
        return greedy, sampled

    def measure(
        self, step: int, greedy: Sequence[Response], sampled: Sequence[Response], more: dict[str, float]
    ) -> None:
        """Adds the figures of what `draw` gave and `more` to the history of every rank. A collective."""
        own = [
            (r.pair_id, r.view.value, _GREEDY if kind is greedy else r.sample, self._form(r))
            for kind in (greedy, sampled)
            for r in kind
        ]
        shares = self._comm.gather(own)
        found = self._compare([answer for share in shares for answer in share]) if shares else None
        figures, majorities = self._comm.broadcast(found)
        self._last = majorities
        self._start = self._start or majorities
        self.history.append({"step": step, **figures, **more})

    def _form(self, response: Response) -> str:
        return self._grader.form(extract_answer(response.text, self._grader.equality))

    def _compare(self, answers: Sequence[_Answer]) -> tuple[dict[str, float], list[Majority]]:
        """Figures and majorities, the latter by pair and wording."""
        samples = self._config.monitor.samples
        pairs = self._in_pairs([answer for answer in answers if answer[2] < samples])
        majorities = _majorities(pairs)
        start = self._start or majorities
        figures = figures_of(pairs) | changes_of(
            *(start, self._same(start, majorities)), *(self._last, self._same(self._last, majorities))
        )
        if not self._start:
            again = [
                (pair_id, view, sample if sample == _GREEDY else sample - samples, form)
                for pair_id, view, sample, form in answers
                if sample == _GREEDY or sample >= samples
            ]
            figures |= chance_of(majorities, self._same(majorities, _majorities(self._in_pairs(again))))
        return figures, majorities

    def _in_pairs(self, answers: Sequence[_Answer]) -> list[tuple[Prompt, Prompt]]:
        """Both wordings of every pair, with one form for answers that are equal; a pair is compared alone."""
        by_pair: dict[int, dict[tuple[str, int], str]] = {pair.pair_id: {} for pair in self._pairs}
        for pair_id, view, sample, form in answers:
            by_pair[pair_id][view, sample] = form
        classes = self._grader.classify([list(forms.values()) for forms in by_pair.values()])
        pairs = []
        for forms, numbers in zip(by_pair.values(), classes, strict=True):
            smallest = {
                n: form for form, n in sorted(zip(forms.values(), numbers, strict=True), reverse=True)
            }
            named = {place: smallest[n] for place, n in zip(forms, numbers, strict=True)}
            samples = range(self._config.monitor.samples)
            original, rephrased = (
                Prompt(named[view.value, _GREEDY], tuple(named[view.value, n] for n in samples))
                for view in View
            )
            pairs.append((original, rephrased))
        return pairs

    def _same(self, before: Sequence[Majority], now: Sequence[Majority]) -> list[bool]:
        """Whether the answers are equal, by prompt; empty where nothing was before."""
        return self._grader.equal_many(
            [(old.answer, new.answer) for old, new in zip(before, now, strict=bool(before))]
        )

    def _questions(self) -> str:
        """A fingerprint of what is asked."""
        asked = [(pair.pair_id, pair.original_ids, pair.rephrased_ids) for pair in self._pairs]
        return blake2b(repr((asked, self._config.monitor.samples)).encode(), digest_size=8).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        return {
            "questions": self._questions(),
            "history": self.history,
            "start": [list(majority) for majority in self._start],
            "last": [list(majority) for majority in self._last],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. Raises ValueError if it is of other questions or samples."""
        if state["questions"] != self._questions():
            raise ValueError(
                "cannot resume: the checkpoint's probe asked other questions or drew other samples; keep "
                "monitor.* and its files unchanged, set monitor.every=0, or start a new run.output_dir"
            )
        self.history = list(state["history"])
        self._start = [Majority(*majority) for majority in state["start"]]
        self._last = [Majority(*majority) for majority in state["last"]]


def _majorities(pairs: Sequence[tuple[Prompt, Prompt]]) -> list[Majority]:
    return [prompt.majority for pair in pairs for prompt in pair]
