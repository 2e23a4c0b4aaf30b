"""The optimizer's part of a checkpoint: Adam's moments, the float32 weights beside bfloat16, the step count.

One form for both optimizers, so that a run may change `optimizer.distributed` when it resumes: every tensor
has the shape and the sharding of its parameter, under the name optimizer.state.NAME.PARAMETER. Adam's
settings (learning rate, betas, weight decay, ...) are no state: they come from the configuration of the run
that loads.

Under the distributed optimizer the parameters are laid end to end and each data-parallel rank has a slice.
The rank with the first piece of a parameter saves all of it: only parameters that cross a border of slices
have to move, and the ranks write side by side. To load, a rank reads the parameters that its slice touches.

Why not Megatron's own (0.16.1): its form for changing layouts, fully_reshardable, shifts what lies behind the
first gradient bucket when it saves (a tied embedding over two stages makes a second bucket), and with torch's
Adam it asks what it loads for a `step` that it has not saved.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params

from megatron_coreward.actor.checkpoint.model_state import sharded_by_parameter

MOMENTS = ("exp_avg", "exp_avg_sq")
FLOAT32_WEIGHT = "fp32_param"


@dataclass(frozen=True)
class _Part:
    """The tensors that this rank's optimizer keeps for one parameter of the model."""

    parameter: torch.nn.Parameter
    tensors: dict[str, torch.Tensor]
    """By name; shaped as the parameter, or a piece of it when flattened."""
    pieces: dict[int, slice]
    """The pieces of the flattened parameter by data-parallel rank; empty: all of it is on this rank."""


def sharded_optimizer_state(
    chain: ChainedOptimizer,
    model_state: dict[str, Any],
    where_it_is: Callable[[torch.Tensor], torch.Tensor],
    *,
    is_loading: bool = False,
) -> dict[str, Any]:
    """The optimizer's part of a checkpoint, as Megatron's sharded tensors. A collective.

    `model_state` is the sharded state of the model that it steps on. To load, pass `is_loading`, let
    dist_checkpointing fill the result, and hand it to `load_optimizer_state`. `where_it_is` gives for each
    tensor of the optimizer the one that holds its content at present.
    """
    of_model = sharded_by_parameter(model_state)
    tensors = {}
    for index, (optimizer, moved) in enumerate(_parts(chain)):
        part = replace(moved, tensors={name: where_it_is(held) for name, held in moved.tensors.items()})
        sharded, whole = of_model[id(part.parameter)], part.tensors
        if part.pieces:
            first, rank = min(part.pieces), optimizer.data_parallel_group.rank()
            whole = _room(part) if is_loading else _gathered(part, optimizer)
            if rank != first and not is_loading:
                continue
            # The last number tells replicas apart, and the one that saves is number 0.
            sharded = replace(sharded, replica_id=(*sharded.replica_id[:2], rank - first))
        tensors[index] = {
            name: make_sharded_optimizer_tensor(sharded, tensor, f"optimizer.state.{name}")
            for name, tensor in whole.items()
        }
    (step,) = {_step(optimizer.optimizer) for optimizer in chain.chained_optimizers}
    return {"step": step, "tensors": tensors}


@torch.no_grad()
def load_optimizer_state(chain: ChainedOptimizer, loaded: dict[str, Any]) -> None:
    """Copies a loaded state into the optimizers, in place."""
    for index, (optimizer, part) in enumerate(_parts(chain)):
        for name, tensor in part.tensors.items():
            whole = loaded["tensors"][index][name]
            if part.pieces:
                whole = whole.flatten()[part.pieces[optimizer.data_parallel_group.rank()]]
            tensor.copy_(whole)
    for optimizer in chain.chained_optimizers:
        _set_step(optimizer.optimizer, loaded["step"])


def _parts(chain: ChainedOptimizer) -> Iterator[tuple[MegatronOptimizer, _Part]]:
    """All parts in a fixed order; a data-parallel rank without a piece of a parameter has no part of it."""
    for optimizer in chain.chained_optimizers:
        for part in _parts_of(optimizer):
            yield optimizer, part


