"""The reason of a failure on real ranks, one of them seconds late: the last line, or torchrun's root cause.

The failure is one that only ranks find, and that needs no model: more memory for vLLM than the machine has.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_coreward.doctor.toy_model import write_random_model
from tests.support.paths import ROOT

LATE = """
import os, time
if os.environ.get("RANK") == os.environ["LATE_RANK"]:
    time.sleep(3)
"""
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node={}", "-m", "megatron_coreward.train")
COREWARD = ("megatron_coreward.cli.main", "train", "--ranks={}")
REASON = "rollout.memory_gb is 5000"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_random_model(folder, seed=1)
    return folder


def run(program: tuple[str, ...], ranks: int, late: int, model: Path, folder: Path) -> tuple[int, list[str]]:
    """Exit code and stderr of a run in which rank `late` begins later than the others."""
    (folder / "sitecustomize.py").write_text(LATE)
    keys = (f"model.path={model}", "data.source=synthetic", "rollout.memory_gb=5000")
    sizes = ("data.batch_pairs=4", "data.max_prompt_tokens=96", "rollout.max_response_tokens=32")
    command = [sys.executable, "-m", *(part.format(ranks) for part in program), *keys, *sizes]
    variables = {"PYTHONPATH": f"{folder}:{ROOT}", "LATE_RANK": str(late), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, f"run.output_dir={folder / 'run'}"],
        cwd=folder,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return result.returncode, result.stderr.splitlines()


@pytest.mark.parametrize(("ranks", "late"), [(2, 0), (4, 3)])
def test_under_coreward_train_the_reason_is_the_last_line_and_stands_there_once(
    ranks: int, late: int, model: Path, tmp_path: Path
) -> None:
    code, lines = run(COREWARD, ranks, late, model, tmp_path)
    assert code == 2, lines
    assert [line for line in lines if REASON in line] == lines[-1:]
    assert lines[-1].startswith(f"error: {REASON}")


@pytest.mark.parametrize(("ranks", "late"), [(2, 0), (4, 1)])
def test_under_torchrun_the_reason_is_the_root_cause(
    ranks: int, late: int, model: Path, tmp_path: Path
) -> None:
    code, lines = run(TORCHRUN, ranks, late, model, tmp_path)
    assert code == 1
    root_cause = "\n".join(lines).partition("Root Cause")[2]
    assert re.search(rf"exitcode  : 2 (.|\n)* traceback : {re.escape(REASON)}", root_cause), lines
