"""Moves the content of tensors off the device while it is not needed.

The tensors stay the objects they are, and so do all views of them: only their memory is given up and taken
back. In between they must not be read; methods that would read them assert that they are back. On a CPU the
same code moves main memory to main memory, which saves nothing and lets it be tested.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator

import torch
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


class HostCopies:
    """Moves the content of `tensors()` to main memory and back.

    The copies in main memory are kept, pinned where there is a GPU, so that each move only copies. Tensors
    that are `constant` are copied out once.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, constant: bool = False) -> None:
        self.on_device = True
        self._tensors = tensors
        self._constant = constant
        self._copies = WeakTensorKeyDictionary()

    @torch.no_grad()
    def offload(self) -> None:
        """Does nothing when it is done already, as `onload`."""
        if not self.on_device:
            return
        for tensor in self._tensors():
            storage = tensor.untyped_storage()
            assert storage.nbytes() == tensor.nbytes, "a tensor shares its memory with others"
            if tensor not in self._copies:
                self._copies[tensor] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
                self._copies[tensor].copy_(tensor)
            elif not self._constant:
                self._copies[tensor].copy_(tensor)
            storage.resize_(0)
        self.on_device = False
        if torch.cuda.is_available():
            torch.cuda.empty_cache()  # vLLM takes its memory from the device, not from torch's cache

    @torch.no_grad()
    def onload(self) -> None:
        if self.on_device:
            return
        for tensor in self._tensors():
            copy = self._copies[tensor]
            tensor.untyped_storage().resize_(copy.nbytes)
            tensor.copy_(copy, non_blocking=True)
        self.on_device = True


def drop(tensors: Iterable[Tensor]) -> None:
    """Gives up the memory of tensors and their content; `restore_zeroed` takes the memory back.

    For gradient buffers. Megatron's `offload_grad_buffers` does the same by way of a deprecated class.
    """
    for tensor in tensors:
        tensor.untyped_storage().resize_(0)


def restore_zeroed(tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        tensor.untyped_storage().resize_(tensor.nbytes)
        tensor.zero_()


def optimizer_tensors(chain: ChainedOptimizer) -> Iterator[Tensor]:
    """The tensors that only optimizers hold: Adam's moments, and float32 weights beside bfloat16 ones.

    Megatron's own `offload_to_cpu` moves every parameter that the optimizer steps on. In float32 those are
    the model's, or views of the distributed optimizer's buffer, which they would leave for good.
    """
    for optimizer in chain.chained_optimizers:
        yield from _tensors_of(optimizer)


def _tensors_of(optimizer: MegatronOptimizer) -> Iterator[Tensor]:
    for state in optimizer.optimizer.state.values():
        yield from (value for value in state.values() if isinstance(value, Tensor) and value.dim() > 0)
    if isinstance(optimizer, DistributedOptimizer):
        yield from itertools.chain(*optimizer.shard_fp32_from_float16_groups)
    elif isinstance(optimizer, Float16OptimizerWithFloat16Params):
        yield from itertools.chain(*optimizer.fp32_from_float16_groups)
