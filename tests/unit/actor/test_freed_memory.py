"""After keep_freed_memory the next tensor costs no page faults, counted in a separate process."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import torch
from megatron_coreward.utils.memory import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(20):  # small blocks settle between the large ones at first
    torch.ones(8 << 20)  # 32 MiB
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    torch.ones(8 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(choice: str) -> int:
    command = [sys.executable, "-c", PROGRAM, choice]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    faults = page_faults("keep")
    assert faults < 100, f"{faults} page faults"
    assert faults * 5 < page_faults("leave")
