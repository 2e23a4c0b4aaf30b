"""Megatron's AdamW with clipping, and the learning rate of each step.

The k-th of n steps of the warm-up has k/n of the rate, so that the first learns too; the authors' starts at
0.
"""

import math
from dataclasses import dataclass

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
from megatron.core.models.gpt import GPTModel
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer, get_megatron_optimizer
from megatron.core.optimizer import OptimizerConfig as MegatronOptimizerConfig
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params

from megatron_coreward.actor.device import actor_device, compute_device
from megatron_coreward.config.learning import OptimizerConfig


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of optimizer step `step` (from 0) of `total_steps`."""
    warmup = int(config.warmup_ratio * total_steps)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "constant":
        return config.lr
    progress = (step - warmup) / max(total_steps - warmup, 1)
    return config.min_lr + (config.lr - config.min_lr) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def wrap_ddp(config: OptimizerConfig, model: GPTModel) -> DistributedDataParallel:
    """The model with gradient buffers in float32, summed (not averaged, see forward.py) over DP.

    With the distributed optimizer the sum of a gradient is only on the rank that steps on it. With
    `config.overlap` all micro-batches but the last skip the reduction.
    """
    with actor_device():
        wrapped = DistributedDataParallel(
            config=model.config,
            ddp_config=DistributedDataParallelConfig(
                grad_reduce_in_fp32=True,
                overlap_grad_reduce=config.overlap,
                overlap_param_gather=config.overlap and config.distributed,
                use_distributed_optimizer=config.distributed,
                fp8_param_gather=model.config.fp8_param,
                check_for_nan_in_grad=False,
            ),
            module=model,
        )
    if config.overlap:
        model.config.no_sync_func = wrapped.no_sync
    return wrapped


def finish_gathering(model: DistributedDataParallel) -> None:
    """Waits for the parameters that an update has left on other ranks; before they are read directly."""
    if model.use_forward_hook:
        with actor_device():
            model.start_param_sync(force_sync=True)


def build_optimizer(config: OptimizerConfig, model: DistributedDataParallel) -> ChainedOptimizer:
    """AdamW over the model's parameters; norms and biases get no weight decay.

    With `config.distributed` each data-parallel rank steps on its slice of them and gathers the others'. The
    experts of expert-parallel ranks have an optimizer of their own, the second of the chain: they have other
    data-parallel ranks.
    """
    bf16 = next(model.parameters()).dtype == torch.bfloat16
    with actor_device():
        chain = get_megatron_optimizer(
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
                fp8_recipe=model.config.fp8_recipe if model.config.fp8 else None,
                use_distributed_optimizer=config.distributed,
                overlap_param_gather=config.overlap and config.distributed,
            ),
            [model],
        )
    for optimizer in chain.chained_optimizers:
        for group in optimizer.param_groups:
            # Megatron only notes the factor (0 for norms and biases); its scheduler, which is not used here,
            # would apply it.
            group["weight_decay"] = config.weight_decay * group["wd_mult"]
        _make_moments(optimizer)
    return chain


@dataclass(frozen=True)
class MasterWeight:
    """The float32 weight that Adam steps on beside a bfloat16 parameter, or this rank's slice of it, flat."""

    piece: torch.Tensor | None
    """None where other data-parallel ranks hold all of it."""
    place: slice
    group: torch.distributed.ProcessGroup | None
    """The ranks that share it; None if each has all of it."""


def master_weights(chain: ChainedOptimizer) -> dict[torch.nn.Parameter, MasterWeight]:
    """Those of all parameters of this rank that have one; empty for a float32 model."""
    masters: dict[torch.nn.Parameter, MasterWeight] = {}
    for optimizer in chain.chained_optimizers:
        if isinstance(optimizer, DistributedOptimizer):
            for buffer in optimizer.buffers:
                for parameter in (p for p in buffer.param_index_map if p.dtype != torch.float32):
                    masters[parameter] = _slice_of(parameter, optimizer)
        elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
            groups = zip(optimizer.float16_groups, optimizer.fp32_from_float16_groups, strict=True)
            for parameters, weights in groups:
                for parameter, weight in zip(parameters, weights, strict=True):
                    masters[parameter] = MasterWeight(weight, slice(None), None)
    return masters


def _slice_of(parameter: torch.nn.Parameter, optimizer: DistributedOptimizer) -> MasterWeight:
    group = optimizer.data_parallel_group
    if parameter not in optimizer.model_param_gbuf_map:
        return MasterWeight(None, slice(0), group)
    held = optimizer._get_model_param_range_map(parameter)["param"]
    piece: torch.Tensor = vars(parameter)["main_param"]  # Megatron sets it
    return MasterWeight(piece, slice(held.start, held.end), group)


def clip_gradients(optimizer: ChainedOptimizer, limit: float) -> float:
    """Returns the norm of all gradients, and scales them so that it is at most `limit`, unless that is 0."""
    norm = float(optimizer.get_grad_norm())
    if limit > 0:
        for member in optimizer.chained_optimizers:
            if parameters := member.get_parameters():
                clip_grad_by_total_norm_fp32(
                    parameters, max_norm=limit, total_norm=norm, use_decoupled_grad=False
                )
    return norm


def _make_moments(optimizer: MegatronOptimizer) -> None:
    """Makes the moments now, not at the first step: a checkpoint has the same tensors before it as after.

    Megatron's own way does for Transformer Engine's and Apex's Adam, but forgets the step count of torch's,
    which Megatron takes where neither is installed. Megatron passes no `fused` to it either, and on a CPU
    the plain implementation takes several times as long.
    """
    adam = optimizer.optimizer
    if not isinstance(adam, torch.optim.AdamW):
        optimizer.init_state_fn(adam, optimizer.config)
        return
    for group in adam.param_groups:
        group["fused"] = compute_device().type == "cpu"
        for parameter in group["params"]:
            adam.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }


def set_learning_rate(optimizer: ChainedOptimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
