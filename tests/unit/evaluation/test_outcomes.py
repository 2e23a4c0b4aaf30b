"""Outcomes of questions, and their comparison, with a scripted rollout engine."""

import json

import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.evaluation.outcomes import EvalResult, compare, evaluate
from megatron_coreward.grading.grader import Grader
from megatron_coreward.requests import make_requests
from megatron_coreward.types import QuestionPair
from tests.support.fakes import run_threads
from tests.support.scripted import SCRIPT, ScriptedEngine, config, question, questions


def run_scripted(world_size: int = 1) -> list[EvalResult]:
    def work(comm) -> EvalResult:
        with Grader("math") as grader:
            return evaluate(
                ScriptedEngine(SCRIPT, comm.rank, world_size), comm, questions(), config(), grader
            )

    return run_threads(world_size, work)


def evaluate_alone(engine: ScriptedEngine, asked: list[EvaluationQuestion], equality="math", samples=4):
    def work(comm) -> EvalResult:
        with Grader(equality) as grader:
            return evaluate(engine, comm, asked, config(samples), grader)

    return run_threads(1, work)[0]


def test_outcomes_by_hand():
    [result] = run_scripted()
    assert result.question_ids_Q.tolist() == [3, 10, 6, 5, 8]
    assert result.greedy_Q.tolist() == [True, True, False, False, False]
    assert result.sampled_QK.astype(int).tolist() == [
        [1, 1, 0, 1],
        [1, 0, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 0, 1],
        [0, 0, 0, 0],
    ]
    assert result.majority_Q.tolist() == [True, False, True, True, False]
    assert result.metrics() == {"eval/greedy_pass@1": 0.4, "eval/pass@1": 0.35, "eval/maj@4": 0.6}


def test_every_rank_gets_the_outcomes_of_all():
    [alone] = run_scripted()
    first, second = run_scripted(world_size=2)
    for result in (first, second):
        assert result.summary(seed=1) == alone.summary(seed=1)
    assert 0 < len(first.rows) < len(alone.rows) == len(first.rows) + len(second.rows) == 5 * (1 + 4)


def test_a_question_that_nobody_answered_is_an_error():
    engine = ScriptedEngine(SCRIPT, rank=0, world_size=2)  # draws those with an even id only
    with pytest.raises(AssertionError, match="no outcome"):
        evaluate_alone(engine, [question(3, "4")])


def test_questions_need_distinct_ids():
    with pytest.raises(AssertionError, match="distinct"):
        evaluate_alone(ScriptedEngine(SCRIPT), [question(3, "4"), question(3, "5")])


def test_evaluations_share_their_noise_but_not_with_training():
    engine = ScriptedEngine(SCRIPT)
    for _ in range(2):
        evaluate_alone(engine, [question(3, "4")])
    assert engine.seeds[:5] == engine.seeds[5:]
    pair = QuestionPair(3, "", "", (1,), (1,))
    for step in range(3):
        assert not set(engine.seeds) & {r.seed for r in make_requests([pair], 4, Config().run.seed, step)}


def test_exact_equality_grades_like_the_reference():
    engine = ScriptedEngine({6: ("0.5", ["0.5", "\\frac{1}{2}"])})
    result = evaluate_alone(engine, [question(6, "\\frac{1}{2}")], equality="exact", samples=2)
    assert result.greedy_Q.tolist() == [False]
    assert result.sampled_QK.tolist() == [[False, True]]


def test_summary_survives_json_and_compares():
    [result] = run_scripted()
    again = EvalResult.from_summary(json.loads(json.dumps(result.summary(seed=1))))
    assert again.summary(seed=1) == result.summary(seed=1)
    better = EvalResult(result.question_ids_Q, ~result.greedy_Q, result.sampled_QK, result.majority_Q)
    differences = compare(again, better, seed=1)
    assert differences["eval/greedy_pass@1"].value == pytest.approx(0.2)
    assert differences["eval/pass@1"] == (0, 0, 0)
    assert set(differences) == {"eval/greedy_pass@1", "eval/pass@1", "eval/maj@4"}


def test_different_questions_are_not_compared():
    [result] = run_scripted()
    other = EvalResult(result.question_ids_Q + 1, result.greedy_Q, result.sampled_QK, result.majority_Q)
    with pytest.raises(ValueError, match="different questions"):
        compare(result, other, seed=1)
