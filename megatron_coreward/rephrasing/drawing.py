"""Draws wordings, and compares the answers to both, with a model behind the interface `Drawer`. Collectives.

Every rank calls the same functions with the same arguments and gets the same results. Seeds depend on the
run's seed, the question's row and the attempt, so that neither batches nor replicas nor a resume change what
is drawn (exactly so with vLLM on a CPU; see rollout/engine.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from megatron_coreward.config.fields import SYSTEM_PROMPT
from megatron_coreward.coreward.voting import vote
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import Drawn, message
from megatron_coreward.rephrasing.checks import Finding
from megatron_coreward.requests import ANSWERS, REPHRASING, Stream
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Sampling, View

LEAST_AGREEMENT = 0.5
"""Share of its samples that a wording's answer needs to be compared at all."""

Chats = Mapping[tuple[int, View], str]
"""User turn by row and wording."""
Responses = Mapping[tuple[int, View, int], Drawn]
"""Response by row, wording and sample."""


@dataclass(frozen=True)
class Purpose:
    """What responses are for decides their system turn (none if empty), their seeds and their sampling."""

    system_prompt: str
    stream: Stream
    sampling: Sampling


class Drawer(Protocol):
    """A model that draws responses: local.py and endpoint.py. All that can be checked is at construction."""

    identity: dict[str, Any]
    """What decides the responses, beside the options of the command."""

    def start(self, comm: Communicator) -> None:
        """Gets ready. Raises ValueError if it cannot. A collective."""

    def draw(self, purpose: Purpose, chats: Chats, samples: Sequence[int], step: int = 0) -> Responses:
        """Each of `samples` for each chat, on all ranks; none where the prompt is too long. A collective."""

    def close(self) -> None:
        """Ends the model."""


@dataclass(frozen=True)
class Rephraser:
    """attempts.Draw and attempts.Compare. Of `answer_samples` answers per wording the majority counts."""

    drawer: Drawer
    comm: Communicator
    grader: Grader
    rephrasing: Sampling
    answers: Sampling
    answer_samples: int

    def draw(self, attempt: int, questions: Mapping[int, str]) -> dict[int, Drawn]:
        """One response per question whose prompt fits."""
        chats = {(row, View.REPHRASED): message(question) for row, question in questions.items()}
        drawn = self.drawer.draw(Purpose("", REPHRASING, self.rephrasing), chats, [attempt])
        return {row: response for (row, _, _), response in drawn.items()}

    def compare(self, attempt: int, wordings: Mapping[int, tuple[str, str]]) -> dict[int, Finding]:
        """Faults of the pairs whose two majority answers are known and differ."""
        chats = {(row, View.ORIGINAL): original for row, (original, _) in wordings.items()}
        chats |= {(row, View.REPHRASED): rephrased for row, (_, rephrased) in wordings.items()}
        purpose = Purpose(SYSTEM_PROMPT, ANSWERS, self.answers)
        drawn = self.drawer.draw(purpose, chats, range(self.answer_samples), attempt)
        # A comparison that runs out of time could end differently on another rank.
        faults = self._differences(drawn) if self.comm.rank == 0 else {}
        return self.comm.broadcast(faults)

    def _differences(self, drawn: Responses) -> dict[int, Finding]:
        groups: dict[int, dict[View, list[str]]] = {}
        for (row, view, _), response in sorted(drawn.items()):
            answer = self.grader.form(extract_answer(response.text, self.grader.equality))
            groups.setdefault(row, {wording: [] for wording in View})[view].append(answer)
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