def _parts_of(optimizer: MegatronOptimizer) -> Iterator[_Part]:
    if isinstance(optimizer, DistributedOptimizer):
        yield from _slices(optimizer)
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        assert not any(optimizer.fp32_from_fp32_groups), "the model mixes bfloat16 and float32 parameters"
        groups = zip(optimizer.float16_groups, optimizer.fp32_from_float16_groups, strict=True)
        for parameters, weights in groups:
            for parameter, weight in zip(parameters, weights, strict=True):
                yield _Part(parameter, _adam_tensors(optimizer, weight) | {FLOAT32_WEIGHT: weight}, {})
    else:
        for parameter in optimizer.get_parameters():
            yield _Part(parameter, _adam_tensors(optimizer, parameter), {})


def _adam_tensors(optimizer: MegatronOptimizer, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    return {name: optimizer.optimizer.state[weight][name] for name in MOMENTS}


def _slices(optimizer: DistributedOptimizer) -> Iterator[_Part]:
    """Each bucket of the gradient buffer is divided evenly over the data-parallel ranks."""
    rank, num_ranks = optimizer.data_parallel_group.rank(), optimizer.data_parallel_group.size()
    groups = optimizer.optimizer.param_groups
    for buffer in optimizer.buffers:
        for parameter, (start, end, bucket_index) in buffer.param_index_map.items():
            bucket = buffer.buckets[bucket_index]
            size = bucket.grad_data.numel() // num_ranks
            start, end = start - bucket.offset, end - bucket.offset
            pieces = {
                holder: slice(max(holder * size - start, 0), min((holder + 1) * size, end) - start)
                for holder in range(start // size, (end - 1) // size + 1)
            }
            if rank not in pieces:
                continue
            group, position = optimizer.model_param_group_index_map[parameter]
            weight = groups[group]["params"][position]
            tensors = _adam_tensors(optimizer, weight)
            if parameter.dtype != torch.float32:
                tensors[FLOAT32_WEIGHT] = weight
            yield _Part(parameter, tensors, pieces)


def _room(part: _Part) -> dict[str, torch.Tensor]:
    """Whole tensors to load into; zeros, which the rows that pad the vocabulary keep."""
    shape = part.parameter.shape
    return {name: torch.zeros(shape, dtype=tensor.dtype) for name, tensor in part.tensors.items()}


def _gathered(part: _Part, optimizer: DistributedOptimizer) -> dict[str, torch.Tensor]:
    """The whole tensors on the rank with the first piece, in main memory; the others send and get nothing.

    All ranks go through the parameters in one order, so each finds its partner.
    """
    group, ranks = optimizer.data_parallel_group_gloo, sorted(part.pieces)
    rank, first = group.rank(), ranks[0]
    if ranks == [rank]:
        return {name: tensor.view(part.parameter.shape) for name, tensor in part.tensors.items()}
    mine = torch.stack(list(part.tensors.values())).cpu()
    if rank != first:
        torch.distributed.send(mine, group=group, group_dst=first)
        return {}
    pieces = [mine]
    for other in ranks[1:]:
        place = part.pieces[other]
        pieces.append(torch.empty(len(mine), place.stop - place.start, dtype=mine.dtype))
        torch.distributed.recv(pieces[-1], group=group, group_src=other)
    shape = part.parameter.shape
    whole = torch.cat(pieces, dim=1)
    return {name: row.view(shape) for name, row in zip(part.tensors, whole, strict=True)}


def _step(adam: torch.optim.Optimizer) -> int:
    """Steps taken. Torch counts them per tensor, Transformer Engine and Apex per group of parameters."""
    if isinstance(adam, torch.optim.AdamW):
        counts = {int(state["step"]) for state in adam.state.values()}
    else:
        counts = {int(group.get("step", 0)) for group in adam.param_groups if group["params"]}
    assert len(counts) == 1, f"parameters differ in their number of steps: {sorted(counts)}"
    return counts.pop()


def _set_step(adam: torch.optim.Optimizer, step: int) -> None:
    if isinstance(adam, torch.optim.AdamW):
        for state in adam.state.values():
            state["step"].fill_(step)
    else:
        for group in adam.param_groups:
            group["step"] = step
