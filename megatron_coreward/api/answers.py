"""Answers for notebooks: which are equal, and which one a group of responses votes for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import voted
from megatron_coreward.grading import grader
from megatron_coreward.grading.answers import extract_answer


class Grader(grader.Grader):
    """The grader of a run, for answers in any spelling, without their box.

    Worker processes start with the first answer that needs one; leave the grader with `close()` or `with`.
    """

    def equal(self, a: str, b: str) -> bool:
        """Whether the two are the same answer. No answer ("") equals nothing."""
        return super().equal(self.form(a), self.form(b))

    def answer(self, text: str) -> str:
        """The normal form of the answer that a response gives in its \\boxed{}; "" if there is none."""
        return self.form(extract_answer(text, self.equality))


@dataclass(frozen=True)
class VoteResult:
    """What a group of responses says.

    `answer` is the most frequent answer in the spelling of its first response, "" without one; `share` how
    many of all responses gave it, `tied` whether another was as frequent. `classes` numbers the responses by
    their answers, equal ones alike, with -1 for none.
    """

    answer: str
    share: float
    tied: bool
    classes: list[int]


def vote(
    texts: Sequence[str], ties: Literal["first", "abstain"] = "first", min_agreement: float = 0.0
) -> VoteResult:
    """The majority answer of responses to one question, as a run's reward stage takes it.

    Args:
        texts: the responses, each with its answer in \\boxed{}.
        ties, min_agreement: as `reward.ties` and `reward.min_agreement` (docs/config.md).
    """
    config = RewardConfig(ties=ties, min_agreement=min_agreement)
    own = Grader()
    forms = [own.answer(text) for text in texts]
    answers = voted(own.classify([forms])[0], forms, config)
    return VoteResult(answers.winner, answers.vote.share, answers.vote.tied, list(answers.classes))
