"""A rollout engine with scripted responses, and outcomes of an evaluation computed by hand."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.types import GenerationRequest, Response, Sampling

Script = dict[int, tuple[str, list[str]]]


class ScriptedEngine:
    """Answers what `script[question]` = (greedy, samples) says; a rank draws its questions only.

    A second sampled draw of K goes on with the samples K, K + 1, ..., and starts anew at the end of the list.
    """

    asleep_bytes = 0

    def __init__(self, script: Script, rank: int = 0, world_size: int = 1) -> None:
        self.script, self.rank, self.world_size = script, rank, world_size
        self.seeds: list[int] = []
        self._said = 0

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        self.seeds += [request.seed for request in requests]
        greedy, said = sampling.temperature == 0, self._said
        if not greedy:
            self._said += 1 + max(request.sample for request in requests)
        return [
            self._respond(request, one if greedy else samples[(said + request.sample) % len(samples)])
            for request in requests
            for one, samples in [self.script[request.pair_id]]
            if request.pair_id % self.world_size == self.rank
        ]

    def _respond(self, request: GenerationRequest, answer: str) -> Response:
        return Response(
            pair_id=request.pair_id,
            view=request.view,
            sample=request.sample,
            prompt_ids=request.prompt_ids,
            response_ids=np.zeros(5, np.int32),
            rollout_logps=np.zeros(5, np.float32),
            text=f"so it is \\boxed{{{answer}}}" if answer else "I give up",
            finish_reason="stop" if answer else "length",
            weights_version=0,
        )

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> None:
        raise AssertionError("an evaluation loads no weights")

    def sleep(self, *, keep_weights: bool) -> None:
        raise AssertionError("an evaluation does not sleep")

    def wake(self, tags: Sequence[str]) -> None:
        raise AssertionError("an evaluation does not wake")


SCRIPT: Script = {
    3: ("4", ["4", "4", "5", "4"]),  # right
    10: ("7", ["7", "8", "8", ""]),  # greedy right, majority wrong
    6: ("1", ["0.5", "1/2", "3", "3"]),  # a tie of two equal answers and two others: the first counts
    5: ("", ["", "", "", "9"]),  # no answer does not vote
    8: ("", ["", "", "", ""]),  # nothing to vote on
}
TRUTHS = {3: "4", 10: "7", 6: "\\frac{1}{2}", 5: "9", 8: "2"}
LEVELS = {3: "Level 1", 10: "Level 2", 6: "Level 1", 5: "Level 2", 8: ""}


def question(question_id: int, answer: str) -> EvaluationQuestion:
    return EvaluationQuestion(
        question_id,
        f"question {question_id}",
        answer,
        level=LEVELS.get(question_id, ""),
        prompt_ids=(1, 2, question_id),
    )


def questions() -> list[EvaluationQuestion]:
    """Those of SCRIPT."""
    return [question(question_id, truth) for question_id, truth in TRUTHS.items()]


def config(samples: int = 4) -> Config:
    config = Config()
    config.evaluation.samples = samples
    return config
