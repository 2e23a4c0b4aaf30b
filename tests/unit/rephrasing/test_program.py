"""Responses, attempts, seeds and replicas of rephrasing, and complete runs with a fake engine."""

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.rephrase import DONE, NOTHING, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import INSTRUCTION, Drawn, message, parse, rephrase
from megatron_coreward.rephrasing.checks import Finding, check
from megatron_coreward.rephrasing.drawing import Rephraser
from megatron_coreward.rephrasing.local import LocalDrawer
from megatron_coreward.rephrasing.store import Store
from megatron_coreward.requests import place
from megatron_coreward.types import GenerationRequest, Response, Sampling
from megatron_coreward.utils import distributed
from megatron_coreward.utils.logging import REFUSED
from tests.support.fakes import ThreadCommunicator, run_threads
from tests.support.models import byte_tokenizer, tiny_model

QUESTIONS = {row: f"How many apples are {row + 10} apples and {row + 20} apples?" for row in range(6)}
TOKENIZER = byte_tokenizer()


def good(question: str) -> str:
    return question.replace("How many apples are", "Sum up these fruits:")


def tagged(text: str) -> str:
    return f"<rephrased>\n{text}\n</rephrased>"


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("<rephrased>A?</rephrased>", True, "A?"),
        ("Well.\n<rephrased>\n A\nB? \n</rephrased>\nDone.", True, "A\nB?"),
        ("<rephrased>\nYOUR NEW WORDING\n</rephrased>\n<rephrased>A?</rephrased>", True, "A?"),
        ("<think><rephrased>draft</rephrased></think><Rephrased>A?</Rephrased>", True, "A?"),
        ("<think>... <rephrased>draft</rephrased> hmm</think>", True, None),
        ("<think>... <rephrased>draft</rephrased> hmm", True, None),
        ("<think>... <rephrased>draft</rephrased> hmm", False, None),
        ("<Thinking>... <rephrased>draft</rephrased> hmm", True, None),
        ("[THINK]... <rephrased>draft</rephrased> hmm", False, None),
        ("<think>a</think>b<think>... <rephrased>draft</rephrased>", True, None),
        ("<rephrased>A?</rephrased> No: <rephrased>B", False, None),
        ("<rephrased><rephrased>A?</rephrased></rephrased>", True, "A?"),
        ("<rephrased>\n```\n**Question:** A?\n```\n</rephrased>", True, "A?"),
        ("<rephrased>A?", True, "A?"),
        ("<rephrased>A?", False, None),
        ("A?", True, None),
        ("", True, None),
    ],
)
def test_parse(text: str, finished: bool, expected: str | None) -> None:
    assert parse(Drawn(text, finished)) == expected


def test_thoughts_that_the_template_begins_are_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSeek's templates end with the tag, so that the response has only its end or, cut off, neither."""
    template = "{{ messages[-1].content }}<think>\\n"
    drawing = rephraser(Engine(lambda prompt, request: "maybe <rephrased>draft?</rephrased> hmm"))
    assert parse(drawing.draw(0, {0: QUESTIONS[0]})[0]) == "draft?"
    monkeypatch.setattr(TOKENIZER, "chat_template", template.encode().decode("unicode_escape"))
    assert parse(drawing.draw(0, {0: QUESTIONS[0]})[0]) is None
    ended = rephraser(Engine(lambda prompt, request: "maybe</think> <rephrased>A?</rephrased>"))
    assert parse(ended.draw(0, {0: QUESTIONS[0]})[0]) == "A?"


def test_an_echo_of_the_prompt_is_no_rephrasing() -> None:
    """The flaw of the released files: the model repeats the template, the parser takes it for an answer."""
    [finding] = check(QUESTIONS[0], parse(Drawn(message(QUESTIONS[0]))) or "", INSTRUCTION)
    assert finding.reason == "placeholder"


