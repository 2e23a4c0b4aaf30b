"""After keep_freed_memory the next tensor costs no page faults, counted in a separate process."""

import os
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


def page_faults(choice: str, **variables: str) -> int:
    command, environment = [sys.executable, "-c", PROGRAM, choice], os.environ | variables
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(found.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_used_again() -> None:
    faults = page_faults("keep")
    assert faults < 100, f"{faults} page faults"
    assert faults * 5 < page_faults("leave")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_who_has_set_glibcs_variables_keeps_that_choice() -> None:
    assert page_faults("keep", MALLOC_MMAP_THRESHOLD_="131072") > 1000
