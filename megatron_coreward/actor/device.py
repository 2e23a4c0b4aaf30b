"""Lets Megatron-Core run where there is no CUDA device.

Megatron-Core 0.16 asks for CUDA by name in places: `device="cuda"` in factory calls,
`torch.cuda.current_device()` and its relatives, and `Tensor.type()` compared with
"torch.cuda.FloatTensor". `actor_device()` answers those questions for the CPU while actor code runs and
leaves everything as it was afterwards, so that vLLM, which shares the process, never sees it. On a
machine with CUDA it does nothing.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core import tensor_parallel
from megatron.core.transformer.moe import token_dispatcher
from torch.overrides import TorchFunctionMode

from megatron_coreward.config.precision import resolve_dtype
from megatron_coreward.utils.replaced import replaced

_CPU = torch.device("cpu")


def compute_device() -> torch.device:
    """The device that the actor's tensors live on."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else _CPU


def compute_dtype(name: str) -> torch.dtype:
    """`model.dtype` as a torch type."""
    name = resolve_dtype(name, on_gpu=torch.cuda.is_available())
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]


class _Stream(torch.cpu.Stream):
    """The CPU's only stream. torch's own records no event, and Megatron waits for one."""

    def record_event(self) -> torch.cpu.Event:  # type: ignore[override]
        return torch.cpu.Event()


_STREAM = _Stream()


class _CudaMeansCpu(TorchFunctionMode):
    """Rewrites CUDA devices to the CPU in every torch call."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            return f"torch.cuda.{func(*args).rpartition('.')[2]}"
        if "device" in kwargs and _is_cuda(kwargs["device"]):
            kwargs = {**kwargs, "device": _CPU}
        if func is torch.Tensor.to and len(args) > 1 and _is_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        return func(*args, **kwargs)


def _is_on_cpu(tensor: torch.Tensor | None, as_numpy: bool = False, record_stream: bool = False) -> Any:
    """Numbers of tokens for an all-to-all. Megatron makes them plain numbers only where it moves them."""
    return tensor.numpy() if as_numpy and tensor is not None else tensor


def _is_cuda(device: Any) -> bool:
    return (isinstance(device, str) and device.startswith("cuda")) or (
        isinstance(device, torch.device) and device.type == "cuda"
    )


@contextlib.contextmanager
def actor_device() -> Iterator[None]:
    """Enter around every call into Megatron-Core. May be nested."""
    if torch.cuda.is_available():
        yield
        return
    with (
        replaced(
            torch.cuda,
            current_device=lambda: _CPU,
            synchronize=lambda *args: None,
            current_stream=lambda *args: _STREAM,
            default_stream=lambda *args: _STREAM,
            Stream=lambda *args: _STREAM,
            stream=lambda *args: contextlib.nullcontext(),
        ),
        replaced(  # recomputing activations would restore them; the actor draws no random numbers
            tensor_parallel.random,
            _get_cuda_rng_state=lambda **_: None,
            _set_cuda_rng_state=lambda *_, **__: None,
        ),
        replaced(token_dispatcher, maybe_move_tensor_to_cpu=_is_on_cpu),
        _CudaMeansCpu(),
    ):
        yield
