"""Rephrasing through an endpoint: requests, faults, going on, and that the key stays where it belongs."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import openai
import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.rephrase import DONE, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.rephrasing import endpoint
from megatron_coreward.rephrasing.attempts import INSTRUCTION, Drawn
from megatron_coreward.rephrasing.endpoint import StoredResponses
from megatron_coreward.requests import ANSWERS, REPHRASING, request_seed
from megatron_coreward.types import View
from megatron_coreward.utils.logging import REFUSED
from tests.support.paths import ROOT

KEY = "sk-Secret-0123456789"
QUESTIONS = [f"How many apples are {row + 10} apples and {row + 20} apples?" for row in range(6)]
Answer = tuple[int, Any]
"""Status and content; a text goes out as a page."""


def good(question: str) -> str:
    return question.replace("How many apples are", "Sum up these fruits:")


def says(text: str | None, reason: str = "stop") -> Answer:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def error(status: int, text: str) -> Answer:
    return status, {"error": {"message": text, "type": "x", "code": None}}


class Server(ThreadingHTTPServer):
    """An endpoint with the model `m`, which rephrases well unless `misbehave(body)` gives another answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.misbehave: Callable[[dict[str, Any]], Answer | None] = lambda body: None
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.under_way = self.most_under_way = 0
        self.count = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, *arguments: Any) -> None:
        """A client that has not waited for its answer is no news."""

    def answer(self, body: dict[str, Any]) -> Answer:
        self.bodies.append(body)
        if answer := self.misbehave(body):
            return answer
        if body["model"] != "m":
            return error(404, f"The model `{body['model']}` does not exist.")
        text = body["messages"][-1]["content"]
        if INSTRUCTION not in text:
            return says(r"\boxed{5}")
        return says(f"<rephrased>{good(text.removeprefix(INSTRUCTION))}</rephrased>")


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        is_list = self.path == "/v1/models"
        self.send((200, {"object": "list", "data": [{"id": "m"}, {"id": "n"}]}) if is_list else (404, "none"))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.send((404, "<html>Not Found</html>"))
        with self.server.count:
            self.server.keys.add(self.headers["Authorization"])
            self.server.under_way += 1
            self.server.most_under_way = max(self.server.most_under_way, self.server.under_way)
        time.sleep(0.02)
        answer = self.server.answer(body)
        with self.server.count:
            self.server.under_way -= 1
        self.send(answer)

    def send(self, answer: Answer) -> None:
        status, content = answer
        kind = "text/html" if isinstance(content, str) else "application/json"
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", len(data)), ("retry-after-ms", 5)):
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def rephrase(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> Iterator[Any]:
    """Whole calls of the command on 6 questions in 3 batches; no output and no file may hold the key, and no
    connection stays open, or its event loop would be missed when it is collected."""
    clients: list[openai.AsyncOpenAI] = []

    class Client(openai.AsyncOpenAI):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            clients.append(self)

    monkeypatch.setattr(openai, "AsyncOpenAI", Client)
    rows = [ViewRow(row, question, None) for row, question in enumerate(QUESTIONS)]
    write_view(rows, tmp_path / "questions.parquet", "test", "train")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    shown: list[str] = []

    def call(*arguments: str, output: str = "pairs") -> tuple[int, str]:
        fixed = ["--api", server.url, "--api-model", "m", "--batch", "2", "--output", str(tmp_path / output)]
        code = main([str(tmp_path / "questions.parquet"), *fixed, *arguments])
        shown.extend(capfd.readouterr())
        return code, shown[-1]

    yield call
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert files and not any(KEY.encode() in content for content in files)
    assert not any(KEY in text for text in shown)
    assert all(client.is_closed() for client in clients)


def content(folder: Path, *, but: str = "") -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.name != but}


def test_a_run(rephrase: Any, server: Server, tmp_path: Path) -> None:
    extra = json.dumps({"chat_template_kwargs": {"enable_thinking": False}})
    code, _ = rephrase("--check-answers", "--top-k", "7", "--api-extra", extra, "--api-concurrency", "3")
    assert code == DONE and server.keys == {f"Bearer {KEY}"} and server.most_under_way == 3
    rephrased = pq.read_table(tmp_path / "pairs" / "rephrased.parquet")["prompt"].to_pylist()
    assert [turns[-1]["content"] for turns in rephrased] == list(map(good, QUESTIONS))
    wordings = [body for body in server.bodies[1:] if INSTRUCTION in body["messages"][0]["content"]]
    answers = [body for body in server.bodies[1:] if body not in wordings]
    assert len(wordings) == 6 and len(answers) == 6 * 2 * 4
    assert [turn["role"] for turn in answers[0]["messages"]] == ["system", "user"]
    body = {**wordings[0], "messages": None, "seed": None}
    assert body == {
        **{"model": "m", "messages": None, "max_tokens": 2048, "temperature": 0.7, "top_p": 0.8},
        **{"seed": None, "top_k": 7, "chat_template_kwargs": {"enable_thinking": False}},
    }
    seeds = {request_seed(1, 0, row, View.REPHRASED, 0, REPHRASING) for row in range(6)}
    assert {body["seed"] for body in wordings} == seeds
    assert request_seed(1, 0, 5, View.ORIGINAL, 3, ANSWERS) in {body["seed"] for body in answers}


