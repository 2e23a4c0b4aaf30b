"""Weights on their way out: a checkpoint and back, and a Hugging Face folder that transformers reads."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from megatron_coreward.actor import parallel
from megatron_coreward.actor.checkpoint.folder import Retention
from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.export import export_hf
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.actor.saver import CheckpointSaver, load_checkpoint
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.types import ScoredResponse
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from tests.oracles import actor as oracle
from tests.oracles.actor import Tensors
from tools.gpu_check.parts.actor import make_subject
from tools.gpu_check.parts.limits import within
from tools.gpu_check.table import Figures

TRAINER = {"step": 1}
LIMITS = {
    "weights loaded from the checkpoint: largest gap": 0.0,
    "update after loading: largest gap": 1e-4,
}
"""Gradients of embeddings are summed in any order on a GPU, so that an update is not the same to the bit."""
EXPORT_LIMITS = {"log-probs of the export: largest gap": 2e-4}


def travel(folder: Path) -> Figures:
    """Two checkpoints, of state on the device and of offloaded state; then the export."""
    subject = make_subject(folder)
    initialize()
    case = replace(subject.case, dtype="float32", modules="local")
    config, comm = case.config(), TorchCommunicator()
    policy = MegatronPolicy(config, parallel.initialize(config.parallel), comm, total_updates=4)
    batch = policy.shard(with_weights(case.responses, config, comm))
    batch = batch.with_log_probs(old=batch.rollout_logps_T, ref=batch.rollout_logps_T)
    saver = CheckpointSaver(folder / "checkpoints", policy, Retention(last=0), in_background=True)
    figures = saved_and_loaded(policy, batch, saver, step=1, offloaded=False)
    offloaded = saved_and_loaded(policy, batch, saver, step=2, offloaded=True)
    export_hf(policy, case.model, folder / "hf")
    gap = export_gap(policy, batch, case.responses, folder / "hf")
    limits = LIMITS | {f"offloaded: {name}": limit for name, limit in LIMITS.items()}
    figures |= {f"offloaded: {name}": value for name, value in offloaded.items()}
    figures["log-probs of the export: largest gap"] = gap
    dist.destroy_process_group()
    return {"device": str(compute_device())} | within(figures, limits | EXPORT_LIMITS)


def saved_and_loaded(
    policy: MegatronPolicy, batch: TrainBatch, saver: CheckpointSaver, *, step: int, offloaded: bool
) -> dict[str, float]:
    """An update, a checkpoint, a second update while it is written; then back to the first and on again."""
    first = updated(policy, batch)
    if offloaded:
        policy.offload()
    started = time.perf_counter()
    saver.save(step, TRAINER)
    blocked = time.perf_counter() - started
    if offloaded:
        policy.onload()
    second = updated(policy, batch)
    if offloaded:
        policy.offload()  # to the memory that the writer reads: it waits for the writer
        policy.onload()
    saver.finish()
    written = time.perf_counter() - started
    state = load_checkpoint(saver.folder / f"step_{step:06d}", policy)
    assert state == TRAINER, f"the trainer's state came back as {state}"
    loaded = weights_of(policy)
    again = updated(policy, batch)
    figures = {
        "saving blocked for s": blocked,
        "written after s": written,
        "weights loaded from the checkpoint: largest gap": largest_gap(loaded, first),
        "update after loading: largest gap": largest_gap(again, second),
        "second update changed weights by": largest_gap(second, first),
    }
    assert figures["second update changed weights by"] > 1e-3, f"the second update did nothing: {figures}"
    return figures


def updated(policy: MegatronPolicy, batch: TrainBatch) -> Tensors:
    """The weights after an update."""
    policy.update(batch, GrpoObjective(policy.config.algorithm))
    return weights_of(policy)


def weights_of(policy: MegatronPolicy) -> Tensors:
    return {name: weight.to("cpu", copy=True) for name, weight in policy.export_weights(for_engine=False)}


def largest_gap(some: Tensors, others: Tensors) -> float:
    assert some.keys() == others.keys(), f"other tensors: {some.keys() ^ others.keys()}"
    return max(float((some[name] - others[name]).abs().max()) for name in some)


def export_gap(
    policy: MegatronPolicy, batch: TrainBatch, responses: Sequence[ScoredResponse], exported: Path
) -> float:
    """The policy's log-probs against those of transformers, on the CPU, on the exported folder; in nats."""
    expected = oracle.frozen_log_probs(exported, responses, policy.config.rollout.temperature)
    in_order = torch.cat([expected[key] for key in sorted(expected)])  # as the batch has them
    return float((policy.log_probs(batch) - in_order).abs().max())
