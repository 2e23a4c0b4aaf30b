"""Rephrasing through the rollout engine: draws wordings, and compares the answers to both. Collectives.

Every rank calls the same functions with the same arguments and gets the same results; replicas share the
requests. Seeds depend on the run's seed, the question's row and the attempt, so that neither batches nor
replicas nor a resume change what is drawn (exactly so on a CPU; see rollout/engine.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_coreward.config.schema import SYSTEM_PROMPT
from megatron_coreward.coreward.voting import vote
from megatron_coreward.data.prompts import encode_prompts
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import Drawn, message
from megatron_coreward.rephrasing.checks import Finding
from megatron_coreward.requests import request_seed
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.types import GenerationRequest, Response, Sampling, View

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPHRASING_STEP, ANSWER_STEP = -2, -3
"""In place of the training step in the requests' seeds; answers to later attempts count down from there."""

LEAST_AGREEMENT = 0.5
"""Share of its samples that a wording's answer needs to be compared at all."""


@dataclass(frozen=True)
class Settings:
    """How wordings and answers are drawn. `answer_samples` 1 is greedy, more are sampled and vote."""

    seed: int
    max_prompt_tokens: int
    rephrasing: Sampling
    answers: Sampling
    answer_samples: int
    thinking: bool = False


class Rephraser:
    """rephrasing.Draw and rephrasing.Compare on an engine."""

    def __init__(
        self,
        engine: RolloutEngine,
        comm: Communicator,
        tokenizer: "PreTrainedTokenizerBase",
        grader: Grader,
        settings: Settings,
    ) -> None:
        self.engine = engine
        self.comm = comm
        self.tokenizer = tokenizer
        self.grader = grader
        self.settings = settings

    def draw(self, attempt: int, questions: Mapping[int, str]) -> dict[int, Drawn]:
        """One response per question whose prompt fits."""
        prompts = self._prompts({row: message(question) for row, question in questions.items()}, "")
        requests = [
            GenerationRequest(
                row, View.REPHRASED, attempt, ids, self._seed(REPHRASING_STEP, row, View.REPHRASED, attempt)
            )
            for row, ids in prompts.items()
        ]
        drawn = [
            (response.pair_id, Drawn(response.text, response.finish_reason == "stop"))
            for response in self.engine.generate(requests, self.settings.rephrasing)
        ]
        return {row: one for part in self.comm.all_gather(drawn) for row, one in part}

    def compare(self, attempt: int, wordings: Mapping[int, tuple[str, str]]) -> dict[int, Finding]:
        """Faults of the pairs whose two majority answers are known and differ."""
        requests = []
        for view, place in ((View.ORIGINAL, 0), (View.REPHRASED, 1)):
            prompts = self._prompts({row: pair[place] for row, pair in wordings.items()}, SYSTEM_PROMPT)
            requests += [
                GenerationRequest(
                    row, view, sample, ids, self._seed(ANSWER_STEP - attempt, row, view, sample)
                )
                for row, ids in prompts.items()
                for sample in range(self.settings.answer_samples)
            ]
        drawn = self.engine.generate(requests, self.settings.answers)
        answers = [_answer_of(one, self.grader.equality) for one in drawn]
        gathered = [answer for part in self.comm.all_gather(answers) for answer in part]
        # A comparison that runs out of time could end differently on another rank.
        faults = self._differences(gathered) if self.comm.rank == 0 else {}
        return self.comm.broadcast(faults)

    def _differences(self, answers: Sequence[tuple[int, View, int, str]]) -> dict[int, Finding]:
        groups: dict[int, dict[View, list[str]]] = {}
        for row, view, _, answer in sorted(answers):
            groups.setdefault(row, {one: [] for one in View})[view].append(self.grader.form(answer))
        both = [group[View.ORIGINAL] + group[View.REPHRASED] for group in groups.values()]
        faults = {}
        for (row, group), forms, classes in zip(
            groups.items(), both, self.grader.classify(both), strict=True
        ):
            split = len(group[View.ORIGINAL])
            labels = [
                vote(part, "abstain", LEAST_AGREEMENT).label for part in (classes[:split], classes[split:])
            ]
            if None not in labels and labels[0] != labels[1]:
                one, other = (forms[classes.index(label)] for label in labels if label is not None)
                faults[row] = Finding("answers_differ", f"{one} and {other}")
        return faults

    def _prompts(self, texts: Mapping[int, str], system_prompt: str) -> dict[int, tuple[int, ...]]:
        """Prompts by row, without those that are too long."""
        encoded = encode_prompts(self.tokenizer, list(texts.values()), system_prompt, self.settings.thinking)
        pairs = zip(texts, encoded, strict=True)
        return {row: ids for row, ids in pairs if len(ids) <= self.settings.max_prompt_tokens}

    def _seed(self, step: int, row: int, view: View, sample: int) -> int:
        return request_seed(self.settings.seed, step, row, view, sample)


def _answer_of(response: Response, equality: str) -> tuple[int, View, int, str]:
    return response.pair_id, response.view, response.sample, extract_answer(response.text, equality)