def test_without_a_key(rephrase: Any, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    assert rephrase("--limit", "2")[0] == DONE and server.keys == {"Bearer none"}
    monkeypatch.setenv("OTHER", "other-key")
    assert rephrase("--limit", "2", "--api-key-env", "OTHER", output="b")[0] == DONE
    assert server.keys == {"Bearer none", "Bearer other-key"}


@pytest.mark.parametrize(
    ("arguments", "answer", "message"),
    [
        (["--api", "http://127.0.0.1:1/v1"], None, "cannot be reached; check the address, and that the"),
        (
            ["--api", "URL/of/nothing"],
            None,
            "it has nothing at this address; does it end in /v1? (status 404",
        ),
        (["--api-model", "x"], None, "it has no model 'x'; there are m, n (status 404)"),
        ([], error(401, f"Incorrect API key: {KEY}"), "it refuses the key in OPENAI_API_KEY (status 401)"),
        ([], error(403, KEY), "it refuses the key in OPENAI_API_KEY (status 403)"),
        (
            [],
            error(429, f"10 requests a day\nfor {KEY}"),
            "rate limit is reached (10 requests a day for [key])",
        ),
        ([], error(503, f"overloaded {KEY}"), "it says: overloaded [key]"),
        ([], (502, f"<html>Bad Gateway {KEY}</html>"), "it says: Error code: 502"),
        ([], error(400, "max_tokens must be at most 1024"), "it says: max_tokens must be at most 1024"),
        ([], (200, "<html>welcome</html>"), "it answers, but not as OpenAI's API does; does it end in /v1?"),
        ([], (200, {"choices": None}), "it answers, but not as OpenAI's API does"),
        ([], (200, {"error": {"message": "no credit"}}), "it answers, but not as OpenAI's API does"),
    ],
)
def test_what_is_wrong_at_once(
    rephrase: Any, server: Server, tmp_path: Path, arguments: list[str], answer: Answer, message: str
) -> None:
    """One line, in seconds, and a folder in which the right command can begin."""
    server.misbehave = lambda body: answer
    started = time.monotonic()
    code, shown = rephrase(*(word.replace("URL", server.url) for word in arguments))
    assert code == REFUSED and time.monotonic() - started < 5
    assert message in shown and shown.startswith(f"error: --api {server.url[:9]}") and shown.count("\n") == 1
    assert shown.endswith("What has been drawn is kept: the same command goes on\n")
    server.misbehave = lambda body: None
    assert rephrase()[0] == DONE


def test_no_answer_in_time(rephrase: Any, server: Server) -> None:
    server.misbehave = lambda body: time.sleep(1)
    code, shown = rephrase("--api-timeout", "0.2")
    assert code == REFUSED and "no answer in 0.2 s; raise --api-timeout or lower" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--api", "localhost:8000"], "--api must be an address like https://HOST/v1"),
        (["--api", f"https://user:{KEY}@host/v1"], "without a user, a password or a query"),
        (["--api", f"https://host/v1?key={KEY}"], "without a user, a password or a query"),
        (["--api-model", ""], "--api needs --api-model"),
        (["--api-key-env", KEY], "--api-key-env must name a variable (in capitals) that is set"),
        (["--api-key-env", "NO_SUCH_VARIABLE"], "--api-key-env must name a variable"),
        (["--api-extra", "{"], "--api-extra is '{', but must be a JSON object"),
        (["--api-extra", "[1]"], "--api-extra is '[1]', but must be a JSON object"),
        (["--api-concurrency", "0"], "--api-concurrency is 0, but must be at least 1"),
        (["--api-timeout", "0"], "--api-timeout is 0.0, but must be above 0"),
        (["--thinking"], "--thinking says nothing to an endpoint"),
        (["rollout.memory_gb=1"], "rollout.memory_gb says nothing to an endpoint"),
        (["--model", "Qwen/Qwen3-4B"], "either --model (a model to load here) or --api"),
    ],
)
def test_options_that_cannot_work(rephrase: Any, server: Server, arguments: list[str], message: str) -> None:
    code, shown = rephrase(*arguments)
    assert code == REFUSED and message in shown and shown.count("\n") == 1 and not server.bodies


def test_a_key_that_cannot_be_one(rephrase: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"“{KEY}”")
    code, shown = rephrase()
    assert code == REFUSED and "the key in OPENAI_API_KEY has characters that no key has" in shown


