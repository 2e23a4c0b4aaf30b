"""Work of test_checkpoint.py's ranks: uninterrupted and resumed runs, saves in every layout, exports."""

import json
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.folder import Retention
from megatron_coreward.actor.export import export_hf
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.schema import Config, ModelConfig, ParallelConfig
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.actor.actor_runs import random_responses

# A vocabulary that TP2 pads; a head and biases that TP2 cuts; one tied family and one untied.
VOCAB = 301
MODELS = {
    "tied": {"family": "qwen3", "tied": True},
    "untied": {"family": "qwen2", "tied": False},
    "small_mlp": {"family": "qwen3", "tied": True, "intermediate_size": 64},
    "other_heads": {"family": "qwen3", "tied": True, "heads": 1, "kv_heads": 1, "head_dim": 64},
    "other_vocab": {"family": "qwen3", "tied": True, "vocab": 303},
}
LAYOUTS = {
    "tp2": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
    "dp2": ParallelConfig(),
    "dp2_distributed": ParallelConfig(),
}
SAVED, FINAL = 2, 4
"""Updates before the checkpoint, and in all."""
TRAINER = {"step": 2, "epoch": 0, "order": [3, 1, 2], "note": "ü"}
Tensors = dict[str, torch.Tensor]


def config_of(model: Path, layout: ParallelConfig, dtype: str = "float32") -> Config:
    config = Config(model=ModelConfig(str(model), dtype=dtype), parallel=layout)
    config.algorithm.kl_coef = 0.0
    config.optimizer = OptimizerConfig(lr=1e-2, warmup_ratio=0.3, micro_batch_tokens=60)
    return config


def make_policy(config: Config) -> MegatronPolicy:
    layout = parallel.initialize(config.parallel)
    return MegatronPolicy(config, layout, TorchCommunicator(), total_updates=FINAL)


def train(policy: MegatronPolicy, until: int) -> None:
    """Updates on other responses each, with a learning rate that changes."""
    objective = GrpoObjective(policy.config.algorithm)
    while policy.num_updates < until:
        responses = random_responses(policy.num_updates, pairs=2, samples=2, vocab=VOCAB)
        held = [r for r in responses if r.pair_id % policy.comm.world_size == policy.comm.rank]
        policy.update(policy.shard(with_weights(held, policy.config, policy.comm)), objective)


def weights_of(policy: MegatronPolicy) -> Tensors:
    return {name: tensor.clone() for name, tensor in policy.export_weights(for_engine=False)}


def snapshot(policy: MegatronPolicy) -> Tensors:
    """This rank's parameters, those that Adam steps on (float32 beside bfloat16) and Adam's state."""
    tensors = {name: p.detach().clone() for name, p in policy.model.module.named_parameters()}
    for i, p in enumerate(policy.optimizer.get_parameters()):
        tensors[f"stepped.{i}"] = p.detach().clone()
        tensors |= {f"{key}.{i}": v.clone() for key, v in policy.optimizer.optimizer.state[p].items()}
    return tensors


def same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def error_of(function: Any, *args: Any) -> str:
    with pytest.raises((ValueError, OSError)) as raised:
        function(*args)
    return str(raised.value)


def save(folder: Path, policy: MegatronPolicy, step: int = SAVED) -> Path:
    CheckpointSaver(folder, policy, Retention(last=0)).save(step, TRAINER)
    return folder / f"step_{step:06d}"


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Writing more to one file is an OSError, in child processes as well: a full disk without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def one_rank(_: int, root: Path) -> dict[str, Any]:
    """Straight runs, saves, resumed runs, exports and refusals."""
    seen: dict[str, Any] = {}
    for name in ("tied", "untied"):
        seen[name] = _straight_and_resumed(root / name, root / "one" / name, "float32")
        policy = make_policy(config_of(root / name, ParallelConfig()))
        export_hf(policy, root / name, root / "hf" / name, shard_bytes=40_000 if name == "tied" else 10**9)
    seen["bfloat16"] = _straight_and_resumed(root / "tied", root / "one" / "bfloat16", "bfloat16")

    policy = make_policy(config_of(root / "tied", ParallelConfig()))
    seen["over"] = _over_what_is_there(policy, root)
    before = save(root / "fresh", policy, step=0)
    resumed = make_policy(config_of(root / "tied", ParallelConfig()))
    load_checkpoint(before, resumed)
    train(policy, 1), train(resumed, 1)
    seen["fresh"] = same(snapshot(policy), snapshot(resumed))

    config = config_of(root / "tied", ParallelConfig())
    config.optimizer.beta2, config.optimizer.weight_decay = 0.9, 0.5
    changed = make_policy(config)
    load_checkpoint(root / "one/tied/step_000002", changed)
    seen["settings"] = {(g["betas"], g["weight_decay"], g["fused"]) for g in changed.optimizer.param_groups}
    seen["settings_moments"] = changed.optimizer.optimizer.state_dict()["state"][0]["step"].item()

    with mock.patch.object(shutil, "disk_usage", lambda _: mock.Mock(free=0)):
        seen["no_room"] = error_of(save, root / "no_room", policy)
    seen["left"] = list((root / "no_room").iterdir())

    seen["refused"] = {}
    for name in ("untied", "small_mlp", "other_heads", "other_vocab"):
        other = make_policy(config_of(root / name, ParallelConfig()))
        state = snapshot(other)
        seen["refused"][name] = error_of(load_checkpoint, root / "one/tied/step_000002", other)
        assert same(snapshot(other), state), "a refused checkpoint changed the policy"
    parallel.destroy()
    return seen


