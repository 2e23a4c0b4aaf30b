"""A checkpoint reads what is offloaded where it is, in main memory, while training goes on."""

from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.folder import Retention
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.actor.teacher import MegatronTeacher
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.checkpoint.checkpoint_runs import VOCAB, snapshot, train
from tests.distributed.checkpoint.killed_saves import slow_writer
from tests.distributed.device.device_runs import Case
from tests.support.models import tiny_model
from tests.support.pretended.cuda import pretended_cuda
from tests.support.pretended.tensor import content_of
from tests.support.ranks import run_ranks


def counting(seen: dict[str, int]) -> Any:
    """Notes the bytes that the writer gets in place, and those that are copied for it."""
    original = FileSystemWriterAsync.preload_tensors

    def preload(buckets: Any, non_blocking: bool = True) -> Any:
        loaded = original(buckets, non_blocking)
        for (*_, (_, before)), (*_, (_, after)) in zip(buckets, loaded, strict=True):
            for (_, there), (_, given) in zip(before, after, strict=True):
                kind = "in place" if there is given else "copied"
                seen[kind] = seen.get(kind, 0) + given.nbytes
        return loaded

    return mock.patch.object(FileSystemWriterAsync, "preload_tensors", staticmethod(preload))


def held(policy: MegatronPolicy, teacher: MegatronTeacher) -> dict[str, torch.Tensor]:
    tensors = snapshot(policy) | {f"average.{name}": value for name, value in teacher._average.items()}
    tensors |= {f"rest.{name}": value for name, value in teacher._rest.items()}
    return {name: content_of(tensor).clone() for name, tensor in tensors.items()}


def save_offloaded(_: int, case: Case, folder: Path) -> dict[str, Any]:
    seen: dict[str, int] = {}
    with pretended_cuda(), sdpa_kernel(SDPBackend.MATH):
        config = case.config()
        config.algorithm.kl_coef = 0.0
        layout = parallel.initialize(config.parallel)
        policy = MegatronPolicy(config, layout, TorchCommunicator(), total_updates=4)
        teacher = MegatronTeacher(config, layout, policy)
        train(policy, 2)
        teacher.update(2, total_steps=4)
        begun = held(policy, teacher)
        policy.offload(), teacher.offload()
        saver = CheckpointSaver(folder, policy, Retention(last=0), teacher=teacher, in_background=True)
        with counting(seen), slow_writer():
            saver.save(2, {"step": 2})
        policy.onload(), teacher.onload()
        train(policy, 4)
        teacher.update(4, total_steps=4)
        policy.offload(), teacher.offload()  # writes to the memory that the writer reads
        saver.finish()
        policy.onload(), teacher.onload()
        moved = held(policy, teacher)
        load_checkpoint(folder / "step_000002", policy, teacher)
        loaded = held(policy, teacher)
        weights = sum(parameter.nbytes for parameter in policy.model.module.parameters())
        parallel.destroy()
    return {"begun": begun, "moved": moved, "loaded": loaded, "weights": weights, **seen}


@pytest.mark.parametrize("distributed", [False, True], ids=["plain", "distributed"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_policys_weights_are_copied(dtype: str, distributed: bool, tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", vocab=VOCAB, kv_heads=2, layers=2)
    case = Case(model, dtype=dtype, distributed=distributed)
    (seen,) = run_ranks(1, save_offloaded, case, tmp_path / "checkpoints", timeout_s=120)
    per_weight = {"float32": 4 + 4 + 4 + 4, "bfloat16": 4 + 4 + 4 + 4 + 4}[dtype]  # moments, master, teacher
    size = {"float32": 4, "bfloat16": 2}[dtype]
    assert seen["copied"] == seen["weights"]
    assert seen["in place"] == seen["weights"] // size * per_weight
    for name, begun in seen["begun"].items():
        assert torch.equal(seen["loaded"][name], begun), name
    assert any(not torch.equal(seen["moved"][name], begun) for name, begun in seen["begun"].items())
