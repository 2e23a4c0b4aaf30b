"""Moves the content of tensors off the device while it is not needed.

The tensors stay the objects they are, and so do all views of them: only their memory is given up and taken
back. In between they must not be read; methods that would read them assert that they are back. On a CPU the
same code moves main memory to main memory, which saves nothing and lets it be tested.
"""

import itertools
import logging
import mmap
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.process import BaseProcess

import torch
from megatron.core.optimizer import ChainedOptimizer, MegatronOptimizer
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

logger = logging.getLogger(__name__)

ALIGNMENT = 256
"""Bytes."""


class HostCopies:
    """Moves the content of `tensors()` to main memory and back.

    The copies in main memory are kept, so that each move only copies. They share one block of memory, which
    is locked into place where there is a GPU. Tensors that are `constant` are copied out once.
    """

    def __init__(self, tensors: Callable[[], Iterable[Tensor]], *, constant: bool = False) -> None:
        self.on_device = True
        self._tensors = tensors
        self._constant = constant
        self._copies = WeakTensorKeyDictionary()
        self._reader: BaseProcess | None = None

    @torch.no_grad()
    def offload(self) -> None:
        """Does nothing when it is done already, as `onload`."""
        if not self.on_device:
            return
        tensors = list(self._tensors())
        new = [tensor for tensor in tensors if tensor not in self._copies]
        if self._reader is not None:
            self._reader.join()
            self._reader = None
        self._copies.update(zip(new, _room_for(new), strict=True))
        for tensor in new if self._constant else tensors:
            self._copies[tensor].copy_(tensor, non_blocking=True)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # all has arrived before its memory is given up
        for tensor in tensors:
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a tensor shares its memory"
            tensor.untyped_storage().resize_(0)
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

    def content_of(self, tensor: Tensor) -> Tensor:
        """One of the tensors, or while it is away a copy of its content on the device."""
        return tensor if self.on_device else self._copies[tensor].to(tensor.device)

    def where_it_is(self, tensor: Tensor) -> Tensor:
        """One of the tensors, or while it is away its copy in main memory, not to be written to."""
        return tensor if self.on_device else self._copies[tensor]

    def lend(self, reader: BaseProcess | None) -> None:
        """A forked process reads the copies: the next `offload`, which writes to them, waits for its end."""
        self._reader = reader


def _room_for(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of the same shapes and types in one block of main memory.

    torch's own pinned memory comes in powers of two, up to twice of what is asked for. The block is
    shared with forked processes: of private memory a fork copies each locked page.
    """
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    memory = mmap.mmap(-1, max(sum(sizes), 1))
    block = torch.frombuffer(memory, dtype=torch.uint8)
    if torch.cuda.is_available() and tensors:
        error = int(torch.cuda.cudart().cudaHostRegister(block.data_ptr(), block.nbytes, 0))
        if error:
            logger.warning("CUDA error %d: %d bytes of main memory stay pageable", error, block.nbytes)
        else:
            weakref.finalize(block.untyped_storage(), _unlock, block.data_ptr())
            memory.madvise(mmap.MADV_DOFORK)  # whatever the driver has set
    pieces = block[: sum(sizes)].split(sizes) if tensors else ()
    return [
        on_its_own(piece[: tensor.nbytes].view(tensor.dtype).view(tensor.shape))
        for piece, tensor in zip(pieces, tensors, strict=True)
    ]


def on_its_own(piece: Tensor) -> Tensor:
    """The same host memory as a tensor that is no part of a larger one, which Megatron copies to write it.

    By way of numpy `piece` could never be offloaded again: torch then lets nobody resize its memory.
    """
    start = piece.storage_offset() * piece.itemsize
    memory = piece.untyped_storage()[start : start + piece.nbytes]
    return torch.empty(0, dtype=piece.dtype).set_(memory).view(piece.shape)


def _unlock(address: int) -> None:
    torch.cuda.cudart().cudaHostUnregister(address)


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
