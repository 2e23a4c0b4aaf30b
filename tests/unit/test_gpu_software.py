"""coreward doctor: versions of the GPU's software that do not go together, from plain facts."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_coreward.doctor import gpu_software
from megatron_coreward.doctor.gpu_software import GpuSoftware, conflicts, read, summary

FIT = GpuSoftware(
    driver="580.65.06",
    torch="2.13.0+cu130",
    cuda="13.0",
    nccl="2.29.7",
    engine="2.20.2",
    engine_cuda=(13,),
    vllm="0.32.0",
    vllm_torch="2.13.0",
)


def test_a_fit_machine_is_one_line_that_names_everything() -> None:
    assert list(conflicts(FIT)) == []
    assert summary(FIT).seen == (
        "driver 580.65.06, torch 2.13.0+cu130, CUDA 13.0, NCCL 2.29.7, Transformer Engine 2.20.2, vLLM 0.32.0"
    )
    bare = GpuSoftware(torch="2.13.0+cpu")
    assert list(conflicts(bare)) == [] and "driver -, torch 2.13.0+cpu, CUDA -" in summary(bare).seen


@pytest.mark.parametrize(
    ("changed", "status", "seen", "remedy"),
    [
        (
            {"driver": "570.86.10"},
            "failed",
            "torch 2.13.0+cu130 is built for CUDA 13.0, but the driver is 570.86.10",
            "install driver 580 or newer",
        ),
        ({"driver": None}, "warning", "there is no NVIDIA driver", "docker run --gpus all"),
        (
            {"driver": None, "smi": "nvidia-smi: ended with 9"},
            "failed",
            "ended with 9",
            "restart the machine",
        ),
        ({"visible": ""}, "failed", "CUDA_VISIBLE_DEVICES is empty", "unset CUDA_VISIBLE_DEVICES"),
        (
            {"engine_cuda": (12, 13)},
            "failed",
            "built for CUDA 12, but torch 2.13.0+cu130 for 13.0",
            "pip uninstall transformer-engine",
        ),
        (
            {"engine_error": "ImportError: undefined symbol: _ZN3c10"},
            "failed",
            "2.20.2 cannot be imported, nor can Megatron-Core: ImportError: undefined symbol",
            "anew with --no-build-isolation",
        ),
        (
            {"vllm": "0.33.0", "vllm_torch": "2.14.0"},
            "failed",
            "vLLM 0.33.0 is built for torch 2.14.0, but torch is 2.13.0",
            "requirements/gpu-lock.txt",
        ),
        ({"vllm": "0.31.0"}, "warning", "0.31.0", "tried with 0.32.0"),
        (
            {"torch": "2.13.0+cpu", "cuda": None, "engine": None},
            "warning",
            "torch 2.13.0+cpu is a CPU build, but there is a driver 580.65.06",
            "requirements/gpu-lock.txt",
        ),
    ],
)
def test_a_bad_combination_says_what_to_change(
    changed: dict[str, object], status: str, seen: str, remedy: str
) -> None:
    first = next(conflicts(replace(FIT, **changed)))  # type: ignore[arg-type]
    assert first.status == status
    assert seen in first.seen and remedy in first.remedy
    assert "\n" not in first.seen + first.remedy


def test_an_older_cuda_needs_an_older_driver() -> None:
    older = replace(FIT, torch="2.10.0+cu129", cuda="12.9", engine=None, vllm=None, driver="570.86.10")
    assert list(conflicts(older)) == []
    assert next(conflicts(replace(older, driver="520.1"))).remedy.startswith("install driver 525 or newer")


@pytest.mark.parametrize(
    ("script", "driver", "reason"),
    [
        ("echo 580.65.06; echo 580.65.06", "580.65.06", None),
        ("echo 'No devices were found'", None, "nvidia-smi: No devices were found"),
        (
            "echo 'Driver/library version mismatch' >&2; exit 18",
            None,
            "nvidia-smi: Driver/library",
        ),
    ],
)
def test_the_driver_is_what_nvidia_smi_names(
    script: str, driver: str | None, reason: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    version, why = gpu_software._driver()
    assert version == driver and (why or "").startswith(reason or "")


def test_this_machine_is_read_without_importing_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    software = read()
    assert (software.torch, software.cuda, software.visible) == ("2.13.0+cpu", None, "")
    monkeypatch.setattr(gpu_software, "installed", lambda name: "2.20.2")
    monkeypatch.setattr(gpu_software, "requires", lambda name: ["torchvision==0.28.0", "torch==2.14.0"])
    broken = read()
    assert broken.vllm_torch == "2.14.0" and broken.engine_cuda == (12, 13)
    assert broken.engine_error and "No module named 'transformer_engine'" in broken.engine_error
