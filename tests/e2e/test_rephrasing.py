"""The rephrasing tool on real vLLM, killed and resumed, with a random model whose every word is rejected.

Two ranks share the work of an uninterrupted run; one rank, killed and started again, must write the same.
"""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.rephrase import NOTHING, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.rephrasing.store import Store
from megatron_coreward.rollout import engine as engine_module
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

COUNT, ATTEMPTS = 6, 2


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


def test_killed_and_shared_runs_write_the_same(tmp_path: Path) -> None:
    tiny_model(tmp_path / "model")
    rows = [ViewRow(row, f"How much are {row} and {row + 5}?", None) for row in range(COUNT)]
    write_view(rows, tmp_path / "questions.parquet", "test", "train")

    assert run_ranks(2, uninterrupted, tmp_path, timeout_s=300) == [NOTHING, NOTHING]
    [(left, code)] = run_ranks(1, interrupted, tmp_path, timeout_s=300)
    assert left == ["killed/batches/batch_000000.parquet"] and code == NOTHING

    whole, killed = content(tmp_path / "whole"), content(tmp_path / "killed")
    assert len(whole) == 6 and whole == killed  # three batches, settings, rejects, report
    rejects = pq.read_table(tmp_path / "whole" / "rejects.parquet").to_pylist()
    assert [(one["row"], one["attempts"]) for one in rejects] == [(row, ATTEMPTS) for row in range(COUNT)]
    assert {reason for one in rejects for reason in one["reasons"]} <= {"unparsed", "unfinished"}
    assert len({one["rephrased"] for one in rejects}) == COUNT and all(one["rephrased"] for one in rejects)
    assert json.loads((tmp_path / "whole" / "report.json").read_text())["rejected"] == COUNT
