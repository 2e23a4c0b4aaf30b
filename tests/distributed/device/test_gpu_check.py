"""The GPU checks do on a device what they do on the CPU: nothing of theirs mixes the two.

Without those of speed and of vLLM, which the pretended device does not have, and of checkpoints, whose export
transformers reads: test_device.py and test_saving_offloaded.py take checkpoints there.
"""

from dataclasses import replace
from pathlib import Path

import pytest

from tools.gpu_check.runner import PASSED, run
from tools.gpu_check.table import CHECKS

NAMES = ("float32", "tp2", "attention")
OTHERS = ("log_probs", "bfloat16", "transformer_engine", "dp2", "pp2")


@pytest.mark.parametrize("name", [*NAMES, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)])
def test_a_check_passes_on_the_pretended_device(name: str, tmp_path: Path) -> None:
    [check] = [check for check in CHECKS if check.name == name]
    on_the_device = replace(check, function=f"tests.distributed.device.gpu_checks:{name}")
    outcome = run(on_the_device, 200, tmp_path, gpus=2)
    assert outcome.status == PASSED, f"{outcome.reason}\n{outcome.log_end}"
    assert outcome.figures["device"] == "cuda:0"
