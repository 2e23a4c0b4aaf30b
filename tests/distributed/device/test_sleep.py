"""A whole run on the pretended device, where sleeping memory is gone: nobody touches it at the wrong time."""

from pathlib import Path

import pytest
import torch

from tests.distributed.device.sleep_runs import run
from tests.support.models import tiny_model
from tests.support.ranks import RankError, run_ranks


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("sleep") / "model", vocab=301, kv_heads=2, layers=2)


def test_a_run_that_sleeps_and_offloads_has_the_weights_of_the_cpu(model: Path) -> None:
    (on_cpu,) = run_ranks(1, run, model, False)
    (on_device,) = run_ranks(1, run, model, True)
    for name, weight in on_cpu.items():
        # Adam moves a weight by up to 1e-2 a step here, and magnifies the rounding of small gradients.
        torch.testing.assert_close(on_device[name], weight, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("phase", "message"),
    [
        ("sync", "memory that was given up is touched at"),
        ("teacher", "the teacher is offloaded"),
        ("update", "the gradient buffers are offloaded"),
    ],
)
def test_a_phase_that_forgets_what_it_needs_fails(phase: str, message: str, model: Path) -> None:
    with pytest.raises(RankError, match=message):
        run_ranks(1, run, model, True, phase)
