"""Outcomes of questions, and their comparison, with a scripted rollout engine."""

import json
from dataclasses import replace

import numpy as np
import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.evaluation.measures import Row, Scores, compare
from megatron_coreward.evaluation.outcomes import evaluate, measure
from megatron_coreward.grading.grader import Grader
from megatron_coreward.reporting.changes import read_scores
from megatron_coreward.requests import make_requests
from megatron_coreward.types import QuestionPair
from tests.support.fakes import run_threads
from tests.support.paths import ROOT
from tests.support.scripted import SCRIPT, ScriptedEngine, config, question, questions


def run_scripted(world_size: int = 1) -> list[tuple[Scores, list[Row]]]:
    def work(comm) -> tuple[Scores, list[Row]]:
        engine = ScriptedEngine(SCRIPT, comm.rank, world_size)
        grader = Grader("math")
        return measure(engine, comm, questions(), config(), grader, seeds=[1], ks=[4])

    return run_threads(world_size, work)


def evaluate_alone(engine: ScriptedEngine, asked: list[EvaluationQuestion], equality="math", samples=4):
    def work(comm) -> Scores:
        grader = Grader(equality)
        return evaluate(engine, comm, asked, config(samples), grader)

    return run_threads(1, work)[0]


def test_outcomes_by_hand():
    [(result, _)] = run_scripted()
    assert result.question_ids_Q.tolist() == [3, 10, 6, 5, 8]
    assert result.greedy_Q.tolist() == [True, True, False, False, False]
    assert result.sampled_SQK.astype(int).tolist() == [
        [
            [1, 1, 0, 1],
            [1, 0, 0, 0],
            [1, 1, 0, 0],
            [0, 0, 0, 1],
            [0, 0, 0, 0],
        ]
    ]
    assert result.majorities[4].tolist() == [[True, False, True, True, False]]
    assert result.metrics() == {"eval/greedy_pass@1": 0.4, "eval/pass@1": 0.35, "eval/maj@4": 0.6}


def test_every_rank_gets_the_outcomes_of_all():
    [(alone, rows)] = run_scripted()
    (first, first_rows), (second, second_rows) = run_scripted(world_size=2)
    for result in (first, second):
        assert result.summary(bootstrap_seed=1) == alone.summary(bootstrap_seed=1)
    assert 0 < len(first_rows) < len(rows) == len(first_rows) + len(second_rows) == 5 * (1 + 4)


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


def test_exact_equality_grades_like_the_authors_code():
    engine = ScriptedEngine({6: ("0.5", ["0.5", "\\frac{1}{2}"])})
    result = evaluate_alone(engine, [question(6, "\\frac{1}{2}")], equality="exact", samples=2)
    assert result.greedy_Q.tolist() == [False]
    assert result.sampled_SQK.tolist() == [[[False, True]]]


def test_summary_survives_json_and_compares():
    [(result, _)] = run_scripted()
    again = Scores.from_outcomes([json.loads(json.dumps(result.summary(bootstrap_seed=1)))["outcomes"]])
    assert again.summary(bootstrap_seed=1) == result.summary(bootstrap_seed=1)
    better = replace(result, greedy_Q=~result.greedy_Q)
    differences = compare(again, better, bootstrap_seed=1)
    assert differences["eval/greedy_pass@1"].value == pytest.approx(0.2)
    assert differences["eval/pass@1"] == (0, 0, 0)
    assert set(differences) == {"eval/greedy_pass@1", "eval/pass@1", "eval/maj@4"}


def test_different_questions_are_not_compared():
    [(result, _)] = run_scripted()
    with pytest.raises(ValueError, match="different questions"):
        compare(result, replace(result, question_ids_Q=result.question_ids_Q + 1), bootstrap_seed=1)


def test_fewer_samples_are_not_compared():
    [(result, _)] = run_scripted()
    fewer = replace(result, sampled_SQK=result.sampled_SQK[:, :, :2], majorities={2: result.majorities[4]})
    with pytest.raises(ValueError, match=r"questions or samples: \(5, 4\) and \(5, 2\)"):
        compare(result, fewer, bootstrap_seed=1)


@pytest.mark.parametrize("step", [0, 3])
def test_what_the_first_version_wrote_is_read_and_written_again(step: int):
    """The file holds every figure of its outcomes; the same figures come out, to the last bit."""
    file = ROOT / "tests" / "fixtures" / "first_run" / "run" / "evaluations" / f"step_{step:06d}.json"
    scores = read_scores(file)
    assert json.dumps(scores.summary(bootstrap_seed=3)) + "\n" == file.read_text()


def test_training_takes_part_of_what_the_program_measures():
    """Training's scores are the program's with one seed and one k; more of either leave them as they are."""

    def work(comm) -> tuple[Scores, Scores]:
        grader = Grader("math")
        alone = evaluate(ScriptedEngine(SCRIPT), comm, questions(), config(), grader)
        engine = ScriptedEngine(SCRIPT)
        more, _ = measure(engine, comm, questions(), config(), grader, seeds=[1, 2], ks=[1, 2, 3])
        return alone, more

    [(alone, more)] = run_threads(1, work)
    assert set(more.majorities) == {2, 3, 4}
    np.testing.assert_array_equal(alone.sampled_SQK[0], more.sampled_SQK[0])
    np.testing.assert_array_equal(alone.majorities[4][0], more.majorities[4][0])
    assert alone.outcomes() == more.outcomes()[:1]
