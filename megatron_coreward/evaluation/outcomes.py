"""Which questions a model solves: greedy and sampled responses, their answers compared with the truth.

pass@1 is the mean over all samples of all questions (the paper's avg@k); maj@k takes a question as solved
when the majority answer of its k samples is right, ties going to the smallest sample index. Sampled pass@1
also rises by mere sharpening, so greedy pass@1 and maj@k are always reported with it. Outcomes are kept per
question: two evaluations of the same questions are compared by a paired bootstrap over the questions.

The paper evaluates at temperature 0.8 and publishes no evaluation code.

Shape suffixes: Q questions, K samples.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.voting import vote
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.requests import request_seed
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.types import GenerationRequest, Response, Sampling, View
from megatron_coreward.utils.bootstrap import Interval, mean_interval, paired_bootstrap, pass_at_k

GREEDY, SAMPLED = "greedy", "sampled"
SEED_STEP = -1
"""In place of the training step in the requests' seeds: every evaluation of a run draws the same noise,
which no training step draws."""

Row = dict[str, Any]


@dataclass(frozen=True)
class EvalResult:
    """Outcomes by question, the same on every rank; Q questions in the order given, K samples.

    `rows` are this rank's responses, one dict each.
    """

    question_ids_Q: np.ndarray  # int64
    greedy_Q: np.ndarray  # bool
    sampled_QK: np.ndarray  # bool
    majority_Q: np.ndarray  # bool
    rows: list[Row] = field(default_factory=list, repr=False)

    def by_question(self) -> dict[str, np.ndarray]:
        """The value of each measure for each question, float64 [Q], under its metric name."""
        samples = self.sampled_QK.shape[1]
        return {
            "eval/greedy_pass@1": self.greedy_Q.astype(float),
            "eval/pass@1": self.sampled_QK.mean(axis=1),
            f"eval/maj@{samples}": self.majority_Q.astype(float),
        }

    def metrics(self) -> dict[str, float]:
        """The figures of a training log."""
        return {name: float(values_Q.mean()) for name, values_Q in self.by_question().items()}

    def summary(self, seed: int) -> dict[str, Any]:
        """Everything but the rows, JSON-able: intervals, pass@k for k = 1, 2, 4, ..., outcomes."""
        samples = self.sampled_QK.shape[1]
        sizes = [1 << i for i in range(samples.bit_length())]
        return {
            "questions": len(self.question_ids_Q),
            "samples": samples,
            "metrics": {n: mean_interval(v, seed)._asdict() for n, v in self.by_question().items()},
            "pass@k": {str(k): float(pass_at_k(self.sampled_QK, k).mean()) for k in sizes},
            "outcomes": self.outcomes(),
        }

    def outcomes(self) -> dict[str, list[Any]]:
        """What from_summary reads."""
        return {
            "question_id": self.question_ids_Q.tolist(),
            "greedy": self.greedy_Q.astype(int).tolist(),
            "sampled": self.sampled_QK.astype(int).tolist(),
            "majority": self.majority_Q.astype(int).tolist(),
        }

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> "EvalResult":
        outcomes = summary["outcomes"]
        return cls(
            np.asarray(outcomes["question_id"], dtype=np.int64),
            np.asarray(outcomes["greedy"], dtype=bool),
            np.asarray(outcomes["sampled"], dtype=bool),
            np.asarray(outcomes["majority"], dtype=bool),
        )


def evaluate(
    engine: RolloutEngine,
    comm: Communicator,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
) -> EvalResult:
    """Draws one greedy and `evaluation.samples` sampled responses per question and grades them.

    A collective; `questions` is the same list on every rank, with distinct ids.
    """
    samples, seed = config.evaluation.samples, config.run.seed
    greedy_rows = draw(engine, questions, config, grader, GREEDY, seed)
    sampled_rows = draw(engine, questions, config, grader, SAMPLED, seed)
    ids = [question.question_id for question in questions]

    def gathered(outcomes: list[tuple[int, int, bool]], width: int) -> np.ndarray:
        """(question id, sample, solved) of all ranks as an array, bool [Q, width]."""
        parts = comm.all_gather(outcomes)
        return by_sample((outcome for part in parts for outcome in part), ids, width).astype(bool)

    return EvalResult(
        question_ids_Q=np.asarray(ids, dtype=np.int64),
        greedy_Q=gathered([(r["question_id"], 0, r["correct"]) for r in greedy_rows], 1)[:, 0],
        sampled_QK=gathered([(r["question_id"], r["sample"], r["correct"]) for r in sampled_rows], samples),
        majority_Q=gathered(_majorities(sampled_rows), 1)[:, 0],
        rows=greedy_rows + sampled_rows,
    )


def draw(
    engine: RolloutEngine,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
    decoding: str,
    seed: int,
) -> list[Row]:
    """This rank's responses, graded: a row for each, in canonical order. A collective.

    GREEDY draws one per question, SAMPLED `evaluation.samples` at `evaluation.temperature` with the noise
    of `seed`.
    """
    by_id = {question.question_id: question for question in questions}
    assert len(by_id) == len(questions) > 0, "evaluation questions need distinct ids, and there must be some"
    greedy = decoding == GREEDY
    requests = _requests(questions, 1 if greedy else config.evaluation.samples, seed)
    temperature = 0.0 if greedy else config.evaluation.temperature
    responses = engine.generate(requests, Sampling(temperature, config.rollout.max_response_tokens))
    return [{"decoding": decoding, "seed": seed, **row} for row in _grade(responses, by_id, grader)]


def by_sample(values: Iterable[tuple[int, int, int]], ids: Sequence[int], width: int) -> np.ndarray:
    """(question id, sample, value) as an array, int64 [Q, width], in the order of `ids`.

    Values are at least NO_ANSWER; none may be missing.
    """
    index = {question_id: i for i, question_id in enumerate(ids)}
    missing = NO_ANSWER - 1
    array = np.full((len(index), width), missing)
    for question_id, sample, value in values:
        array[index[question_id], sample] = value
    assert (array != missing).all(), "a question has no outcome on any rank"
    return array


def _requests(questions: Sequence[EvaluationQuestion], samples: int, seed: int) -> list[GenerationRequest]:
    """As rollout.placement.make_requests, with a question in place of a pair's original view."""
    view = View.ORIGINAL
    return [
        GenerationRequest(
            pair_id=question.question_id,
            view=view,
            sample=sample,
            prompt_ids=question.prompt_ids,
            seed=request_seed(seed, SEED_STEP, question.question_id, view, sample),
        )
        for question in questions
        for sample in range(samples)
    ]


