"""Syncs independent random models from real Megatron-Core into real vLLM, in every pair of layouts.

An engine starts on model A; the actor holds B, then C. After each sync vLLM's log-probs must be the
actor's. A new engine takes seconds, so the ranks of one process group hold an engine for each model, all
with the same rollout size, and every engine serves all actor layouts in turn.

CI runs a part of the product: every family, tied and untied, every actor layout, both rollout sizes, and one
model with all layouts at both. `make test-matrix` runs all of it.
"""

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_coreward.actor import parallel
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.weights.load import load_hf_weights
from megatron_coreward.config.schema import Config, ModelConfig, ParallelConfig
from megatron_coreward.rollout.engine import VllmEngine, set_vllm_environment
from megatron_coreward.types import QuestionPair
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.weight_sync import prompts_to_verify, sync_weights, verify_sync
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

RANKS = 4
TOLERANCE, CONTROL = 1e-4, 1e-2
TEMPERATURE = 0.9
BUCKET = 2**18  # bytes; less than the configuration lets a user choose
LAYER = 500_000  # bytes of a whole decoder layer, which the engine may collect before it takes it
SIZES = {
    "heads": 4,
    "kv_heads": 2,
    "layers": 7,
    "vocab": 300,
}  # stages of 4 and 3 layers, padded vocabularies
MODELS = {"experts": {"family": "qwen3_moe", "tied": False, "moe_intermediate_size": 64}} | {
    f"{family} {'tied' if tied else 'untied'}": {"family": family, "tied": tied}
    for family in ("llama", "qwen2", "qwen3")
    for tied in (True, False)
}
"""Experts come first: vLLM makes the group that they need with the first engine of a process, or never."""
LAYOUTS = {(1, 1): "TP1 PP1", (2, 1): "TP2 PP1", (1, 2): "TP1 PP2", (2, 2): "TP2 PP2"}
Combination = tuple[str, tuple[int, int], int]
"""Model, actor (TP, PP), rollout size."""
CI: list[Combination] = [
    ("experts", (2, 2), 1),
    ("experts", (1, 2), 2),
    *(("qwen3 tied", layout, size) for layout in LAYOUTS for size in (1, 2)),
    ("llama untied", (1, 1), 1),
    ("qwen2 tied", (2, 2), 1),
    ("llama tied", (2, 1), 2),
    ("qwen2 untied", (2, 2), 2),
    ("qwen3 untied", (1, 2), 2),
]
ALL: list[Combination] = [(model, layout, size) for size in (1, 2) for model in MODELS for layout in LAYOUTS]
PAIRS = [QuestionPair(i, "", "", tuple(range(20 + i, 60)), tuple(range(90, 170 - i))) for i in range(4)]


@dataclass
class Seen:
    """One combination on one rank. Gaps are the largest differences of log-probs, in nats."""

    before: float = 0.0
    """The engine still has older weights."""
    b: float = 0.0
    c_not_synced: float = 0.0
    """The actor's weights changed in place; nothing of it may have reached the engine."""
    c: float = 0.0
    stale_prefixes: float = 0.0
    """A again, on the prefixes of C."""
    alive: int = 0
    """Most bytes of gathered tensors alive at once, the engine's hands included."""
    model_bytes: int = 0


def config_of(model: Path, layout: tuple[int, int], rollout_size: int) -> Config:
    config = Config(model=ModelConfig(str(model)), parallel=ParallelConfig(*layout))
    if model.parent.name == "experts":
        config.parallel.sequence, config.parallel.expert = layout[0] > 1, 2
    config.data.max_prompt_tokens = 200
    config.rollout.max_response_tokens = 24
    config.rollout.temperature = TEMPERATURE
    config.rollout.tensor_parallel_size = rollout_size
    config.rollout.memory_gb = 0.01
    config.rollout.max_num_seqs = 16
    vars(config.weight_sync)["bucket_mb"] = BUCKET / 2**20  # past the check of its limits
    return config


