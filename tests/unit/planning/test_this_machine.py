"""A run that cannot fit into its GPU is refused in one line; how many sequences vLLM decodes at once."""

import pytest
import torch

from megatron_coreward.config.loading import load_config
from megatron_coreward.planning.models import KNOWN, recipe_of
from megatron_coreward.planning.this_machine import check_gpu_memory, with_sequences
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
            ("optimizer.micro_batch_tokens=32768",),
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


def sequences(world_size: int, drawn: int, *overrides: str) -> int | str:
    recipe = recipe_of(MODEL)
    assert recipe is not None
    config = load_config([recipe], overrides)
    counted = with_sequences(config, KNOWN[MODEL], world_size, drawn)
    assert config == load_config([recipe], overrides), "what a run records stays as given"
    return counted.rollout.max_num_seqs


@pytest.mark.parametrize(
    ("overrides", "drawn", "number"),
    [
        ((), 2048, 322),  # the planner's figure: docs/gpu/launch.md
        ((), 300, 300),  # a step draws no more
        ((), 0, 1),
        (("rollout.max_response_tokens=8192",), 2048, 256),  # at full length the cache holds 132
        (("rollout.max_response_tokens=256",), 2048, 1024),  # 1,504
        (("rollout.max_num_seqs=7",), 2048, 7),
        (("rollout.max_num_seqs=2000",), 2048, 2000),
    ],
)
def test_sequences_on_a_gpu(
    overrides: tuple[str, ...], drawn: int, number: int, gpu: dict[str, float]
) -> None:
    gpu["gib"] = 79.0
    assert sequences(8, drawn, *overrides) == number


def test_sequences_of_a_larger_gpu(gpu: dict[str, float]) -> None:
    gpu["gib"] = 139.0
    assert sequences(8, 2048) > 322


@pytest.mark.parametrize(("cache_gb", "number"), [(2, 256), (80, 650), (1000, 1024)])
def test_sequences_on_a_cpu_are_those_of_its_cache(
    cache_gb: int, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token of Qwen2.5-3B has 2 x 36 layers x 2 heads x 128 numbers of 2 bytes, a sequence 3,584 tokens."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert number in (256, 1024) or cache_gb * GIB // (2 * 36 * 2 * 128 * 2 * 3584) == number
    assert sequences(2, 5000, f"rollout.memory_gb={cache_gb}") == number