def test_several_ranks_are_refused(rephrase: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, shown = rephrase()
    assert code == REFUSED and "--api is for one process, not 2" in shown


@pytest.mark.parametrize("answer", [error(429, "slow down"), error(500, "oops"), (503, "<html>busy</html>")])
def test_what_passes_is_tried_again(rephrase: Any, server: Server, answer: Answer) -> None:
    """Every third request fails."""
    server.misbehave = lambda body: answer if len(server.bodies) % 3 == 2 else None
    code, shown = rephrase()
    assert code == DONE and "error" not in shown and len(server.bodies) > 7


def test_what_was_drawn_is_not_drawn_again(
    rephrase: Any, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key expires in the second batch, then the limit is reached, then all is well again."""
    monkeypatch.setattr(endpoint, "RETRIES", 0)
    arguments = ["--batch", "3", "--api-concurrency", "1"]
    assert rephrase(*arguments, output="a")[0] == DONE
    server.bodies.clear()
    server.misbehave = lambda body: error(401, "expired") if len(server.bodies) > 5 else None
    code, shown = rephrase(*arguments)
    assert code == REFUSED and "refuses the key" in shown and len(server.bodies) == 6
    server.misbehave = lambda body: error(429, "wait") if len(server.bodies) > 8 else None
    code, shown = rephrase(*arguments)
    assert code == REFUSED and "rate limit" in shown and "1 of 2 batches are done" in shown
    server.misbehave = lambda body: None
    assert rephrase(*arguments)[0] == DONE
    asked = [body["messages"][-1]["content"] for body in server.bodies[:5] + server.bodies[7:8]]
    asked += [body["messages"][-1]["content"] for body in server.bodies[10:]]
    assert len(server.bodies) == 11 and len(set(asked)) == len(asked)
    assert content(tmp_path / "a") == content(tmp_path / "pairs")


def test_a_refused_prompt_is_a_rejected_question(rephrase: Any, server: Server, tmp_path: Path) -> None:
    """One question hits a filter, one is too long, one is filtered while it is answered, one is cut off."""
    answers = {
        "10": error(400, f"content policy of {KEY}"),
        "11": error(413, "too long"),
        "12": says(None, "content_filter"),
        "13": says("<rephrased>What", "length"),
        "14": says(None),
    }
    server.misbehave = lambda body: next(
        (answer for row, answer in answers.items() if f"are {row} apples" in body["messages"][-1]["content"]),
        None,
    )
    assert rephrase("--attempts", "1")[0] == DONE
    rejects = pq.read_table(tmp_path / "pairs" / "rejects.parquet").to_pylist()
    assert [(reject["reasons"], reject["details"]) for reject in rejects] == [
        (["refused"], ["content policy of [key]"]),
        (["refused"], ["too long"]),
        (["refused"], [""]),
        (["unfinished"], [""]),
        (["unparsed"], [""]),
    ]


def test_the_same_model_elsewhere_goes_on_and_another_model_does_not(rephrase: Any, server: Server) -> None:
    assert rephrase("--limit", "2")[0] == DONE
    assert rephrase("--limit", "2", "--api", "http://127.0.0.1:1/v1")[0] == DONE  # nothing is left to do
    code, shown = rephrase("--limit", "2", "--api-model", "n")
    assert code == REFUSED and "api_model is 'n' and was 'm'" in shown


def test_stored_responses_survive_a_torn_line(tmp_path: Path) -> None:
    file = tmp_path / "responses.jsonl"
    stored, drawn = StoredResponses(file), Drawn("a\nb\u2028 é", finished=False)
    stored.add(2**62 + 1, drawn)
    stored.close()
    with file.open("ab") as torn:
        torn.write(b'[7, "tor')
    again = StoredResponses(file)
    assert again.known == {2**62 + 1: drawn}
    again.add(7, Drawn("whole"))
    again.close()
    assert StoredResponses(file).known == {2**62 + 1: drawn, 7: Drawn("whole")}


def test_a_kill_loses_only_what_is_under_way(server: Server, tmp_path: Path) -> None:
    """A process of its own, killed while the last request of a batch hangs."""
    rows = [ViewRow(row, question, None) for row, question in enumerate(QUESTIONS)]
    write_view(rows, tmp_path / "questions.parquet", "test", "train")
    server.misbehave = lambda body: time.sleep(60) if len(server.bodies) == 6 else None
    code = "import sys; from megatron_coreward.cli.rephrase import main; sys.exit(main(sys.argv[1:]))"
    options = ["--api", server.url, "--api-model", "m", "--output", "pairs", "--api-concurrency", "1"]
    command = [sys.executable, "-c", code, "questions.parquet", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": KEY, "OPENAI_LOG": "debug"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE) as process:
        while len(server.bodies) < 6 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        assert process.stderr is not None and KEY.encode() not in process.stderr.read()
    lines = (tmp_path / "pairs" / "responses.jsonl").read_text().splitlines()
    assert len(lines) == 4  # the first request was the trial, the sixth hung
    server.misbehave = lambda body: None
    assert subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True).returncode == DONE
    assert len(server.bodies) == 6 + 1 + 2
    assert len((tmp_path / "pairs" / "responses.jsonl").read_text().splitlines()) == 6


def test_help_is_one_screen_with_all_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) <= 24 and max(map(len, shown.splitlines())) <= 80
    assert "--api-model" in shown and "--api-key-env" in shown
