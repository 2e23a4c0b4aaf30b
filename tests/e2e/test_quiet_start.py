"""What vLLM's C++ says at every start on a CPU is not heard, and what else comes on stderr is."""

import subprocess
import sys

import pytest
import torch

BIND = """
import sys, torch
from megatron_coreward.rollout.engine import _quiet_binding
with _quiet_binding():
    torch.ops._C.init_cpu_memory_env([0])
    print("heard", file=sys.stderr, flush=True)
torch.ops._C.init_cpu_memory_env([0])
"""


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU nothing is bound")
def test_the_binding_to_a_numa_node_is_not_heard() -> None:
    done = subprocess.run([sys.executable, "-c", BIND], capture_output=True, text=True, check=True)
    quiet, loud = done.stderr.split("heard\n")
    if "NUMA binding" not in loud:
        pytest.skip("vLLM does not say on this machine that it binds memory")
    assert "NUMA" not in quiet
