"""The outcomes of evaluation questions: responses are drawn, and their answers compared with the truth.

Training's evaluation, the evaluation program and `ask` draw and grade here. The paper evaluates at
temperature 0.8 and publishes no evaluation code.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Sequence

from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.evaluation.measures import GREEDY, SAMPLED, Row, Scores
from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.requests import EVALUATION, requests_for
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.types import Response, Sampling, View

logger = logging.getLogger(__name__)

_SCORED = ("decoding", "seed", "question_id", "sample", "correct", "answer_class")
"""The columns that scores are made of; ranks exchange no others."""


def evaluate(
    engine: RolloutEngine,
    comm: Communicator,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
) -> Scores:
    """The evaluation of a training run, the same on every rank. A collective."""
    seeds, ks = [config.run.seed], [config.evaluation.samples]
    return measure(engine, comm, questions, config, grader, seeds, ks)[0]


def measure(
    engine: RolloutEngine,
    comm: Communicator,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
    seeds: Sequence[int],
    ks: Sequence[int],
    name: str = "",
) -> tuple[Scores, list[Row]]:
    """The scores, the same on every rank, and the rows of this rank's responses. A collective.

    Draws a greedy response per question, and `evaluation.samples` with each of `seeds` unless `ks` is empty.
    `questions` is the same list on every rank, with distinct ids. With a `name` progress is logged.
    """
    sampled = list(seeds) if ks else []
    rows: list[Row] = []
    for decoding, seed in [(GREEDY, seeds[0]), *((SAMPLED, seed) for seed in sampled)]:
        started = time.perf_counter()
        rows += draw(engine, questions, config, grader, decoding, seed)
        if name:
            seconds = time.perf_counter() - started
            logger.info("%s: %s responses of seed %d after %.0f s", name, decoding, seed, seconds)
    shares = comm.all_gather([{key: row[key] for key in _SCORED} for row in rows])
    ids = [question.question_id for question in questions]
    samples = config.evaluation.samples if ks else 0
    return Scores.from_rows([row for share in shares for row in share], ids, sampled, samples, ks), rows


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
    prompts = ((question.question_id, View.ORIGINAL, question.prompt_ids) for question in questions)
    samples = range(1 if greedy else config.evaluation.samples)
    temperature = 0.0 if greedy else config.evaluation.temperature
    responses = engine.generate(
        requests_for(prompts, samples, seed, EVALUATION),
        Sampling(temperature, config.rollout.max_response_tokens),
    )
    return [{"decoding": decoding, "seed": seed, **row} for row in _grade(responses, by_id, grader)]


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
    for group, group_classes in zip(groups.values(), classified, strict=True):
        for place, answer_class in zip(group, group_classes, strict=True):
            classes[place] = answer_class
    return classes
