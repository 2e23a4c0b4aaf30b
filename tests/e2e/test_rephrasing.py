"""The rephrasing tool on real vLLM, with a random model whose every word is rejected.

Two ranks share the work of an uninterrupted run. One rank, killed and started again, must write the same; and
vLLM's own OpenAI server, asked over HTTP with the same seeds, must draw the same.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.rephrase import NOTHING, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.rephrasing.store import Store
from megatron_coreward.rollout import engine as engine_module
from megatron_coreward.utils.logging import REFUSED
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

COUNT, ATTEMPTS, KEY = 6, 2, "sk-toy-0123456789"


def arguments(folder: Path, output: str) -> list[str]:
    options = {
        "--model": folder / "model",
        "--output": folder / output,
        "--batch": 2,
        "--attempts": ATTEMPTS,
        "--max-prompt-tokens": 1400,
        "--max-response-tokens": 24,
    }
    named = [str(word) for pair in options.items() for word in pair]
    return [str(folder / "questions.parquet"), *named, "rollout.memory_gb=0.05"]


def uninterrupted(rank: int, folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        keep_open(patch)
        return main(arguments(folder, "whole"))


def keep_open(patch: pytest.MonkeyPatch) -> None:
    """Closing an engine ends the process groups, which the test's ranks still need."""
    patch.setattr(engine_module.VllmEngine, "close", lambda self: None)


def interrupted(rank: int, folder: Path) -> tuple[list[str], int]:
    """What is on disk after a kill in the second batch, and exit code of going on. One engine for both."""
    build, engines = engine_module.VllmEngine, []

    def build_once(*args: Any) -> engine_module.VllmEngine:
        if not engines:
            engines.append(build(*args))
        return engines[0]

    write = Store.write

    def killed(self: Store, batch: int, results: Any) -> None:
        if batch == 1:
            raise KeyboardInterrupt
        write(self, batch, results)

    with pytest.MonkeyPatch.context() as patch:
        keep_open(patch)
        patch.setattr(engine_module, "VllmEngine", build_once)
        with patch.context() as kill, pytest.raises(KeyboardInterrupt):
            kill.setattr(Store, "write", killed)
            main(arguments(folder, "killed"))
        left = sorted(str(path.relative_to(folder)) for path in (folder / "killed").rglob("*.parquet"))
        return left, main(arguments(folder, "killed"))


def content(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, the questions, and an uninterrupted run in `whole`."""
    folder = tmp_path_factory.mktemp("rephrasing")
    tiny_model(folder / "model")
    rows = [ViewRow(row, f"How much are {row} and {row + 5}?", None) for row in range(COUNT)]
    write_view(rows, folder / "questions.parquet", "test", "train")
    assert run_ranks(2, uninterrupted, folder, timeout_s=300) == [NOTHING, NOTHING]
    return folder


def test_killed_and_shared_runs_write_the_same(folder: Path) -> None:
    [(left, code)] = run_ranks(1, interrupted, folder, timeout_s=300)
    assert left == ["killed/batches/batch_000000.parquet"] and code == NOTHING

    whole, killed = content(folder / "whole"), content(folder / "killed")
    assert len(whole) == 6 and whole == killed  # three batches, settings, rejects, report
    rejects = rejects_of(folder / "whole")
    assert [(one["row"], one["attempts"]) for one in rejects] == [(row, ATTEMPTS) for row in range(COUNT)]
    assert {reason for one in rejects for reason in one["reasons"]} <= {"unparsed", "unfinished"}
    assert len({one["rephrased"] for one in rejects}) == COUNT and all(one["rephrased"] for one in rejects)
    assert json.loads((folder / "whole" / "report.json").read_text())["rejected"] == COUNT


def rejects_of(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "rejects.parquet").to_pylist()


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    """The address of vLLM's OpenAI server with the model, named `toy`, and the key KEY."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {
        **{"--model": folder / "model", "--served-model-name": "toy", "--host": "127.0.0.1", "--port": port},
        **{"--api-key": KEY, "--dtype": "float32", "--max-model-len": 1424, "--generation-config": "vllm"},
        **{"--kv-cache-memory-bytes": 50_000_000, "--max-num-batched-tokens": 4096},
    }
    named = [str(word) for pair in options.items() for word in pair]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *named]
    environment = {
        **os.environ,
        **{"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "TORCHDYNAMO_DISABLE": "1"},
        **{"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
    }
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--enforce-eager", "--no-enable-chunked-prefill"],
            **{"stdout": log, "stderr": log, "env": environment, "start_new_session": True},
        )
    try:
        until = time.monotonic() + 300
        while not is_healthy(port):
            assert process.poll() is None and time.monotonic() < until, (folder / "server.log").read_text()
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def is_healthy(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


def test_the_server_of_vllm_draws_the_same(
    folder: Path, server: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the wrong key and the wrong name first. A text may end within a character, which is not sent."""

    def call(key: str, model: str) -> tuple[int, str]:
        monkeypatch.setenv("OPENAI_API_KEY", key)
        *common, _ = arguments(folder, "api")
        place = common.index("--model")
        return main([*common[:place], *common[place + 2 :], "--api", server, "--api-model", model]), shown()

    def shown() -> str:
        return capfd.readouterr().err

    assert call("wrong", "toy") == (
        REFUSED,
        error_of(server, "it refuses the key in OPENAI_API_KEY (status 401)"),
    )
    assert call(KEY, "boy") == (
        REFUSED,
        error_of(server, "it has no model 'boy'; there are toy (status 404)"),
    )
    assert call(KEY, "toy")[0] == NOTHING
    expected, drawn = rejects_of(folder / "whole"), rejects_of(folder / "api")
    for one, other in zip(expected, drawn, strict=True):
        assert one.pop("rephrased").rstrip("\ufffd") == other.pop("rephrased").rstrip("\ufffd")
    assert expected == drawn
    assert len((folder / "api" / "responses.jsonl").read_text().splitlines()) == COUNT * ATTEMPTS
    assert not any(KEY.encode() in file for file in content(folder / "api").values())


def error_of(server: str, problem: str) -> str:
    return f"error: --api {server}: {problem}. What has been drawn is kept: the same command goes on\n"