def _grade(responses: Sequence[Response], by_id: dict[int, EvaluationQuestion], grader: Grader) -> list[Row]:
    """A row per response. Each answer is compared with the truth alone, whatever else was drawn.

    `answer_class` says which answers to one question are equal among each other.
    """
    forms = [grader.form(extract_answer(response.text, grader.equality)) for response in responses]
    truths = [grader.form(by_id[response.pair_id].answer) for response in responses]
    distinct = sorted(set(zip(forms, truths, strict=True)))
    verdicts = {
        pair: form == truth != NO_ANSWER
        for pair, (form, truth) in zip(distinct, grader.classify(distinct), strict=True)
    }
    classes = _classes([response.pair_id for response in responses], forms, grader)
    return [
        {
            "question_id": response.pair_id,
            "level": by_id[response.pair_id].level,
            "subject": by_id[response.pair_id].subject,
            "sample": response.sample,
            "question": by_id[response.pair_id].question,
            "text": response.text,
            "answer": form,
            "answer_class": answer_class,
            "ground_truth": truth,
            "correct": verdicts[form, truth],
            "finish_reason": response.finish_reason,
            "response_tokens": len(response.response_ids),
        }
        for response, form, truth, answer_class in zip(responses, forms, truths, classes, strict=True)
    ]


def _classes(ids: Sequence[int], forms: Sequence[str], grader: Grader) -> list[int]:
    """The class of each form among those of the same question."""
    groups: dict[int, list[int]] = defaultdict(list)
    for place, question_id in enumerate(ids):
        groups[question_id].append(place)
    classes = [NO_ANSWER] * len(forms)
    classified = grader.classify([[forms[place] for place in group] for group in groups.values()])
    for group, found in zip(groups.values(), classified, strict=True):
        for place, answer_class in zip(group, found, strict=True):
            classes[place] = answer_class
    return classes


def _majorities(rows: Sequence[Row]) -> list[tuple[int, int, bool]]:
    """(question id, 0, whether the majority answer is right); responses without an answer do not vote.

    A class is right when its first answer in order of samples is.
    """
    groups: dict[int, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample"]):
        groups[row["question_id"]].append(row)
    outcomes = []
    for question_id, group in groups.items():
        classes = [row["answer_class"] for row in group]
        winner = vote(classes, ties="first", min_agreement=0.0).label
        outcomes.append((question_id, 0, winner is not None and group[classes.index(winner)]["correct"]))
    return outcomes


def compare(before: EvalResult, after: EvalResult, seed: int) -> dict[str, Interval]:
    """Paired differences after - before of every measure, by metric name.

    Raises:
        ValueError: the results are of different questions or numbers of samples.
    """
    ids_before, ids_after = before.question_ids_Q, after.question_ids_Q
    if not np.array_equal(ids_before, ids_after) or before.sampled_QK.shape != after.sampled_QK.shape:
        raise ValueError(
            f"cannot compare evaluations of different questions or samples: {before.sampled_QK.shape} and "
            f"{after.sampled_QK.shape}; use the same evaluation.file, .limit and .samples"
        )
    old, new = before.by_question(), after.by_question()
    return {name: paired_bootstrap(old[name], new[name], seed) for name in old}
