"""What runs on a GPU needs of driver, CUDA, torch, Transformer Engine, vLLM and NCCL, and which versions of
them do not go together. Standard library only: torch and Transformer Engine are asked in processes of their
own, since a broken build may take its process down.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import requires

from megatron_coreward.doctor.packages import FAILED, OK, WARNING, Finding
from megatron_coreward.utils.versions import installed

LEAST_DRIVER = {12: 525, 13: 580}
"""Major version of CUDA -> driver, by NVIDIA's table of compatibility."""
VLLM = "0.32.0"
"""The version whose weight reloading the project knows; what it logs there is no interface."""
LOCK = "requirements/gpu-lock.txt (docs/install.md)"
ENGINE = "transformer-engine"


@dataclass(frozen=True)
class GpuSoftware:
    """The versions of a machine; None: not there."""

    driver: str | None = None
    smi: str | None = None
    """Why nvidia-smi, which is there, names no driver."""
    torch: str | None = None
    cuda: str | None = None
    """That torch is built for; None: a CPU build."""
    nccl: str | None = None
    engine: str | None = None
    """Transformer Engine."""
    engine_cuda: tuple[int, ...] = ()
    """Major versions of CUDA that installed cores of Transformer Engine are built for."""
    engine_error: str | None = None
    """Why it cannot be imported."""
    vllm: str | None = None
    vllm_torch: str | None = None
    """Version of torch that the installed vLLM asks for, without the build."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""


def gpu_software() -> Iterator[Finding]:
    """One line of versions, and one for each known bad combination of them."""
    software = read()
    yield summary(software)
    yield from conflicts(software)


def read() -> GpuSoftware:
    """This machine's. Takes the seconds that torch and Transformer Engine need to be imported."""
    driver, smi = _driver()
    engine = installed(ENGINE)
    facts, _ = _ask(_TORCH) if installed("torch") else ("", None)
    cuda, nccl = json.loads(facts) if facts else (None, None)
    return GpuSoftware(
        driver=driver,
        smi=smi,
        torch=installed("torch"),
        cuda=cuda,
        nccl=nccl,
        engine=engine,
        engine_cuda=tuple(major for major in LEAST_DRIVER if installed(f"{ENGINE}-cu{major}")),
        engine_error=_ask(_ENGINE)[1] if engine else None,
        vllm=installed("vllm"),
        vllm_torch=_torch_of_vllm() if installed("vllm") else None,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def summary(software: GpuSoftware) -> Finding:
    """The versions in one line."""
    versions = {
        "driver": software.driver,
        "torch": software.torch,
        "CUDA": software.cuda,
        "NCCL": software.nccl,
        "Transformer Engine": software.engine,
        "vLLM": software.vllm,
    }
    return Finding(
        "GPU software", OK, ", ".join(f"{name} {known or '-'}" for name, known in versions.items())
    )


def conflicts(software: GpuSoftware) -> Iterator[Finding]:
    """What does not go together. Failed is what a run on GPUs would die of; on a machine without an NVIDIA
    driver, and with a CPU build of torch, nothing of the kind is failed."""
    if software.smi:
        yield Finding("driver", FAILED, software.smi, "restart the machine, or install the driver anew")
    if software.torch and software.cuda:
        yield from _driver_conflicts(software, int(software.cuda.partition(".")[0]))
    elif software.torch and software.driver:
        seen = f"torch {software.torch} is a CPU build, but there is a driver {software.driver}"
        yield Finding("torch", WARNING, seen, f"to run on its GPUs install {LOCK} in another environment")
    if software.engine:
        yield from _engine_conflicts(software)
    if software.vllm:
        yield from _vllm_conflicts(software)


def _driver_conflicts(software: GpuSoftware, cuda: int) -> Iterator[Finding]:
    built = f"torch {software.torch} is built for CUDA {software.cuda}"
    least = LEAST_DRIVER.get(cuda, 0)
    if software.driver is None:
        remedy = "take a node with GPUs; a container needs docker run --gpus all, or apptainer exec --nv"
        yield Finding("driver", WARNING, f"{built}, but there is no NVIDIA driver", remedy)
        return
    if int(software.driver.partition(".")[0]) < least:
        remedy = (
            f"install driver {least} or newer, or on data-center GPUs NVIDIA's package cuda-compat-{cuda}-0"
        )
        yield Finding("driver", FAILED, f"{built}, but the driver is {software.driver}", remedy)
    if software.visible == "":
        remedy = "unset CUDA_VISIBLE_DEVICES, or list the GPUs to use"
        yield Finding("GPUs", FAILED, "CUDA_VISIBLE_DEVICES is empty, which hides them all", remedy)


def _engine_conflicts(software: GpuSoftware) -> Iterator[Finding]:
    again = (
        f"install torch first, then {ENGINE}[pytorch]=={software.engine} anew with --no-build-isolation, or "
        f"uninstall all its parts: pip uninstall {ENGINE} {ENGINE}-torch {ENGINE}-cu12 {ENGINE}-cu13"
    )
    others = [major for major in software.engine_cuda if str(major) != (software.cuda or "").split(".")[0]]
    if others:
        seen = f"built for CUDA {others[0]}, but torch {software.torch} for {software.cuda or 'the CPU'}"
        yield Finding("Transformer Engine", FAILED, seen, again)
    elif software.engine_error:
        seen = f"{software.engine} cannot be imported, nor can Megatron-Core: {software.engine_error}"
        yield Finding("Transformer Engine", FAILED, seen, again)


def _vllm_conflicts(software: GpuSoftware) -> Iterator[Finding]:
    wanted, there = software.vllm_torch, (software.torch or "none").partition("+")[0]
    if wanted and wanted != there:
        seen = f"vLLM {software.vllm} is built for torch {wanted}, but torch is {there}"
        yield Finding("vLLM and torch", FAILED, seen, f"install both as in {LOCK}")
    elif software.vllm != VLLM:
        yield Finding("vLLM version", WARNING, str(software.vllm), f"tried with {VLLM}, which is in {LOCK}")


def _driver() -> tuple[str | None, str | None]:
    """The driver's version, or why the tool that names it fails; neither without the tool."""
    if shutil.which("nvidia-smi") is None:
        return None, None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    text, error = _run(command)
    version = re.match(r"\d+[\d.]*", text)
    return (version[0], None) if version else (None, f"nvidia-smi: {error or text or 'no answer'}")


_TORCH = """
import json, torch
nccl = ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else None
print(json.dumps([torch.version.cuda, nccl]))
"""
_ENGINE = "import torch, transformer_engine.pytorch"
"""torch first: it brings the NCCL that Transformer Engine is linked with."""


def _torch_of_vllm() -> str | None:
    pins = (re.match(r"torch==([\d.]+)", text) for text in requires("vllm") or [])
    return next((pin[1] for pin in pins if pin), None)


def _ask(code: str) -> tuple[str, str | None]:
    """What a Python process prints, and its error, if it has one."""
    return _run([sys.executable, "-W", "ignore", "-c", code])


def _run(command: list[str]) -> tuple[str, str | None]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    lines = (done.stderr.strip() or done.stdout.strip() or f"ended with {done.returncode}").splitlines()
    return (done.stdout.strip(), None) if done.returncode == 0 else ("", lines[-1][:200])
