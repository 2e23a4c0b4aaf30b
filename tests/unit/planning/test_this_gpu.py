"""A run that cannot fit into its GPU is refused in one line, before anything is built."""

import pytest
import torch

from megatron_coreward.config.loading import load_config
from megatron_coreward.planning.models import KNOWN, recipe_of
from megatron_coreward.planning.this_gpu import check_gpu_memory
from megatron_coreward.preflight.costs import GIB

MODEL = "Qwen2.5-3B"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A pretended GPU, whose GiB a test may change."""
    memory = {"gib": 79.1}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA L4")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (0, int(memory["gib"] * GIB)))
    return memory


def check(*overrides: str) -> None:
    recipe = recipe_of(MODEL)
    assert recipe is not None
    check_gpu_memory(load_config([recipe], overrides), KNOWN[MODEL], world_size=8)


def test_a_recipe_fits_its_gpu(gpu: dict[str, float]) -> None:
    check()


@pytest.mark.parametrize(
    ("gib", "overrides", "message"),
    [
        (22.2, (), r"phase update needs [\d.]+ GiB .* 22\.2 GiB of NVIDIA L4 .*memory\.recompute=full"),
        (
            79.1,
            ("optimizer.micro_batch_tokens=16384",),
            r"phase update .*lower optimizer\.micro_batch_tokens",
        ),
        (79.1, ("rollout.gpu_memory_utilization=0.05",), r"gpu_memory_utilization is 0\.05.*Raise it"),
    ],
)
def test_what_does_not_fit_names_the_keys(
    gib: float, overrides: tuple[str, ...], message: str, gpu: dict[str, float]
) -> None:
    gpu["gib"] = gib
    with pytest.raises(ValueError, match=message) as refusal:
        check(*overrides)
    assert "\n" not in str(refusal.value) and f"coreward plan --gpus 8 --memory-gib {gib}" in str(
        refusal.value
    )


def test_without_a_gpu_nothing_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check("optimizer.micro_batch_tokens=1000000")
