"""The actor on this machine's device against plain autograd on the CPU (tests/oracles/actor.py), and in
layouts of two ranks.

The model is tiny and random, in the shape of Qwen3: 4 heads of 64, which every attention kernel takes. Old
policy and reference are perturbed copies, so that clipping and the KL term are at work.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_coreward.actor.device import compute_device
from megatron_coreward.utils.distributed import initialize
from tests.distributed.actor.actor_runs import Case, Run, random_responses, walk
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tools.gpu_check.parts.limits import within
from tools.gpu_check.table import Figures

VOCAB = 301  # not a multiple of TP
UPDATES = 2
FLOAT32_LIMITS = {
    "log-probs: largest gap": 2e-4,
    "loss: gap": 2e-4,
    "gradients: largest gap": 1e-3,
    "gradient norm: gap": 2e-4,
    "weights' changes: largest gap": 5e-2,
}
"""Of another order of summation; a hundredth of it is seen on a CPU (docs/gpu/gpu_check.md)."""
BFLOAT16_LIMITS = {
    "log-probs: mean gap": 0.03,
    "log-probs: largest gap": 0.2,
    "loss: gap": 0.05,
    "gradient norm: gap": 0.05,
}
"""Of logits of about normal(0, 1) / 0.7; half of the mean is seen on a CPU."""


@dataclass(frozen=True)
class Subject:
    """A case, and what the oracle makes of it."""

    case: Case
    expected: oracle.Training
    loss: float


def float32(folder: Path) -> Figures:
    return compare(folder, FLOAT32_LIMITS, dtype="float32")


def bfloat16(folder: Path) -> Figures:
    return compare(folder, BFLOAT16_LIMITS, dtype="bfloat16", modules="local")


def transformer_engine(folder: Path) -> Figures:
    return compare(folder, BFLOAT16_LIMITS, dtype="bfloat16", modules="transformer_engine")


def dp2(folder: Path) -> Figures:
    """Without gradients: under the distributed optimizer a rank has the sums of its own share only."""
    limits = {name: limit for name, limit in FLOAT32_LIMITS.items() if not name.startswith("gradients")}
    return compare(folder, limits, dtype="float32", distributed=True)


def tp2(folder: Path) -> Figures:
    return compare(folder, FLOAT32_LIMITS, dtype="float32", tensor=2, sequence=True)


def pp2(folder: Path) -> Figures:
    return compare(folder, FLOAT32_LIMITS, dtype="float32", pipeline=2)


def compare(folder: Path, limits: dict[str, float], *, modules: str = "local", **options: Any) -> Figures:
    """Runs the case with these fields of `Case` on all ranks; rank 0 compares."""
    subject = make_subject(folder)  # of several ranks only the first would write a model
    initialize()
    runs = walk(dist.get_rank(), [replace(subject.case, modules=modules, **options)])
    figures: Figures = {} if runs is None else within(gaps(runs[0], subject), limits)
    if options.get("distributed"):
        figures.pop("gradients: largest gap", None)
    dist.destroy_process_group()
    return {"device": str(compute_device()), "ranks": int(os.environ["WORLD_SIZE"]), **figures}


def make_subject(folder: Path) -> Subject:
    """The same on every rank, in a folder of its own."""
    settings = oracle.Settings()
    model = tiny_model(folder / "model", heads=4, kv_heads=2, head_dim=64, vocab=VOCAB)
    old_policy = oracle.perturbed(model, folder / "old", scale=0.1, seed=1)
    reference = oracle.perturbed(model, folder / "reference", scale=0.2, seed=2)
    drawn = random_responses(seed=3, pairs=3, samples=2, vocab=VOCAB)
    old, ref = (
        oracle.frozen_log_probs(frozen, drawn, settings.temperature) for frozen in (old_policy, reference)
    )
    responses = tuple(replace(r, rollout_logps=old[r.key].numpy()) for r in drawn)
    expected = oracle.train(model, responses, old, ref, settings, UPDATES)
    loss = float(oracle.loss_of(expected.log_probs, old, ref, responses, settings))
    case = Case(model, reference, responses, settings, budget=100, updates=UPDATES)
    return Subject(case, expected, loss)


def gaps(run: Run, subject: Subject) -> dict[str, float]:
    """Log-probs in nats, the others relative; of a weight's change over all updates ||d - d'|| / ||d'||."""
    assert run.replica_gap == 0, f"copies of a weight on several ranks differ by {run.replica_gap}"
    expected = subject.expected
    largest = oracle.differences(run.training, expected)
    each = torch.cat([run.training.log_probs[key] - value for key, value in expected.log_probs.items()]).abs()
    return {
        "log-probs: mean gap": float(each.mean()),
        "log-probs: largest gap": largest["log_probs"],
        "loss": run.loss,
        "loss: gap": abs(run.loss / subject.loss - 1),
        "gradients: largest gap": largest["gradients"],
        "gradient norm": run.training.grad_norm,
        "gradient norm: gap": largest["grad_norm"],
        "weights' changes: largest gap": largest["changes"],
    }
