"""What vLLM chooses on a GPU, where it runs other parts of itself than on the CPU of these tests.

Only its configuration is made; a change of these choices with a version is to be seen here, not in a run.
"""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.support.paths import ROOT

MODEL = "examples/arithmetic_arms/start_model"
EVER = {"chunked_prefill": True, "prefix_caching": True, "batch_tokens": 16384, "block_size": 16}
EVER |= {"logprobs": "processed_logprobs"}


@pytest.mark.parametrize(
    ("overrides", "chosen"),
    [
        (
            [],
            {
                "async_scheduling": True,
                "cumem": True,
                "dtype": "torch.bfloat16",
                "graphs": "FULL_AND_PIECEWISE",
            },
        ),
        (
            ["rollout.async_scheduling=never", "rollout.enforce_eager=true", "memory.rollout_sleep=never"],
            {"async_scheduling": False, "cumem": False, "graphs": "NONE"},
        ),
    ],
    ids=["defaults", "switches"],
)
def test_the_choices_on_an_h100(overrides: list[str], chosen: dict[str, Any]) -> None:
    command = [sys.executable, "-m", "tests.support.pretended.vllm_config", MODEL, *overrides]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout.splitlines()[-1])
    assert {name: made[name] for name in EVER | chosen} == EVER | chosen
