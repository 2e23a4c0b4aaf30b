"""Steps of a whole run with an engine whose sleeping memory is gone, for test_sleep.py."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_coreward.actor import parallel
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.teacher import MegatronTeacher
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import OptimizerConfig, RewardConfig, TeacherConfig
from megatron_coreward.config.schema import Config, ModelConfig, RolloutConfig
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.grading.grader import Grader
from megatron_coreward.phases import memory
from megatron_coreward.phases.meter import Meter
from megatron_coreward.phases.table import PHASES, Needs
from megatron_coreward.roles import WEIGHTS
from megatron_coreward.run.watchdog import Watchdog
from megatron_coreward.trainer import Trainer
from megatron_coreward.types import GenerationRequest, QuestionPair, Response, Sampling
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.utils.metrics import Figures
from tests.support.fakes import FakeEngine, FakeObserver
from tests.support.pretended.cuda import pretended_cuda
from tests.support.pretended.tensor import content_of

Tensors = dict[str, torch.Tensor]
PAIRS = [QuestionPair(pair_id, "q", "r", (1, 2), (1, 2, 3)) for pair_id in (3, 9)]
STEPS = 2


class SleepingEngine(FakeEngine):
    """Gives up the storages of its weights when it sleeps, so that whoever reads or writes one then fails."""

    def __init__(self, policy: MegatronPolicy) -> None:
        super().__init__(answer=lambda request: rf"\boxed{{{request.sample % 3}}}")
        self.weights = {name: tensor.clone() for name, tensor in policy.export_weights()}
        self._kept: Tensors = {}

    def generate(self, requests: Sequence[GenerationRequest], sampling: Sampling) -> list[Response]:
        assert all(bool(torch.isfinite(tensor.sum())) for tensor in self.weights.values()), "not loaded anew"
        return super().generate(requests, sampling)

    def load_weights(self, weights: Iterator[tuple[str, torch.Tensor]], version: int) -> None:
        for name, tensor in weights:
            self.weights[name].copy_(tensor)
        self.version = version

    def sleep(self, *, keep_weights: bool) -> None:
        super().sleep(keep_weights=keep_weights)
        self._kept = {name: tensor.cpu() for name, tensor in self.weights.items()} if keep_weights else {}
        for tensor in self.weights.values():
            tensor.untyped_storage().resize_(0)

    def wake(self, tags: Sequence[str]) -> None:
        super().wake(tags)
        if WEIGHTS in tags:
            for name, tensor in self.weights.items():
                tensor.untyped_storage().resize_(tensor.nbytes)
                tensor.fill_(float("nan"))
                if self._kept:
                    tensor.copy_(self._kept[name])


def run(_: int, model: Path, pretended: bool, forgotten: str = "") -> Tensors:
    """The engine's weights after some steps. Phase `forgotten` does not say that it needs the engine."""
    table = dict(PHASES) | ({forgotten: Needs()} if forgotten else {})
    device = pretended_cuda() if pretended else contextlib.nullcontext()
    with device, sdpa_kernel(SDPBackend.MATH), mock.patch.object(memory, "PHASES", table):
        config = Config(
            model=ModelConfig(str(model), dtype="float32"),
            rollout=RolloutConfig(samples=4),
            reward=RewardConfig(method="co_rewarding_2", equality="exact"),
            teacher=TeacherConfig(alpha_start=0.5, alpha_end=0.9),
            optimizer=OptimizerConfig(lr=1e-2, eps=1e-4, warmup_ratio=0.0),
        )
        comm, layout = TorchCommunicator(), parallel.initialize(config.parallel)
        policy = MegatronPolicy(config, layout, comm, total_updates=STEPS)
        teacher = MegatronTeacher(config, layout, policy)
        engine = SleepingEngine(policy)
        trainer = Trainer(
            config=config,
            policy=policy,
            reference=teacher,
            teacher=teacher,
            rollout=engine,
            reward_stage=CoRewardStage(comm, Grader("exact"), config),
            objective=GrpoObjective(config.algorithm),
            sampler=PairSampler(PAIRS, 2),
            comm=comm,
            observer=FakeObserver(),
            evaluate=None,
            diagnose=lambda *_: Figures(),
            total_steps=STEPS,
            watchdog=Watchdog(0, comm.rank, comm.world_size, dist.HashStore()),
            meter=Meter(policy.model.shape, gemm_rate=1e9),
        )
        assert trainer.fit(), "the run was stopped"
        if WEIGHTS not in engine._awake:
            engine.wake([WEIGHTS])
        weights = {name: content_of(tensor).clone() for name, tensor in engine.weights.items()}
        parallel.destroy()
        return weights
