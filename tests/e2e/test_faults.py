"""A rank killed with kill -9 in any phase under torchrun --max-restarts does not change the run's result."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_coreward.utils.metrics import read_metrics
from tests.support.programs import ROOT, environment, settings, write_data

STEPS = 3
FAULTS = {
    "rollout": (3, 1),
    "reward": (3, 0),
    "log_probs": (2, 1),
    "update": (3, 0),
    "sync": (2, 1),  # of step 1, whose weights are on their way when it is counted
    "checkpoint": (3, 1),
}
"""Phase: step and rank. In "sync" and "checkpoint" the step has been counted already."""
IN_CI = ("update",)


def train(model: Path, folder: Path, fault: tuple[str, int, int]) -> Path:
    """A run on two ranks that may be restarted once; its folder."""
    phase, step, rank = fault
    arguments = settings(
        model,
        folder / "run",
        write_data(folder / "data"),
        run__steps=STEPS,
        run__auto_resume="true",
        parallel__tensor=2,
        checkpoint__every=1,
        optimizer__schedule="constant",
    )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    program = ["tests/support/fault_in_phase.py", phase, str(step), str(rank), *arguments]
    result = subprocess.run(
        [sys.executable, *torchrun, *program],
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    killed = "Signal 9 (SIGKILL)" in result.stdout or "exitcode: -9" in result.stdout.replace(" ", " ")
    assert killed == (phase != "none"), result.stdout
    return folder / "run"


@pytest.fixture(scope="module")
def straight(apprentice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(apprentice, tmp_path_factory.mktemp("straight"), ("none", 0, 0))


@pytest.mark.parametrize(
    "phase", [p if p in IN_CI else pytest.param(p, marks=pytest.mark.slow) for p in FAULTS]
)
def test_a_killed_rank_costs_a_restart_and_nothing_else(
    phase: str, straight: Path, apprentice: Path, tmp_path: Path
) -> None:
    run = train(apprentice, tmp_path, (phase, *FAULTS[phase]))
    expected, found = (load_file(r / "hf" / "model.safetensors") for r in (straight, run))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert [r["step"] for r in read_metrics(run)] == [r["step"] for r in read_metrics(straight)]
    assert [r["policy/loss"] for r in read_metrics(run)] == [r["policy/loss"] for r in read_metrics(straight)]
