"""A machine that claims to have one H100, for tests on a CPU.

What a GPU would refuse is refused: operands on two devices, .numpy() of a device tensor, host tensors in an
NCCL group and device tensors in a gloo group. What the host would wait for is counted (waits.py). Results are
those of the CPU. Not shown: kernels, memory, streams and races, the order of NCCL's calls.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
import torch._dynamo
from megatron.core import tensor_parallel
from torch.nn.attention import varlen

from tests.support.pretended.attention import varlen_attn
from tests.support.pretended.groups import Groups
from tests.support.pretended.tensor import CUDA, EveryFunction, EveryOperation, waits
from tests.support.pretended.waits import MEGATRON, Waits

GIB = 2**30


class Stream:
    """A stream, or an event."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def synchronize(self, *_: Any) -> None:
        waits.add("stream or event")

    def record_event(self, *_: Any) -> "Stream":
        return Stream()

    def query(self) -> bool:
        return True

    def record(self, *_: Any) -> None:
        """As wait_stream and wait_event, it is ordered on the device; the host goes on."""

    wait_stream = wait_event = wait = record


def _current_device() -> Any:
    """Megatron-Core uses it as the `device` of factories, which the pretended torch wants named."""
    return CUDA if MEGATRON in sys._getframe(1).f_code.co_filename else 0


def _torch_cuda() -> dict[str, Any]:
    stream = Stream()
    random_state = {
        "get_rng_state": lambda *_, **__: torch.zeros(16, dtype=torch.uint8),
        "set_rng_state": lambda *_, **__: None,
    }
    return random_state | {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "current_device": _current_device,
        "device_count": lambda: 1,
        "set_device": lambda _: None,
        "synchronize": lambda *_: waits.add("torch.cuda.synchronize"),
        "current_stream": lambda *_: stream,
        "default_stream": lambda *_: stream,
        "Stream": Stream,
        "Event": Stream,
        "stream": lambda *_: contextlib.nullcontext(),
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "get_device_properties": lambda *_: SimpleNamespace(multi_processor_count=132, major=9, minor=0),
        "empty_cache": lambda: None,
        "cudart": lambda: SimpleNamespace(cudaHostRegister=lambda *_: 0, cudaHostUnregister=lambda *_: 0),
        "mem_get_info": lambda *_: (70 * GIB, 80 * GIB),
        "memory_allocated": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "reset_peak_memory_stats": lambda *_: None,
    }


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Waits]:
    """Enter before the process group is made. Yields the waits that are counted inside."""
    changes = _torch_cuda()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **changes))
        states = {name: changes[name] for name in ("get_rng_state", "set_rng_state")}
        stack.enter_context(mock.patch.multiple(torch.cuda.random, **states))
        stack.enter_context(mock.patch.object(tensor_parallel.random, "_lazy_call", lambda _: None))
        stack.enter_context(mock.patch.object(torch.version, "cuda", "13.0"))
        stack.enter_context(mock.patch.object(torch.cuda.nccl, "version", lambda: (2, 29, 7)))
        stack.enter_context(
            mock.patch.object(torch._dynamo.config, "disable", True)
        )  # no code for a GPU here
        # torch.tensor lifts what it has built to the mode's device; only the CPU's is to be lifted here.
        lifted = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(mock.patch.object(varlen, "varlen_attn", varlen_attn))
        Groups().enter(stack)
        stack.enter_context(EveryOperation())
        stack.enter_context(EveryFunction())
        yield waits
