"""Each rank takes its own GPU, or says in one line why it has none."""

import subprocess
import sys

import pytest
import torch

from megatron_coreward.utils import distributed
from megatron_coreward.utils.distributed import choose_device, set_cuda_environment


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """Two pretended GPUs; the list of those that were made current."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.version, "cuda", None)  # then the environment stays as it is
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(distributed.dist, "is_nccl_available", lambda: True)
    return current


@pytest.fixture(autouse=True)
def _denormals_at_first():
    torch.set_flush_denormal(False)  # an earlier test may have called choose_device
    yield
    torch.set_flush_denormal(False)


DENORMALS = """
import numpy, torch
from megatron_coreward.utils.distributed import choose_device
torch.cuda.is_available = lambda: False
choose_device()
torch.set_num_threads(2)
assert not torch.full((1 << 20,), 2e-38).mul(0.25).any(), "in all threads"
numpy.finfo(numpy.float32), numpy.finfo(numpy.float64)  # without a warning
"""


def test_without_gpus_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch.tensor(2e-38).mul(0.25) > 0, "or the next line shows nothing"
    assert choose_device() is None
    assert torch.tensor(2e-38).mul(0.25) == 0


def test_denormals_are_flushed_by_every_thread_of_a_cpu_rank() -> None:
    result = subprocess.run([sys.executable, "-W", "error", "-c", DENORMALS], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_with_a_gpu_denormals_stay(gpus: list[torch.device]) -> None:
    choose_device()
    assert torch.tensor(2e-38).mul(0.25) > 0


@pytest.mark.parametrize("local_rank", [0, 1])
def test_the_local_rank_is_the_device(
    local_rank: int, gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", str(local_rank))
    assert choose_device() == torch.device("cuda", local_rank)
    assert gpus == [torch.device("cuda", local_rank)]


def test_more_ranks_than_gpus(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    with pytest.raises(ValueError, match=r"rank 2 of this machine has no GPU: torch sees 2 .*=4,5"):
        choose_device()
    assert gpus == []


def test_all_gpus_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(distributed, "set_cuda_environment", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES is empty"):
        choose_device()


@pytest.mark.parametrize(
    ("reason", "refused"),
    [
        ("The NVIDIA driver on your system is too old (found version 12080). Please update your", True),
        ("CUDA driver initialization failed, you might not have a CUDA gpu.", True),
        ("Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU", False),
    ],
)
def test_a_driver_that_torch_cannot_use(reason: str, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reasons are torch's own; without any driver a CUDA build runs on the CPU."""

    def init() -> None:
        raise RuntimeError(reason)

    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(distributed, "set_cuda_environment", lambda _: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", init)
    if refused:
        with pytest.raises(ValueError, match="cannot use this machine's GPUs: .*needs driver 580") as refusal:
            choose_device()
        assert reason.partition(". ")[0] in str(refusal.value)
    else:
        assert choose_device() is None


def test_a_torch_without_nccl(gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(distributed.dist, "is_nccl_available", lambda: False)
    with pytest.raises(ValueError, match="has no NCCL"):
        choose_device()


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ({}, {"CUDA_DEVICE_MAX_CONNECTIONS": "1", "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}),
        ({"CUDA_DEVICE_MAX_CONNECTIONS": "8", "PYTORCH_CUDA_ALLOC_CONF": "x"}, {}),
        ({"PYTORCH_ALLOC_CONF": "x"}, {"CUDA_DEVICE_MAX_CONNECTIONS": "1"}),
    ],
)
def test_the_environment_of_cuda_keeps_what_the_user_has_set(
    given: dict[str, str], added: dict[str, str]
) -> None:
    environment = dict(given)
    set_cuda_environment(environment)
    assert environment == given | added
