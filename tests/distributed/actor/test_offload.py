"""Moving optimizer state, gradient buffers and reference off the device and back changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.offload import on_its_own, optimizer_tensors
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.reference import MegatronReference
from megatron_coreward.config.schema import ParallelConfig
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import random_responses
from tests.distributed.checkpoint.checkpoint_runs import VOCAB, config_of, make_policy, same, snapshot, train
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

CASES = {
    "tensor parallel": (ParallelConfig(tensor=2), "float32", False),
    "distributed optimizer": (ParallelConfig(), "float32", True),
    "bfloat16": (ParallelConfig(), "bfloat16", False),
    "bfloat16, distributed optimizer": (ParallelConfig(), "bfloat16", True),
}
UPDATES = 3


def sizes(policy: MegatronPolicy) -> dict[str, int]:
    """Bytes in memory by kind."""
    return {
        "optimizer": sum(t.untyped_storage().nbytes() for t in optimizer_tensors(policy.optimizer)),
        "gradients": sum(b.grad_data.untyped_storage().nbytes() for b in policy.ddp.buffers),
        "weights": sum(p.untyped_storage().nbytes() for p in policy.model.module.parameters()),
    }


def error_of(action: Callable[[], Any]) -> str:
    with pytest.raises(AssertionError) as error:
        action()
    return str(error.value)


def case(folder: Path, layout: ParallelConfig, dtype: str, distributed: bool) -> dict[str, Any]:
    config = config_of(folder, layout, dtype)
    config.optimizer.distributed = distributed
    straight, moved = make_policy(config), make_policy(config)
    train(straight, UPDATES)
    seen: dict[str, Any] = {"at home": sizes(moved)}
    for until in range(1, UPDATES + 1):
        moved.offload()
        moved.offload()  # twice is once
        seen["away"] = sizes(moved)
        seen["weights"] = {name: tensor.clone() for name, tensor in moved.export_weights(for_engine=False)}
        moved.onload()
        moved.onload()
        train(moved, until)
    seen["same"] = same(snapshot(straight), snapshot(moved))
    seen["back"] = sizes(moved)
    state = snapshot(moved)
    moved.offload()
    seen["refusal"] = error_of(lambda: train(moved, UPDATES + 1))
    moved.onload()
    seen["unchanged"] = same(state, snapshot(moved))
    seen["reference"] = reference(config, straight)
    parallel.destroy()
    return seen


def reference(config: Any, policy: MegatronPolicy) -> dict[str, Any]:
    model = MegatronReference(config, policy.layout)
    held = random_responses(0, pairs=2, samples=2, vocab=VOCAB) if dist.get_rank() == 0 else ()
    batch = policy.shard([WeightedResponse(response) for response in held])
    before = model.log_probs(batch)
    model.offload()
    away = sum(p.untyped_storage().nbytes() for p in model._weights._tensors())
    refusal = error_of(lambda: model.log_probs(batch))
    model.onload()
    after_one = model.log_probs(batch)
    model.offload()
    model.onload()
    after = [after_one, model.log_probs(batch)]
    return {"away": away, "refusal": refusal, "same": all(torch.equal(before, one) for one in after)}


def work(rank: int, folder: Path) -> dict[str, dict[str, Any]]:
    return {name: case(folder, *settings) for name, settings in CASES.items()}


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Any]]]:
    folder = tiny_model(tmp_path_factory.mktemp("model"), "qwen3", vocab=VOCAB, kv_heads=2)
    return run_ranks(2, work, folder, timeout_s=200)


@pytest.mark.parametrize("name", CASES)
def test_training_goes_on_as_if_nothing_had_moved(name, by_rank):
    for seen in by_rank:
        assert seen[name]["same"] and seen[name]["unchanged"]


@pytest.mark.parametrize("name", CASES)
def test_the_memory_is_given_up_but_not_that_of_the_weights(name, by_rank):
    for seen in by_rank:
        home, away, back = (seen[name][when] for when in ("at home", "away", "back"))
        assert away == {"optimizer": 0, "gradients": 0, "weights": home["weights"]}
        assert back == home and min(home.values()) > 0
        assert all(torch.isfinite(tensor).all() for tensor in seen[name]["weights"].values())


@pytest.mark.parametrize("name", CASES)
def test_use_in_between_is_refused(name, by_rank):
    for seen in by_rank:
        assert "onload()" in seen[name]["refusal"] and "onload()" in seen[name]["reference"]["refusal"]


@pytest.mark.parametrize("name", CASES)
def test_the_reference_comes_back_as_it_was(name, by_rank):
    for seen in by_rank:
        assert seen[name]["reference"]["away"] == 0 and seen[name]["reference"]["same"]


def test_memory_that_a_writer_has_read_in_place_can_still_be_given_up():
    whole = torch.arange(12.0)
    alone = on_its_own(whole.view(3, 4)[1:])
    assert torch.equal(alone, torch.arange(4.0, 12.0).view(2, 4))
    assert alone.untyped_storage().nbytes() == alone.nbytes
    alone[0, 0] = 7.0
    assert whole[4] == 7.0, "the same memory"
    whole.untyped_storage().resize_(0)
    assert on_its_own(torch.empty(0, 3)).shape == (0, 3)
    del whole
    kept = on_its_own(torch.ones(5))
    assert torch.equal(kept, torch.ones(5)), "it keeps the memory"