def test_attempts() -> None:
    """What fails is drawn again, and nothing else; what is too long is not tried twice."""
    asked = []

    def draw(attempt: int, questions: Any) -> dict[int, Drawn]:
        asked.append((attempt, sorted(questions)))
        texts = {row: tagged(good(q) if attempt >= row else "<question>") for row, q in questions.items()}
        return {row: Drawn(text) for row, text in texts.items() if row != 5} | (
            {4: Drawn("no", finished=False)} if 4 in questions else {}
        )

    results = rephrase(QUESTIONS, 3, draw)
    assert asked == [(0, [0, 1, 2, 3, 4, 5]), (1, [1, 2, 3, 4]), (2, [2, 3, 4])]
    assert [one.row for one in results] == list(range(6))
    assert [one.attempts for one in results] == [1, 2, 3, 3, 3, 1]
    assert [one.reasons for one in results] == [
        *([], [], []),
        ["placeholder"],
        ["unfinished"],
        ["too_long"],
    ]
    assert results[1].rephrased == good(QUESTIONS[1]) and results[1].original == QUESTIONS[1]
    assert results[4].rephrased == "no"


def test_kept_reasons_are_no_fault() -> None:
    def draw(attempt: int, questions: Any) -> dict[int, Drawn]:
        return {row: Drawn(tagged(good(q).replace("apples?", "pears of 77"))) for row, q in questions.items()}

    assert not rephrase(QUESTIONS, 1, draw)[0].reasons  # a new number alone is none
    lossy = {0: "Are 12 and 13 apples more than 44?"}
    draw_lossy = lambda attempt, questions: {0: Drawn(tagged("What is 12 plus 13?"))}  # noqa: E731
    assert rephrase(lossy, 1, draw_lossy)[0].reasons == ["numbers_lost"]
    assert not rephrase(lossy, 1, draw_lossy, keep=["numbers_lost"])[0].reasons


def test_only_what_passed_is_compared_and_can_fail() -> None:
    compared = []

    def draw(attempt: int, questions: Any) -> dict[int, Drawn]:
        return {row: Drawn(tagged(good(q)) if row else "no") for row, q in questions.items()}

    def compare(attempt: int, wordings: Any) -> dict[int, Finding]:
        compared.append((attempt, sorted(wordings)))
        assert wordings[1] == (QUESTIONS[1], good(QUESTIONS[1]))
        return {1: Finding("answers_differ", "1 and 2")}

    results = rephrase(QUESTIONS, 2, draw, compare)
    assert compared == [(0, [1, 2, 3, 4, 5]), (1, [1])]
    assert [one.reasons for one in results[:3]] == [["unparsed"], ["answers_differ"], []]


class Engine:
    """roles.RolloutEngine that answers by `speak(prompt, request)`, one replica per rank."""

    def __init__(
        self, speak: Callable[[str, GenerationRequest], str], rank: int = 0, replicas: int = 1
    ) -> None:
        self.speak = speak
        self.rank = rank
        self.replicas = replicas
        self.samplings: list[Sampling] = []

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        self.samplings.append(sampling)
        return [self._response(one) for one in place(requests, self.replicas)[self.rank]]

    def load_weights(self, weights: Any, version: int) -> None: ...

    def close(self) -> None: ...

    def _response(self, request: GenerationRequest) -> Response:
        text = self.speak(TOKENIZER.decode(request.prompt_ids), request)
        none = np.zeros(0)
        key = (request.pair_id, request.view, request.sample, request.prompt_ids)
        return Response(*key, none.astype(np.int32), none, text, "stop", 0)


def rephraser(engine: Engine, comm: Any = None, *, seed: int = 3, answer_samples: int = 2) -> Rephraser:
    """A rephraser on vLLM's drawer with an engine that is there already."""
    drawer = LocalDrawer.__new__(LocalDrawer)
    drawer.options = Namespace(seed=seed, max_prompt_tokens=2000, thinking=False)
    drawer.comm = comm or distributed.TorchCommunicator()
    drawer.tokenizer, drawer.engine = TOKENIZER, engine
    return Rephraser(drawer, drawer.comm, Grader(), Sampling(0.7), Sampling(0.6), answer_samples)


