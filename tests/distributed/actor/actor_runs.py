"""Runs the Megatron actor on gloo ranks and returns what it computed, in the oracle's terms.

`walk` is the function for `run_ranks`. It goes through cases of several layouts in one process group, so that
the ranks start only once. A case may have a mutant: a deliberate mistake that the comparison must detect.
"""

import contextlib
import importlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from megatron.core.models.gpt import GPTModel

from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute import forward, token_stats
from megatron_coreward.actor.compute.sharding import balanced_owners, size_of
from megatron_coreward.actor.model import build as actor_model
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.reference import MegatronReference
from megatron_coreward.actor.weights import load as hf_weights
from megatron_coreward.actor.weights.load import local_entries
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.learning import AlgorithmConfig, OptimizerConfig
from megatron_coreward.config.schema import Config, ModelConfig, ParallelConfig, RolloutConfig
from megatron_coreward.types import ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.utils.metrics import Figures
from tests.oracles.actor import Key, Settings, Tensors, Training

finalize_module = importlib.import_module("megatron.core.distributed.finalize_model_grads")


@dataclass(frozen=True)
class Case:
    """One model, batch and layout; the data-parallel size follows from the number of ranks."""

    model: Path
    reference: Path
    responses: tuple[ScoredResponse, ...]
    """Their `rollout_logps` are the old log-probs."""
    settings: Settings
    tensor: int = 1
    pipeline: int = 1
    sequence: bool = False
    expert: int = 1
    budget: int = 1000
    updates: int = 3
    on_policy: bool = False
    """The old log-probs are those of the policy itself, at every update."""
    mutant: str = ""
    dtype: str = "auto"
    modules: str = "auto"
    share: bool = True
    """Compute a prompt once for its responses."""
    distributed: bool = False
    """The distributed optimizer, with overlap."""

    def config(self) -> Config:
        settings = self.settings
        return Config(
            model=ModelConfig(str(self.model), dtype=self.dtype, transformer_impl=self.modules),
            parallel=ParallelConfig(self.tensor, self.pipeline, self.sequence, self.expert),
            rollout=RolloutConfig(temperature=settings.temperature),
            algorithm=AlgorithmConfig(clip=settings.clip, kl_coef=settings.kl_coef),
            optimizer=OptimizerConfig(
                lr=settings.lr,
                schedule="constant",
                warmup_ratio=0.0,
                weight_decay=settings.weight_decay,
                clip_grad=settings.clip_grad,
                micro_batch_tokens=self.budget,
                share_prompts=self.share,
                distributed=self.distributed,
                overlap=self.distributed,
            ),
        )


@dataclass(frozen=True)
class Run:
    """What became of a case, gathered from all ranks."""

    training: Training
    loss: float
    """At the start weights."""
    replica_gap: float
    """Largest difference, after the updates, between copies of one weight on different ranks."""
    shares: list[int]
    """Responses by DP rank."""


def random_responses(seed: int, pairs: int, samples: int, vocab: int) -> tuple[ScoredResponse, ...]:
    """Responses of varied length with advantages of both signs; those of a group have one prompt.

    The first has one token after a prompt of one; the last of several has no token at all. Each ends with
    the last id of the vocabulary, whose row is next to the padding.
    """
    rng = np.random.default_rng(seed)
    keys = [(pair, view, sample) for pair in range(pairs) for view in View for sample in range(samples)]
    lengths = rng.integers(1, 25, len(keys)).tolist()
    lengths[0] = 1
    if len(keys) > 1:
        lengths[-1] = 0
    prompts = {key[:2]: rng.integers(0, vocab, rng.integers(1, 25)) for key in keys}
    prompts[keys[0][:2]] = rng.integers(0, vocab, 1)
    responses = []
    for (pair, view, sample), length in zip(keys, lengths, strict=True):
        ids = rng.integers(0, vocab, length)
        ids[-1:] = vocab - 1
        response = ScoredResponse(
            pair_id=pair,
            view=view,
            sample=sample,
            prompt_ids=tuple(prompts[pair, view].tolist()),
            response_ids=ids.astype(np.int32),
            rollout_logps=np.zeros(length, np.float32),
            text="",
            finish_reason="stop",
            weights_version=0,
            advantage=float(rng.normal()),
        )
        responses.append(response)
    return tuple(responses)


@dataclass(frozen=True)
class Refusal:
    """What one rank saw of an update with a gradient that is not finite."""

    message: str
    unchanged: bool


def refuse(rank: int, case: Case) -> Refusal:
    """Makes one response's advantage infinite. A data-parallel rank without that response refuses as well."""
    first, *others = case.responses
    config = case.config()
    policy = MegatronPolicy(config, parallel.initialize(config.parallel), TorchCommunicator(), 1)
    broken = [replace(first, advantage=math.inf), *others]
    batch = policy.shard(with_weights(broken if rank == 0 else [], config, policy.comm))
    batch = batch.with_log_probs(old=None, ref=batch.rollout_logps_T)
    start = _whole_weights(policy)
    message = ""
    try:
        policy.update(batch, GrpoObjective(config.algorithm))
    except FloatingPointError as error:
        message = str(error)
    unchanged = all(torch.equal(weight, start[name]) for name, weight in _whole_weights(policy).items())
    parallel.destroy()
    return Refusal(message, unchanged)


def walk(rank: int, cases: Sequence[Case]) -> list[Run] | None:
    """Every case's outcome on rank 0, None elsewhere."""
    runs = [_run(case) for case in cases]
    return runs if rank == 0 else None