def _straight_and_resumed(model: Path, folder: Path, dtype: str) -> dict[str, Any]:
    config = config_of(model, ParallelConfig(), dtype)
    straight = make_policy(config)
    seen: dict[str, Any] = {"start": weights_of(straight)}
    train(straight, SAVED)
    path = save(folder, straight)
    seen |= {"saved": weights_of(straight), "saved_state": snapshot(straight)}
    train(straight, FINAL)
    resumed = make_policy(config)
    seen["trainer"] = load_checkpoint(path, resumed)
    seen |= {"num_updates": resumed.num_updates, "loaded_state": snapshot(resumed)}
    train(resumed, FINAL)
    return seen | {
        "final": weights_of(straight),
        "final_state": snapshot(straight),
        "resumed_state": snapshot(resumed),
    }


def _over_what_is_there(policy: MegatronPolicy, root: Path) -> dict[str, Any]:
    """Saving again over old, broken and half-written checkpoints; replaced and refused exports."""
    folder = root / "over"
    for step in (2, 10, 100):
        shutil.copytree(root / "one/tied/step_000002", folder / f"step_{step:06d}")
    (folder / ".step_000007.tmp").mkdir()
    (folder / "step_000010/.metadata").unlink()
    save(folder, policy, step=10)
    save(folder, policy, step=100)
    seen: dict[str, Any] = {"folder": sorted(path.name for path in folder.iterdir())}
    seen["updates"] = json.loads((folder / "step_000100/state.json").read_text())["num_updates"]
    (folder / "step_000010/__0_0.distcp").unlink()
    seen["incomplete"] = error_of(load_checkpoint, folder / "step_000010", policy)
    state_file = folder / "step_000002/state.json"
    state_file.write_text(json.dumps(json.loads(state_file.read_text()) | {"contents": ["model"]}))
    seen["weights_only"] = error_of(load_checkpoint, folder / "step_000002", policy)
    exports = folder / "exports"
    (exports / "notes").mkdir(parents=True)
    (exports / "notes/mine.txt").write_text("keep")
    seen["foreign"] = error_of(export_hf, policy, root / "tied", exports / "notes")
    seen["itself"] = error_of(export_hf, policy, root / "tied", root / "tied")
    seen["no_model"] = error_of(export_hf, policy, exports, exports / "new")
    export_hf(policy, root / "tied", exports / "hf")
    old = (exports / "hf/model.safetensors").stat().st_ino
    with files_up_to(100_000):
        seen["full"] = error_of(export_hf, policy, root / "tied", exports / "hf")
    assert (exports / "hf/model.safetensors").stat().st_ino == old
    export_hf(policy, root / "tied", exports / "hf")
    assert (exports / "hf/model.safetensors").stat().st_ino != old
    seen["exports"] = sorted(path.name for path in exports.iterdir())
    return seen


def two_ranks(rank: int, root: Path) -> dict[str, Any]:
    """Loads what one rank saved in each layout, saves it again, goes on; a shard that cannot be written."""
    seen: dict[str, Any] = {}
    for name, layout in LAYOUTS.items():
        for model in ("tied", "untied"):
            config = config_of(root / model, layout)
            config.optimizer.distributed = name == "dp2_distributed"
            policy = make_policy(config)
            load_checkpoint(root / "one" / model / "step_000002", policy)
            loaded = weights_of(policy)
            if model == "tied":
                seen[name, "start"] = weights_of(
                    make_policy(_started_from(root, config_of(root / model, layout)))
                )
            path = save(root / name / model, policy)
            state = snapshot(policy)
            train(policy, FINAL)
            final = snapshot(policy)
            resumed = make_policy(config)
            load_checkpoint(path, resumed)
            bits = same(snapshot(resumed), state)
            train(resumed, FINAL)
            seen[name, model] = {
                "loaded": loaded,
                "final": weights_of(policy),
                "bits": bits and same(snapshot(resumed), final),
            }
        if name == "pp2":
            seen["refused"] = error_of(load_checkpoint, root / "one/tied/step_000002", policy)
            export_hf(policy, root / "untied", root / "hf" / "pp2")
            with files_up_to(100_000):  # the small files fit, a shard does not
                seen["full"] = error_of(save, root / name / "untied", policy, 3)
            seen["after_full"] = sorted(path.name for path in (root / name / "untied").iterdir())
            save(root / "room_again", policy, 3)
        parallel.destroy()
    return seen if rank == 0 else {"refused": seen["refused"], "full": seen["full"]}


def _started_from(root: Path, config: Config) -> Config:
    """A new run from the weights of a checkpoint."""
    config.model.checkpoint = str(root / "one/tied/step_000002")
    return config


def one_rank_again(_: int, root: Path) -> dict[tuple[str, str], Tensors]:
    """What came back from the round through each layout."""
    states = {}
    for name in LAYOUTS:
        for model in ("tied", "untied"):
            policy = make_policy(config_of(root / model, ParallelConfig()))
            load_checkpoint(root / name / model / "step_000002", policy)
            states[name, model] = snapshot(policy)
    parallel.destroy()
    return states
