"""Writes requirements/gpu-lock.txt: every package of the GPU environment with its exact version.

Lets uv resolve pyproject.toml with its extra `gpu` for Linux on x86-64, once per Python; nothing is
installed, and neither this machine's system nor its Python matters. Only the ordinary index is asked:
a folder of wheels or a further index (in the environment or in a configuration file) may hold a CPU build of
torch, which satisfies the same pin and asks for none of the CUDA packages. Run by `make lock-gpu`.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements/gpu-lock.txt"
PYTHONS = ("3.11", "3.12")
SYSTEM = "x86_64-manylinux_2_31"
"""glibc 2.31 or newer, which the newest wheels ask for."""
OTHER_SOURCES = (
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_TORCH_BACKEND",
    "UV_CONSTRAINT",
    "UV_OVERRIDE",
)
"""Environment variables of uv that would bring in other packages. It reads none of pip's."""
_HEADER = """\
# Written by `make lock-gpu` from pyproject.toml and gpu-uv.toml; do not edit.
# Linux on x86-64, CUDA 13, Python 3.11 and 3.12. README.md says how it is installed.
"""


def resolve(python: str) -> set[str]:
    """The lines `name==version` for one Python version."""
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--extra", "gpu", "--quiet"]
    command += ["--config-file", "requirements/gpu-uv.toml", "--python-version", python]
    command += ["--python-platform", SYSTEM, "--no-python-downloads", "--no-header", "--no-annotate"]
    environment = {name: value for name, value in os.environ.items() if name not in OTHER_SOURCES}
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return set(done.stdout.split("\n")) - {""}


def merge(lines: Mapping[str, set[str]]) -> list[str]:
    """Sorted lines of all Pythons: what not all of them need carries a marker for each that does."""
    merged = []
    for line in sorted(set().union(*lines.values())):
        wanted_by = [python for python, needed in lines.items() if line in needed]
        marker = " or ".join(f'python_version == "{python}"' for python in wanted_by)
        merged.append(line if len(wanted_by) == len(lines) else f"{line}; {marker}")
    return merged


def main() -> None:
    lines = merge({python: resolve(python) for python in PYTHONS})
    LOCK.write_text(_HEADER + "\n".join(lines) + "\n")
    Console().print(f"requirements/gpu-lock.txt: {len(lines)} lines")


if __name__ == "__main__":
    main()
