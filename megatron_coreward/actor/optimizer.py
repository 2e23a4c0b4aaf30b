"""Megatron's AdamW with clipping, and the learning rate of each step.

Warm-up is (k+1)/n, so the first step learns too (numerics 21; the reference starts at 0).
"""

import math

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig

from megatron_coreward.actor.cpu import actor_device, compute_device
from megatron_coreward.config import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total_steps`."""
    warmup = int(config.warmup_ratio * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def wrap_ddp(model: GPTModel) -> DistributedDataParallel:
    """The model with gradient buffers in float32, summed (not averaged, see forward.py) over DP."""
    with actor_device():
        return DistributedDataParallel(
            config=model.config,
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=False,
                use_distributed_optimizer=False,
                check_for_nan_in_grad=False,
            ),
            module=model,
        )


def build_optimizer(config: OptimizerConfig, model: DistributedDataParallel) -> MegatronOptimizer:
    """AdamW over the model's parameters; norms and biases get no weight decay."""
    bf16 = next(model.parameters()).dtype == torch.bfloat16
    with actor_device():
        optimizer = get_megatron_optimizer(
            MegatronOptimizerConfig(
                optimizer="adam",
                lr=config.lr,
                min_lr=config.min_lr,
                weight_decay=config.weight_decay,
                adam_beta1=config.beta1,
                adam_beta2=config.beta2,
                adam_eps=config.eps,
                clip_grad=config.clip_grad,
                bf16=bf16,
                params_dtype=torch.bfloat16 if bf16 else torch.float32,
            ),
            [model],
        )
    for group in optimizer.param_groups:
        # Megatron only notes the factor (0 for norms and biases); its scheduler, which is not used here,
        # would apply it.
        group["weight_decay"] = config.weight_decay * group["wd_mult"]
    if isinstance(optimizer.optimizer, torch.optim.AdamW):
        _prepare_torch_adam(optimizer.optimizer)
    return optimizer


def _prepare_torch_adam(adam: torch.optim.AdamW) -> None:
    """Torch's AdamW, which Megatron takes where neither Transformer Engine nor Apex is installed.

    Megatron passes no `fused`, and on a CPU the plain implementation takes several times as long. The
    moments are made now, as AdamW itself would at its first step: then a checkpoint has the same tensors
    before the first update as after it. Megatron's own way to make them forgets the step count.
    """
    for group in adam.param_groups:
        group["fused"] = compute_device().type == "cpu"
        for parameter in group["params"]:
            adam.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def set_learning_rate(optimizer: MegatronOptimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
