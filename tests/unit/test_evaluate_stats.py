"""Evaluation: the statistics by hand, and the outcomes with a rollout engine that says what it is told."""

import json
from itertools import combinations

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from megatron_coreward import evaluate as module
from megatron_coreward.config import Config
from megatron_coreward.coreward.grader import Grader
from megatron_coreward.data.prompts import EvaluationQuestion
from megatron_coreward.evaluate import EvalResult, compare, evaluate, result_table, write_results
from megatron_coreward.rollout.placement import make_requests
from megatron_coreward.types import QuestionPair, Response
from megatron_coreward.utils import bootstrap
from megatron_coreward.utils.bootstrap import mean_interval, paired_bootstrap, pass_at_k
from tests.fakes import run_threads
from tests.models import tiny_model


def test_pass_at_k_by_hand():
    correct_QN = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=bool)
    np.testing.assert_allclose(pass_at_k(correct_QN, 1), [0.25, 0, 1, 0.5])
    np.testing.assert_allclose(pass_at_k(correct_QN, 2), [0.5, 0, 1, 5 / 6])
    np.testing.assert_allclose(pass_at_k(correct_QN, 4), [1, 0, 1, 1])


def test_pass_at_k_is_the_mean_over_all_subsets():
    correct_QN = np.random.default_rng(0).random((6, 7)) < 0.4
    for k in range(1, 8):
        subsets = [correct_QN[:, list(chosen)].any(axis=1) for chosen in combinations(range(7), k)]
        np.testing.assert_allclose(pass_at_k(correct_QN, k), np.mean(subsets, axis=0))


def test_mean_interval_has_the_normal_width():
    values_Q = np.array([0.0, 1.0] * 200)
    interval = mean_interval(values_Q, seed=0)
    half_width = 1.96 * 0.5 / np.sqrt(400)
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.5 - half_width, abs=0.006)
    assert interval.high == pytest.approx(0.5 + half_width, abs=0.006)


def test_intervals_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    values_Q = np.random.default_rng(0).random(30)
    expected = mean_interval(values_Q, seed=0, samples=1000)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 700)
    assert mean_interval(values_Q, seed=0, samples=1000) == pytest.approx(expected)


def test_intervals_are_seeded():
    values_Q = np.random.default_rng(0).random(30)
    assert mean_interval(values_Q, seed=0) == mean_interval(values_Q, seed=0)
    assert mean_interval(values_Q, seed=0) != mean_interval(values_Q, seed=1)


def test_bootstrap_is_paired():
    """A gain of exactly 0.1 on every question is certain, however much the questions differ."""
    before_Q = np.random.default_rng(0).random(50)
    difference = paired_bootstrap(before_Q, before_Q + 0.1, seed=0)
    np.testing.assert_allclose(difference, [0.1, 0.1, 0.1])


def test_bootstrap_of_outcomes_that_changed():
    before_Q, after_Q = np.zeros(100, dtype=bool), np.arange(100) < 20
    difference = paired_bootstrap(before_Q, after_Q, seed=0)
    assert difference.value == pytest.approx(0.2)
    assert 0.1 < difference.low < 0.15 < 0.25 < difference.high < 0.3
    assert paired_bootstrap(after_Q, before_Q, seed=0).value == pytest.approx(-0.2)


def question(question_id: int, answer: str) -> EvaluationQuestion:
    return EvaluationQuestion(question_id, f"question {question_id}", answer, prompt_ids=(1, 2, question_id))


class ScriptedEngine:
    """Answers what `script[question]` = (greedy, [samples]) says; a rank draws its questions only."""

    def __init__(self, script: dict[int, tuple[str, list[str]]], rank: int = 0, world_size: int = 1) -> None:
        self.script, self.rank, self.world_size = script, rank, world_size
        self.seeds: list[int] = []

    def generate(self, requests, sampling) -> list[Response]:
        self.seeds += [request.seed for request in requests]
        answers = {q: [greedy] if sampling.temperature == 0 else s for q, (greedy, s) in self.script.items()}
        mine = [request for request in requests if request.pair_id % self.world_size == self.rank]
        return [self._respond(request, answers[request.pair_id][request.sample]) for request in mine]

    def _respond(self, request, answer: str) -> Response:
        return Response(
            pair_id=request.pair_id,
            view=request.view,
            sample=request.sample,
            prompt_ids=request.prompt_ids,
            response_ids=np.zeros(5, np.int32),
            rollout_logps=np.zeros(5, np.float32),
            text=f"so it is \\boxed{{{answer}}}" if answer else "I give up",
            finish_reason="stop",
            weights_version=0,
        )

    def load_weights(self, weights, version) -> None:
        raise AssertionError("an evaluation loads no weights")


SCRIPT = {
    3: ("4", ["4", "4", "5", "4"]),  # right
    10: ("7", ["7", "8", "8", ""]),  # greedy right, majority wrong
    6: ("1", ["0.5", "1/2", "3", "3"]),  # a tie of two equal answers and two others: the first counts
    5: ("", ["", "", "", "9"]),  # no answer does not vote
    8: ("", ["", "", "", ""]),  # nothing to vote on
}
TRUTHS = {3: "4", 10: "7", 6: "\\frac{1}{2}", 5: "9", 8: "2"}


def config(samples: int = 4) -> Config:
    config = Config()
    config.evaluation.samples = samples
    return config


def run_scripted(world_size: int = 1) -> list[EvalResult]:
    questions = [question(q, truth) for q, truth in TRUTHS.items()]

    def work(comm) -> EvalResult:
        with Grader("math") as grader:
            return evaluate(ScriptedEngine(SCRIPT, comm.rank, world_size), comm, questions, config(), grader)

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


def test_results_are_written_and_shown(tmp_path):
    [result] = run_scripted()
    summary = result.summary(seed=1)
    write_results(tmp_path, summary, result.rows)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    rows = pq.read_table(tmp_path / "samples.parquet").to_pylist()
    assert len(rows) == 25
    assert [row["correct"] for row in rows if row["question_id"] == 10] == [True, True, False, False, False]
    console = Console(width=80, record=True)
    console.print(result_table(summary))
    shown = console.export_text()
    assert "greedy_pass@1" in shown and "0.400" in shown and "maj@4" in shown and "pass@4" in shown


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("model"), context=256)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--samples", "0"], "evaluation.samples is 0"),
        (["--temperature", "-1"], "evaluation.temperature is -1"),
        (["--max-response-tokens", "1000"], "context is 256"),
        (["rollout.tensor_parallel_size=2"], "rollout.tensor_parallel_size=2 must divide"),
        (["rollout.tensor_paralel_size=2"], "rollout.tensor_parallel_size"),
        (["--file", "missing.json"], "missing.json"),
        (["--file", ""], "no questions"),
        (["--model", "missing"], "missing"),
        (["--output", "{file}/folder"], "--output"),
    ],
)
def test_wrong_arguments_are_one_clear_error(model, tmp_path, capsys, monkeypatch, arguments, expected):
    def build(*_):
        raise AssertionError("an engine was built")

    monkeypatch.setattr(module, "_run", build)
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2"}\n')
    given = ["--model", str(model), "--file", str(file), "--max-response-tokens", "16"]
    given += ["data.max_prompt_tokens=200", *[argument.format(file=file) for argument in arguments]]
    assert module.main(given) == 2
    assert expected in capsys.readouterr().err
