"""The results that the actor must have, by plain autograd on the Hugging Face model.

The loss is written from the paper's Eq. 4-6 and shares no code with the package:

    J    = J_original + J_rephrased
    J_v  = mean over responses i of v of  1/|y_i| sum_t [ min(c A_i, clip(c, 1-eps, 1+eps) A_i) - beta KL ]
    c    = pi_theta / pi_old
    KL   = pi_ref / pi_theta - log(pi_ref / pi_theta) - 1
    loss = -J

with pi the softmax of logits / temperature. It takes one response at a time, without packing or padding.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from megatron_coreward.types import ScoredResponse

Key = tuple[int, str, int]
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Settings:
    """The numbers of the objective and of AdamW."""

    temperature: float = 0.7
    clip: float = 0.2
    kl_coef: float = 0.05
    lr: float = 1e-2
    weight_decay: float = 0.5
    clip_grad: float = 1.0
    """0 = no clipping."""


@dataclass(frozen=True)
class Training:
    """What some updates on one batch look like, whoever computes them.

    Gradients and weights go by the names in Hugging Face files; a tied head is not among them.
    """

    log_probs: dict[Key, torch.Tensor]
    """At the start weights, by response."""
    gradients: Tensors
    """At the start weights, before clipping."""
    grad_norm: float
    changes: Tensors
    """Weights after the last update minus start weights."""


def load(folder: Path) -> PreTrainedModel:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    # Hugging Face drops the gradient of the pad token's embedding; a padding-free actor has no such token.
    model.get_input_embeddings().padding_idx = None
    return model


def logits_of(model: PreTrainedModel, response: ScoredResponse) -> torch.Tensor:
    """The logits that predict the response's tokens, [T, V]."""
    tokens = torch.tensor([[*response.prompt_ids, *response.response_ids.tolist()]])
    return model(tokens).logits[0, len(response.prompt_ids) - 1 : -1]


def log_probs_of(model: PreTrainedModel, response: ScoredResponse, temperature: float) -> torch.Tensor:
    """[T]."""
    targets = torch.from_numpy(response.response_ids).long()
    log_softmax = torch.log_softmax(logits_of(model, response) / temperature, dim=-1)
    return log_softmax[torch.arange(len(targets)), targets]


def loss_of(
    log_probs: dict[Key, torch.Tensor],
    old: dict[Key, torch.Tensor],
    ref: dict[Key, torch.Tensor],
    responses: Sequence[ScoredResponse],
    settings: Settings,
) -> torch.Tensor:
    """Minus Eq. 4-6."""
    objective = torch.zeros([])
    for view in {response.view for response in responses}:
        of_view = [response for response in responses if response.view is view]
        for response in of_view:
            if len(response.response_ids) == 0:
                continue
            policy, advantage = log_probs[response.key], response.advantage
            ratio = (policy - old[response.key]).exp()
            clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
            gap = ref[response.key] - policy
            kl = gap.exp() - gap - 1
            tokens = torch.min(ratio * advantage, clipped * advantage) - settings.kl_coef * kl
            objective = objective + tokens.sum() / len(tokens) / len(of_view)
    return -objective


def train(
    folder: Path,
    responses: Sequence[ScoredResponse],
    old: dict[Key, torch.Tensor] | None,
    ref: dict[Key, torch.Tensor],
    settings: Settings,
    updates: int,
) -> Training:
    """`updates` steps of torch's AdamW on one batch; biases and norms have no weight decay.

    `old` None: pi_old is pi_theta at every step.
    """
    model = load(folder)
    parameters = dict(model.named_parameters())  # names a tied weight once
    decayed = [p for p in parameters.values() if p.dim() > 1]
    others = [p for p in parameters.values() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed}, {"params": others, "weight_decay": 0.0}],
        lr=settings.lr,
        weight_decay=settings.weight_decay,
    )
    start = {name: p.detach().clone() for name, p in parameters.items()}
    first: tuple[dict[Key, torch.Tensor], Tensors, float] | None = None
    for _ in range(updates):
        log_probs = {r.key: log_probs_of(model, r, settings.temperature) for r in responses}
        detached = {key: logps.detach() for key, logps in log_probs.items()}
        loss_of(log_probs, old or detached, ref, responses, settings).backward()
        gradients = {name: p.grad.clone() for name, p in parameters.items()}
        limit = settings.clip_grad or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(parameters.values(), limit))
        first = first or (detached, gradients, norm)
        optimizer.step()
        optimizer.zero_grad()
    assert first is not None, "no update, nothing to compare"
    changes = {name: p.detach() - start[name] for name, p in parameters.items()}
    log_probs, gradients, norm = first
    return Training(log_probs, as_in_files(gradients), norm, as_in_files(changes))


def differences(found: Training, expected: Training) -> dict[str, float]:
    """The largest over responses or tensors.

    Log-probs in nats, a gradient's by its tensor's largest entry, the norm's by the norm, and of a tensor's
    change over the three updates || dW - dW' || / || dW' ||.
    """
    for field in ("log_probs", "gradients", "changes"):
        assert getattr(found, field).keys() == getattr(expected, field).keys()
    log_probs, gradients, changes = (
        [(value, getattr(expected, field)[key]) for key, value in getattr(found, field).items()]
        for field in ("log_probs", "gradients", "changes")
    )
    return {
        "log_probs": float(torch.cat([one - other for one, other in log_probs]).abs().max()),
        "gradients": max(float((one - other).abs().max() / other.abs().max()) for one, other in gradients),
        "grad_norm": abs(found.grad_norm / expected.grad_norm - 1),
        "changes": max(float((one - other).norm() / other.norm()) for one, other in changes),
    }


def as_in_files(tensors: Tensors) -> Tensors:
    """transformers keeps the experts of a layer in two tensors, files hold three for each."""
    found: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, kind = name.partition(".mlp.experts.")
        for expert, part in enumerate(tensor if kind else []):
            stem = f"{layer}.mlp.experts.{expert}."
            names = ["gate_proj", "up_proj"] if kind == "gate_up_proj" else ["down_proj"]
            pieces = part.chunk(len(names))
            found |= {f"{stem}{one}.weight": piece for one, piece in zip(names, pieces, strict=True)}
        if not kind:
            found[name] = tensor
    return found


@torch.no_grad()
def frozen_log_probs(
    folder: Path, responses: Sequence[ScoredResponse], temperature: float
) -> dict[Key, torch.Tensor]:
    """Log-probs of all responses under one model."""
    model = load(folder)
    return {r.key: log_probs_of(model, r, temperature) for r in responses}


def perturbed(folder: Path, target: Path, scale: float, seed: int) -> Path:
    """A copy of a model whose weights are off by `scale` of their size: an old policy or a reference."""
    model = load(folder)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(weight.std() * scale * torch.randn(weight.shape, generator=generator))
    model.save_pretrained(target)
    return target