def _run(case: Case) -> Run:
    config = case.config()
    layout = parallel.initialize(config.parallel)
    comm = TorchCommunicator()
    groups = sorted({response.group for response in case.responses})
    held = [r for r in case.responses if groups.index(r.group) % comm.world_size == comm.rank]
    with mutation(case.mutant):
        policy = MegatronPolicy(config, layout, comm, total_updates=case.updates)
        frozen = replace(config, model=replace(config.model, path=str(case.reference)))
        reference = MegatronReference(frozen, layout)
        batch = policy.shard(with_weights(held, config, comm))
        old_T = None if case.on_policy else batch.rollout_logps_T
        batch = batch.with_log_probs(old=old_T, ref=reference.log_probs(batch))
        objective = GrpoObjective(config.algorithm)
        log_probs = _by_response(policy, case.responses, policy.log_probs(batch))
        figures = Figures.merged(comm.all_gather(policy.accumulate_gradients(batch, objective)))
        gradients = _whole_gradients(policy)
        start = _whole_weights(policy)
        norms = [policy.update(batch, objective).as_dict()["policy/grad_norm"] for _ in range(case.updates)]
    changes = {name: weight - start[name] for name, weight in _whole_weights(policy).items()}
    shares = dict(comm.all_gather((layout.dp_rank, len(batch.advantages_R))))
    gap = _replica_gap(policy)
    parallel.destroy()
    training = Training(log_probs, gradients, norms[0], changes)
    loss = figures.as_dict()["policy/loss"]
    return Run(training, loss, gap, [shares[rank] for rank in sorted(shares)])


def _by_response(
    policy: MegatronPolicy, responses: Sequence[ScoredResponse], logps_T: torch.Tensor
) -> dict[Key, torch.Tensor]:
    """The log-probs of all DP ranks; every rank of a model-parallel group must have the same."""
    layout = policy.layout
    owners = balanced_owners({r.key: size_of(r) for r in responses}, layout.dp_size, policy.config.optimizer)
    mine = sorted((r for r in responses if owners[r.key] == layout.dp_rank), key=lambda r: r.key)
    pieces = logps_T.split([len(r.response_ids) for r in mine])
    found: dict[Key, torch.Tensor] = {}
    for part in policy.comm.all_gather({r.key: piece.clone() for r, piece in zip(mine, pieces, strict=True)}):
        for key, piece in part.items():
            assert torch.equal(found.setdefault(key, piece), piece), f"ranks disagree about {key}"
    return found


def _whole_weights(policy: MegatronPolicy) -> Tensors:
    return {name: weight.to("cpu", copy=True) for name, weight in policy.export_weights(for_engine=False)}


def _whole_gradients(policy: MegatronPolicy) -> Tensors:
    """Gradient buffers take the way of the weights: shard by shard to Hugging Face names."""
    exporter = WeightExporter(policy.model, policy.layout, bucket_bytes=2**20)
    exporter.parameters = {name: p.main_grad for name, p in exporter.parameters.items()}
    return {name: gradient.to("cpu", copy=True) for name, gradient in exporter.export(for_engine=False)}


def _replica_gap(policy: MegatronPolicy) -> float:
    """Copies: all DP ranks; TP ranks for norms; first and last stage for a tied embedding."""
    module, layout = policy.model.module, policy.layout
    parameters = dict(module.named_parameters())
    mine = {}
    shape = policy.model.shape
    for entry in local_entries(module, shape, layout):
        tied = shape.tied and entry.hf_names in ([shape.family.embedding], [shape.family.head])
        name = shape.family.embedding if tied else " ".join(entry.hf_names)
        part = layout.tp_rank if entry.mapping.kind.sharded else 0
        mine[name, part] = parameters[entry.local_name].detach().cpu()
    first: dict[tuple[str, int], torch.Tensor] = {}
    gaps = [0.0]
    for copies in policy.comm.all_gather(mine):
        gaps += [float((first.setdefault(key, copy) - copy).abs().max()) for key, copy in copies.items()]
    return max(gaps)


def mutation(name: str) -> contextlib.AbstractContextManager[Any]:
    """One mistake while the case runs; no name, no mistake."""
    return MUTATIONS[name]() if name else contextlib.nullcontext()


@contextlib.contextmanager
def _edited_model(edit: Callable[[GPTModel], None]) -> Iterator[None]:
    """Every model is edited after it is built."""

    def build(*args: Any, **settings: Any) -> GPTModel:
        model = actor_model.build_model(*args, **settings)
        edit(model)
        return model

    with mock.patch.object(hf_weights, "build_model", build):
        yield


def _unmark_norms(model: GPTModel) -> None:
    for parameter in model.parameters():
        parameter.sequence_parallel = False


def _forget_qk_norm(model: GPTModel) -> None:
    model.config.qk_layernorm = False


def _average_over_ranks(model: GPTModel) -> None:
    model.config.calculate_per_token_loss = False


def _hot_token_stats(*arguments: Any, measured: bool) -> Any:
    *others, _ = arguments
    return token_stats.token_stats(*others, 1.0, measured=measured)


MUTATIONS: dict[str, Callable[[], contextlib.AbstractContextManager[Any]]] = {
    "norm gradients not summed over TP": lambda: _edited_model(_unmark_norms),
    "QK-norm gradients not summed over TP": lambda: _edited_model(_forget_qk_norm),
    "tied embeddings not summed over PP": lambda: mock.patch.object(
        finalize_module, "_allreduce_word_embedding_grads"
    ),
    "gradients averaged over DP": lambda: _edited_model(_average_over_ranks),
    "padded rows in the softmax": lambda: mock.patch.object(
        token_stats.VocabularyShard, "valid", property(lambda shard: shard.width)
    ),
    "temperature ignored": lambda: mock.patch.object(forward, "token_stats", _hot_token_stats),
    "tensor parallelism not marked": lambda: mock.patch.object(actor_model, "mark_tensor_parallel"),
}