@dataclass
class Alive:
    """Follows what the exporter streams until the last user lets go of it."""

    own: set[int]
    """Storages of the actor's parameters, which are there anyway."""
    bytes_now: int = 0
    peak: int = 0
    total: int = 0
    _storages: dict[int, int] = field(default_factory=dict)

    def follow(self, weights: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in weights:
            self.total += tensor.nbytes if name != "lm_head.weight" else 0
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self.own:
                self._take(storage.data_ptr(), storage.nbytes())
                weakref.finalize(tensor, self._release, storage.data_ptr(), storage.nbytes())
            yield name, tensor

    def _take(self, storage: int, num_bytes: int) -> None:
        if self._storages.setdefault(storage, 0) == 0:
            self.bytes_now += num_bytes
        self._storages[storage] += 1
        self.peak = max(self.peak, self.bytes_now)

    def _release(self, storage: int, num_bytes: int) -> None:
        self._storages[storage] -= 1
        if self._storages[storage] == 0:
            self.bytes_now -= num_bytes


def combination(engine: VllmEngine, folder: Path, layout_sizes: tuple[int, int], rollout_size: int) -> Seen:
    config = config_of(folder / "b", layout_sizes, rollout_size)
    layout = parallel.initialize(config.parallel)
    policy = MegatronPolicy(config, layout, TorchCommunicator(), total_updates=1)
    alive = Alive({p.untyped_storage().data_ptr() for p in policy.model.module.parameters()})
    prompts = prompts_to_verify(PAIRS, context=224)

    def gap() -> float:
        return verify_sync(policy, engine, policy.comm, prompts, TEMPERATURE, tolerance=float("inf"))

    seen = Seen(before=gap())
    export = policy.export_weights
    with mock.patch.object(policy, "export_weights", lambda: alive.follow(export())):
        sync_weights(policy, engine, version=1)
    seen.b, seen.alive, seen.model_bytes = gap(), alive.peak, alive.total
    model = policy.model
    load_hf_weights(model.module, model.shape, layout, folder / "c")
    seen.c_not_synced = gap()
    sync_weights(policy, engine, version=2)
    seen.c = gap()
    load_hf_weights(model.module, model.shape, layout, folder / "a")
    with mock.patch.object(engine.llm, "reset_prefix_cache", lambda: True):
        sync_weights(policy, engine, version=3)
    seen.stale_prefixes = gap()
    engine.llm.reset_prefix_cache()
    parallel.destroy()
    return seen


def talk_by_gloo() -> None:
    """vLLM's ranks of a replica on a CPU wait for each other in a busy loop, which four of them on two cores
    spend most of the time in. Where the ranks have no memory in common it takes torch.distributed."""
    set_vllm_environment()
    from vllm.distributed.device_communicators.cpu_communicator import CpuCommunicator

    CpuCommunicator._all_group_ranks_share_shm_group_name = lambda self: False


def work(rank: int, root: Path, rollout_size: int, combinations: Sequence[Combination]) -> dict[Any, Seen]:
    talk_by_gloo()
    torch.use_deterministic_algorithms(True)  # rows that the exporter leaves undefined are NaN
    seen = {}
    engines = []  # one that is let go ends the process groups of all
    for model in dict.fromkeys(model for model, _, _ in combinations):
        folder = root / model
        engine = VllmEngine(config_of(folder / "a", (1, 1), rollout_size), str(folder / "a"), [258], seed=1)
        engines.append(engine)
        for combined in combinations:
            if combined[0] == model:
                seen[combined] = combination(engine, folder, combined[1], rollout_size)
    return seen


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, settings in MODELS.items():
        for seed, version in enumerate("abc"):
            tiny_model(folder / name / version, seed=seed, **(SIZES | settings))
    return folder


def check(root: Path, combinations: Sequence[Combination]) -> None:
    [rollout_size] = {size for _, _, size in combinations}
    for seen in run_ranks(RANKS, work, root, rollout_size, combinations, timeout_s=1500):
        assert set(seen) == set(combinations)
        for combined, one in seen.items():
            assert min(one.before, one.c_not_synced) > CONTROL, (combined, one)
            assert max(one.b, one.c) < TOLERANCE, (combined, one)
            assert one.stale_prefixes > CONTROL, (combined, one)
            assert one.alive < BUCKET + LAYER < one.model_bytes / 4, (combined, one)


@pytest.mark.parametrize("rollout_size", [1, 2])
def test_every_family_layout_and_rollout_size(root: Path, rollout_size: int) -> None:
    check(root, [combined for combined in CI if combined[2] == rollout_size])


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("rollout_size", [1, 2])
def test_the_whole_matrix(root: Path, rollout_size: int) -> None:
    check(root, [combined for combined in ALL if combined[2] == rollout_size])
