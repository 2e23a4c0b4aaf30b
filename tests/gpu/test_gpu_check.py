"""The checks of `make gpu-check` as tests, without its budget. Not run on a GPU yet.

One that is not possible here is skipped with the reason. With `-m ''` on a CPU they show only that they run.
"""

from pathlib import Path

import pytest

from tools.gpu_check.runner import PASSED, run
from tools.gpu_check.table import CHECKS, Check, Figures

pytestmark = pytest.mark.gpu

LIMIT_S = 500


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Figures:
    return run(CHECKS[0], LIMIT_S, tmp_path_factory.mktemp("machine"), gpus=0).figures


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
def test_check(check: Check, machine: Figures, tmp_path: Path) -> None:
    if reason := check.impossible(machine):
        pytest.skip(reason)
    outcome = run(check, LIMIT_S, tmp_path, int(machine.get("GPUs", 0)))
    assert outcome.status == PASSED, f"{outcome.reason}\n{outcome.log_end}"