def test_drawing_gives_every_rank_everything_whoever_draws_it() -> None:
    def speak(prompt: str, request: GenerationRequest) -> str:
        return f"{request.seed} {prompt}"

    def work(comm: ThreadCommunicator) -> dict[int, Drawn]:
        return rephraser(Engine(speak, comm.rank, comm.world_size), comm).draw(0, QUESTIONS)

    [alone] = run_threads(1, work)
    first, second = run_threads(2, work)
    assert alone == first == second and sorted(alone) == sorted(QUESTIONS)
    assert all(INSTRUCTION in one.text and QUESTIONS[row] in one.text for row, one in alone.items())
    again = rephraser(Engine(speak)).draw(1, QUESTIONS)
    few = rephraser(Engine(speak)).draw(0, {3: QUESTIONS[3]})
    other = rephraser(Engine(speak), seed=4).draw(0, QUESTIONS)
    assert few[3] == alone[3]  # not the company decides, but the row and the attempt
    assert again[3] != alone[3] != other[3]


def test_a_long_prompt_is_left_out() -> None:
    questions = QUESTIONS | {1: "Why? " * 300}
    assert sorted(rephraser(Engine(lambda prompt, request: "")).draw(0, questions)) == [0, 2, 3, 4, 5]


def compare(answers: dict[str, list[str]], **changes: Any) -> dict[int, Finding]:
    """Of one question: `answers` by wording, one per sample."""

    def speak(prompt: str, request: GenerationRequest) -> str:
        assert "boxed{}" in prompt
        return rf"So \boxed{{{answers[request.view.value][request.sample]}}}."

    def work(comm: ThreadCommunicator) -> dict[int, Finding]:
        one = rephraser(Engine(speak, comm.rank, comm.world_size), comm, **changes)
        return one.compare(0, {7: ("What?", "How?")})

    alone, (first, second) = run_threads(1, work)[0], run_threads(2, work)
    assert alone == first == second
    return alone


@pytest.mark.parametrize(
    ("original", "rephrased", "differs"),
    [
        (["5", "5"], ["5", "5.0"], False),
        ([r"\frac12", "0.5"], ["1/2", "7"], False),  # half of the samples suffice
        (["5", "5"], ["6", "6"], True),
        (["5", ""], ["6", "6"], True),
        (["5", "6"], ["7", "7"], False),  # no majority, no verdict
        (["", ""], ["7", "7"], False),
    ],
)
def test_answers(original: list[str], rephrased: list[str], differs: bool) -> None:
    found = compare({"original": original, "rephrased": rephrased})
    assert found == ({7: Finding("answers_differ", "5 and 6")} if differs else {})


