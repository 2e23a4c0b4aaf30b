"""Everything that the actor does in a step, on the CPU and on the pretended device, for test_device.py."""

import contextlib
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.folder import Retention
from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.export import export_hf
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.reference import MegatronReference
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.actor.teacher import MegatronTeacher
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import AlgorithmConfig, OptimizerConfig, TeacherConfig
from megatron_coreward.config.schema import Config, MemoryConfig, ModelConfig, ParallelConfig
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.actor.actor_runs import random_responses
from tests.distributed.actor.te_runs import engine_at_hand
from tests.support.pretended.cuda import pretended_cuda
from tests.support.pretended.tensor import content_of
from tests.support.pretended.waits import Waits

VOCAB, TRAINER = 301, {"step": 2}


@dataclass(frozen=True)
class Case:
    """A layout and its options; float32 unless `dtype` says otherwise."""

    model: Path
    layout: ParallelConfig = field(default_factory=ParallelConfig)
    recompute: str = "none"
    modules: str = "local"
    distributed: bool = False
    dtype: str = "float32"

    def config(self) -> Config:
        return Config(
            model=ModelConfig(str(self.model), dtype=self.dtype, transformer_impl=self.modules),
            parallel=self.layout,
            algorithm=AlgorithmConfig(kl_coef=0.05),
            teacher=TeacherConfig(alpha_start=0.5, alpha_end=0.9),
            memory=MemoryConfig(recompute=self.recompute),
            optimizer=OptimizerConfig(
                lr=1e-2,
                eps=1e-4,  # else Adam makes whole steps of gradients that are nothing but rounding
                warmup_ratio=0.0,
                micro_batch_tokens=60,
                distributed=self.distributed,
                overlap=self.distributed,
            ),
        )


@dataclass
class Outcome:
    """What one rank computed, as plain tensors, and what it waited for by part of the step."""

    values: dict[str, torch.Tensor]
    waits: dict[str, Waits]
    micro_batches: dict[str, int]


class _Parts:
    """Waits and values by part."""

    def __init__(self, waits: Waits) -> None:
        self._waits = waits
        self.outcome = Outcome({}, {}, {})

    @contextlib.contextmanager
    def of(self, part: str) -> Any:
        with self._waits.counted() as inside:
            yield
        self.outcome.waits[part] = Waits(inside.counts.copy())

    def note(self, name: str, tensor: torch.Tensor) -> None:
        self.outcome.values[name] = content_of(tensor.detach()).clone()


def step(_: int, case: Case, folder: Path, pretended: bool) -> Outcome:
    """Builds all models of a run and takes them through all that a step, a checkpoint and an export do."""
    device = pretended_cuda() if pretended else contextlib.nullcontext(Waits())
    # The pretended device has no kernel of its own for attention; on both the formula is computed as written.
    with device as waits, sdpa_kernel(SDPBackend.MATH), engine_at_hand():
        parts = _Parts(waits)
        config, comm = case.config(), TorchCommunicator()
        layout = parallel.initialize(config.parallel)
        with parts.of("build"):
            policy = MegatronPolicy(config, layout, comm, total_updates=4)
            teacher = MegatronTeacher(config, layout, policy)
            reference = MegatronReference(config, layout)
        for model in (policy, teacher, reference):
            _all_on_the_device(model.model.module)
        _passes(parts, policy, reference, config)
        _updates(parts, policy, reference, teacher, config)
        _leaves_and_comes_back(parts, policy, reference, teacher)
        _weights_travel(parts, policy, teacher, folder)
        parallel.destroy()
        return parts.outcome


def _all_on_the_device(module: torch.nn.Module) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        assert tensor.device == compute_device(), f"{name} is on {tensor.device}"


def _held(policy: MegatronPolicy, seed: int) -> list[Any]:
    responses = random_responses(seed, pairs=2, samples=2, vocab=VOCAB)
    return [r for r in responses if r.pair_id % policy.comm.world_size == policy.comm.rank]


def _passes(parts: _Parts, policy: MegatronPolicy, reference: MegatronReference, config: Config) -> None:
    held = _held(policy, 7)
    batch = policy.shard(with_weights(held, config, policy.comm))
    parts.outcome.micro_batches["log_probs"] = len(policy._forward._micro_batches(batch))
    with parts.of("log_probs"):
        parts.note("log_probs", policy.log_probs(batch))
    with parts.of("reference"):
        parts.note("reference", reference.log_probs(batch))
    with parts.of("confidence"):
        confident = policy.with_confidence(held)
    parts.note("confidence", torch.tensor([astuple(r.confidence) for r in confident]))


def _updates(
    parts: _Parts,
    policy: MegatronPolicy,
    reference: MegatronReference,
    teacher: MegatronTeacher,
    config: Config,
) -> None:
    objective = GrpoObjective(config.algorithm)
    for number in (1, 2):
        batch = policy.shard(with_weights(_held(policy, number), config, policy.comm))
        batch = batch.with_log_probs(old=policy.log_probs(batch), ref=reference.log_probs(batch))
        parts.outcome.micro_batches[f"update {number}"] = len(policy._forward._micro_batches(batch))
        with parts.of(f"update {number}"):
            figures = policy.update(batch, objective).as_dict()
        for name in ("policy/loss", "policy/grad_norm", "policy/kl", "policy/entropy"):
            parts.note(f"{name} {number}", torch.tensor(figures[name]))
        teacher.update(number, total_steps=4)


def _leaves_and_comes_back(
    parts: _Parts, policy: MegatronPolicy, reference: MegatronReference, teacher: MegatronTeacher
) -> None:
    with parts.of("offload"):
        for role in (policy, reference, teacher):
            role.offload()
    with parts.of("onload"):
        for role in (policy, reference, teacher):
            role.onload()


def _weights_travel(parts: _Parts, policy: MegatronPolicy, teacher: MegatronTeacher, folder: Path) -> None:
    with parts.of("sync"):
        for name, tensor in policy.export_weights():
            parts.note(f"sync {name}", tensor)
    for name, tensor in teacher.export_weights():
        parts.note(f"teacher {name}", tensor)
    with parts.of("checkpoint"):
        saver = CheckpointSaver(folder / "checkpoints", policy, Retention(last=0), teacher=teacher)
        saver.save(2, TRAINER)
        saver.finish()
    state = load_checkpoint(folder / "checkpoints" / "step_000002", policy, teacher)
    assert state == TRAINER, "the trainer's state came back changed"
    for name, tensor in policy.export_weights(for_engine=False):
        parts.note(f"loaded {name}", tensor)
    with parts.of("export"):
        export_hf(policy, Path(policy.config.model.path), folder / "hf")
