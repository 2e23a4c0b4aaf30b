"""Rephrasing through the rollout engine: draws wordings, and compares the answers to both. Collectives.

Every rank calls the same functions with the same arguments and gets the same results; replicas share the
requests. Seeds depend on the run's seed, the question's row and the attempt, so that neither batches nor
replicas nor a resume change what is drawn (exactly so on a CPU; see rollout/engine.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_coreward.config.fields import SYSTEM_PROMPT
from megatron_coreward.coreward.voting import vote
from megatron_coreward.data.prompts import encode_prompts
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import THOUGHT_START, Drawn, message
from megatron_coreward.rephrasing.checks import Finding
from megatron_coreward.requests import ANSWERS, REPHRASING, Prompt, requests_for
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.types import Response, Sampling, View

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST_AGREEMENT = 0.5
"""Share of its samples that a wording's answer needs to be compared at all."""

_LONGEST_TAG = 16
"""Tokens that the tag which begins the thoughts, and the white space after it, have at most."""


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
    """attempts.Draw and attempts.Compare on an engine."""

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
        texts = {row: message(question) for row, question in questions.items()}
        prompts = self._prompts(texts, View.REPHRASED, "")
        requests = requests_for(prompts, [attempt], self.settings.seed, REPHRASING)
        drawn = [
            (response.pair_id, Drawn(self._whole_text(response), response.finish_reason == "stop"))
            for response in self.engine.generate(requests, self.settings.rephrasing)
        ]
        return {row: wording for share in self.comm.all_gather(drawn) for row, wording in share}

    def _whole_text(self, response: Response) -> str:
        """The response, with the tag that begins its thoughts where the chat template has put it already."""
        end_of_prompt = self.tokenizer.decode(response.prompt_ids[-_LONGEST_TAG:]).rstrip()
        return f"{THOUGHT_START if end_of_prompt.endswith(THOUGHT_START) else ''}{response.text}"

    def compare(self, attempt: int, wordings: Mapping[int, tuple[str, str]]) -> dict[int, Finding]:
        """Faults of the pairs whose two majority answers are known and differ."""
        prompts = [
            prompt
            for place, view in enumerate((View.ORIGINAL, View.REPHRASED))
            for prompt in self._prompts(
                {row: pair[place] for row, pair in wordings.items()}, view, SYSTEM_PROMPT
            )
        ]
        samples, seed = range(self.settings.answer_samples), self.settings.seed
        requests = requests_for(prompts, samples, seed, ANSWERS, step=attempt)
        drawn = self.engine.generate(requests, self.settings.answers)
        answers = [_answer_of(response, self.grader.equality) for response in drawn]
        gathered = [answer for share in self.comm.all_gather(answers) for answer in share]
        # A comparison that runs out of time could end differently on another rank.
        faults = self._differences(gathered) if self.comm.rank == 0 else {}
        return self.comm.broadcast(faults)

    def _differences(self, answers: Sequence[tuple[int, View, int, str]]) -> dict[int, Finding]:
        groups: dict[int, dict[View, list[str]]] = {}
        for row, view, _, answer in sorted(answers):
            groups.setdefault(row, {wording: [] for wording in View})[view].append(self.grader.form(answer))
        both = [group[View.ORIGINAL] + group[View.REPHRASED] for group in groups.values()]
        faults = {}
        for (row, group), forms, classes in zip(
            groups.items(), both, self.grader.classify(both), strict=True
        ):
            split = len(group[View.ORIGINAL])
            labels = [
                vote(votes, "abstain", LEAST_AGREEMENT).label for votes in (classes[:split], classes[split:])
            ]
            if None not in labels and labels[0] != labels[1]:
                first, second = (forms[classes.index(label)] for label in labels if label is not None)
                faults[row] = Finding("answers_differ", f"{first} and {second}")
        return faults

    def _prompts(self, texts: Mapping[int, str], view: View, system_prompt: str) -> list[Prompt]:
        """The prompts of `texts`, which are by row, without those that are too long."""
        encoded = encode_prompts(self.tokenizer, list(texts.values()), system_prompt, self.settings.thinking)
        limit = self.settings.max_prompt_tokens
        return [(row, view, ids) for row, ids in zip(texts, encoded, strict=True) if len(ids) <= limit]


def _answer_of(response: Response, equality: str) -> tuple[int, View, int, str]:
    return response.pair_id, response.view, response.sample, extract_answer(response.text, equality)