def test_one_answer_each() -> None:
    found = compare({"original": ["5"], "rephrased": ["6"]}, answer_samples=1)
    assert found == {7: Finding("answers_differ", "5 and 6")}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Whole calls of the tool on 6 questions in 3 batches; row 2 needs two attempts, row 4 never works."""
    rows = [ViewRow(100 + row, q, str(row), "Level 1", "Sums") for row, q in QUESTIONS.items()]
    write_view(rows, tmp_path / "questions.parquet", "test", "train")
    model = tiny_model(tmp_path / "model")
    monkeypatch.setattr(distributed, "initialize", lambda: None)

    def speak(prompt: str, request: GenerationRequest) -> str:
        if "<rephrased>" not in prompt:
            return r"\boxed{1}" if request.pair_id != 1 or request.view == "original" else r"\boxed{2}"
        fails = request.pair_id == 4 or (request.pair_id == 2 and request.sample == 0)
        return tagged("<question>" if fails else good(QUESTIONS[request.pair_id]))

    def build(config: Any, *arguments: Any) -> Engine:
        engines.append(Engine(speak))
        return engines[-1]

    engines: list[Engine] = []
    monkeypatch.setattr("megatron_coreward.rollout.engine.VllmEngine", build)

    def call(output: str, *arguments: str) -> int:
        fixed = ["--model", str(model), "--output", str(tmp_path / output), "--batch", "2"]
        sizes = ["--max-prompt-tokens", "1500", "--max-response-tokens", "200"]
        return main([str(tmp_path / "questions.parquet"), *fixed, *sizes, *arguments])

    return call


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def test_a_run(run: Callable[..., int], tmp_path: Path) -> None:
    assert run("a") == DONE
    report = json.loads((tmp_path / "a" / "report.json").read_text())
    assert report == {
        "questions": 6,
        "accepted": 5,
        "accepted_at_attempt": {"1": 4, "2": 1},
        "rejected": 1,
        "reasons": {"placeholder": 1},
    }
    pairs = load_pairs(str(tmp_path / "a" / "original.parquet"), str(tmp_path / "a" / "rephrased.parquet"))
    assert [pair.answer for pair in pairs] == ["0", "1", "2", "3", "5"]
    assert all(pair.rephrased == good(pair.original) and pair.level == "Level 1" for pair in pairs)
    [reject] = pq.read_table(tmp_path / "a" / "rejects.parquet").to_pylist()
    assert (reject["row"], reject["attempts"], reject["original"]) == (4, 3, QUESTIONS[4])
    assert run("b", "--check-answers", "--answer-samples", "1", "--attempts", "2") == DONE
    report = json.loads((tmp_path / "b" / "report.json").read_text())
    assert report["reasons"] == {"answers_differ": 1, "placeholder": 1}


def test_a_killed_run_goes_on(
    run: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At most the batch under way is lost, and the files come out the same."""
    assert run("a") == DONE
    write = Store.write

    def killed(self: Store, batch: int, results: Any) -> None:
        if batch == 1:
            raise KeyboardInterrupt
        write(self, batch, results)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "write", killed)
        run("b")
    assert [path.name for path in (tmp_path / "b" / "batches").iterdir()] == ["batch_000000.parquet"]
    assert not (tmp_path / "b" / "rephrased.parquet").exists()
    capsys.readouterr()
    assert run("b") == DONE
    assert "1 of 3 batches are done" in capsys.readouterr().err
    assert content(tmp_path / "a") == content(tmp_path / "b")
    assert run("b") == DONE  # nothing is left to do
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_going_on_with_other_settings_is_refused(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a", "--limit", "2") == DONE
    assert run("a", "--limit", "2", "--seed", "2") == REFUSED
    assert "seed is 2 and was 1" in capsys.readouterr().err
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").touch()
    assert run("b") == REFUSED
    assert "holds something else (thesis.tex" in capsys.readouterr().err


def test_no_reject_is_one_sentence(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("a", "--limit", "2") == DONE
    expected = f"2 of 2 questions rephrased, in {tmp_path / 'a'}: 2 at attempt 1.\n"
    assert capsys.readouterr().out == expected


def test_nothing_accepted(run: Callable[..., int], tmp_path: Path) -> None:
    write_view([ViewRow(4, "What is 7 plus 8?", None)], tmp_path / "questions.parquet", "test", "train")
    assert run("a", "--attempts", "1") == NOTHING
    assert not (tmp_path / "a" / "original.parquet").exists()
    [reject] = pq.read_table(tmp_path / "a" / "rejects.parquet").to_pylist()
    assert reject["reasons"] == ["numbers_changed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch is 0"),
        (["--attempts", "0"], "--attempts is 0"),
        (["--temperature", "0"], "--temperature is 0.0"),
        (["--top-p", "1.5"], "--top-p is 1.5"),
        (["--limit", "-1"], "--limit"),
        (["--max-response-tokens", "9999"], "the context of"),
        (["rollout.tensor_parallel_size=2"], "rollout.tensor_parallel_size=2 must divide"),
        (["rollout.typo=2"], "Unknown configuration key"),
        (["--model", "/nowhere"], "no such folder"),
    ],
)
def test_wrong_options(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert run("a", *arguments) == REFUSED
    assert message in capsys.readouterr().err


def test_wrong_questions(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = pq.read_table(tmp_path / "questions.parquet")
    pq.write_table(table.drop_columns(["prompt"]), tmp_path / "questions.parquet")
    assert run("a") == REFUSED
    assert "QUESTIONS" in (error := capsys.readouterr().err) and "'prompt'" in error
    (tmp_path / "questions.parquet").unlink()
    assert run("a") == REFUSED
    assert "no such file" in capsys.readouterr().err
