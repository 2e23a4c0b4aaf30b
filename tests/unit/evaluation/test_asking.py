"""`ask`: vote by the grader's classes, the printed page, and refusals, with a scripted engine."""

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_coreward.cli import ask as program
from megatron_coreward.evaluation import asking
from megatron_coreward.evaluation.asking import Asked, ask
from megatron_coreward.evaluation.model import EvaluatedModel
from megatron_coreward.grading.grader import Grader
from tests.support.fakes import run_threads
from tests.support.models import tiny_model
from tests.support.scripted import SCRIPT, ScriptedEngine, config, question


def asked(*ids: int, greedy: bool = False, ranks: int = 1) -> list[list[Asked]]:
    def work(comm: Any) -> list[Asked]:
        engine = ScriptedEngine(SCRIPT, comm.rank, ranks)
        grader = Grader("math")
        questions = [question(number, "") for number in ids]
        return ask(engine, comm, questions, config(4), grader, greedy=greedy)

    return run_threads(ranks, work)


def shown(answer: Asked, *, full: bool = False) -> str:
    page = io.StringIO()
    program.show(answer, Console(file=page, width=80), full=full)
    return page.getvalue()


def test_equal_answers_share_a_vote() -> None:
    [[answer]] = asked(6)
    (first, halves, two), (_, three, others) = answer.answers()
    assert (halves, two, three, others) == (["0.5", "1/2"], 2, ["3"], 2)
    assert answer.vote.tied and answer.vote.label == first, "of a tie the first counts"
    assert "vote: 0.5 = 1/2 (2 of 4, 50%), 3 (2 of 4, 50%)" in shown(answer)


def test_no_answer_has_a_share_but_no_vote() -> None:
    [[answer]] = asked(5)
    assert answer.vote.label == answer.answers()[1][0]
    page = shown(answer)
    assert "vote: no answer (3 of 4, 75%), 9 (1 of 4, 25%)" in page
    assert "I give up [cut off]" in page and "Nothing is boxed" not in page


def test_nothing_boxed_is_said() -> None:
    [[answer]] = asked(8)
    assert answer.vote.label is None
    assert r"Nothing is boxed. Only the last \boxed{} is read as the answer." in shown(answer)


def test_greedy_draws_one() -> None:
    [[answer]] = asked(10, greedy=True)
    assert [row["answer"] for row in answer.rows] == ["7"]
    assert "vote:" not in shown(answer)


def test_ranks_change_nothing() -> None:
    [alone] = asked(3, 10, 5)
    first, second = asked(3, 10, 5, ranks=2)
    assert first == alone and second == []


def test_long_responses_show_their_end_unless_full() -> None:
    row = {"sample": 0, "answer": "1", "answer_class": 0, "finish_reason": "stop"}
    answer = Asked("?", [row | {"text": "first words " + "x" * 200 + r" \boxed{1}"}])
    assert "first words" not in shown(answer) and r"\boxed{1}" in shown(answer)
    assert "first words" in shown(answer, full=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), context=256)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[EvaluatedModel]:
    """The models whose engine would have been built."""
    read: list[EvaluatedModel] = []
    monkeypatch.setattr(asking, "run_with_engine", lambda model, work: read.append(model) or 0)
    return read


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([""], "question 1 is empty"),
        (["1?", " "], "question 2 is empty"),
        (["data.system_prompt="], "there is no question"),
        (["-"], "there is no question"),
        (["1?", "--greedy", "--samples", "2"], "--greedy draws one response"),
        (["1?", "--samples", "0"], "evaluation.samples is 0, but must be at least 1"),
        (["1?", "rollout.max_tokens=2"], "Unknown configuration key 'rollout.max_tokens'"),
        (["1?", "x" * 300], "question 2 has a prompt of more than 128 tokens"),
        (["x" * 300], "data.max_prompt_tokens=128: all 1"),
    ],
)
def test_wrong_input_is_one_line(
    given: list[str],
    message: str,
    folder: Path,
    read: list[EvaluatedModel],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert program.main(["--model", str(folder), *given, "data.system_prompt="]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not read


def test_a_question_with_an_equals_sign_is_no_key(folder: Path, read: list[EvaluatedModel]) -> None:
    given = ["x=5, what is x.y=3?", "data.system_prompt=Be brief."]
    assert program.main(["--model", str(folder), *given, "--samples", "3"]) == 0
    [model] = read
    assert (model.config.data.system_prompt, model.config.evaluation.samples) == ("Be brief.", 3)


def test_stdin_is_one_process_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert program.main(["--model", str(folder), "-"]) == 2
    assert "- reads the stdin of one process, and there are 2" in capsys.readouterr().err
