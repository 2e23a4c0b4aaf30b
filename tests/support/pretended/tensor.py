"""Tensors that say `cuda:0`, hold CPU memory and compute for real.

To Python a DeviceTensor is on `cuda:0`. To C++ it is on `meta`, whose autograd needs no CUDA build; what C++
then asks for on `meta` is the device. Every operation goes through `run`, which refuses operands on two
devices as a GPU does, and counts what a GPU would make the host wait for.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from tests.support.pretended.waits import Waits, place

CUDA, CPU, META = torch.device("cuda", 0), torch.device("cpu"), torch.device("meta")
READS = {
    *("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::equal"),
    *("aten::is_nonzero", "aten::unique_dim", "aten::_unique2"),
}
"""Operations whose result the host needs before it can go on: a value, or a shape."""
INDEXING = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
"""A GPU takes host tensors as indices. As for a boolean one, the host must know how many are true."""

waits = Waits()
"""Those of this process."""


class DeviceTensor(torch.Tensor):
    """A tensor on the pretended device."""

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, content: torch.Tensor) -> "DeviceTensor":
        return torch.Tensor._make_subclass(
            cls, content, False, dispatch_device=True, device_for_backend_keys=META
        )

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def numpy(self, *_: Any, **__: Any) -> Any:  # type: ignore[override]
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy  # type: ignore[assignment]

    def pin_memory(self, *_: Any) -> torch.Tensor:  # type: ignore[override]
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def record_stream(self, _: Any) -> None:  # type: ignore[override]
        """Memory is not given out anew here while a stream still reads it."""

    def tolist(self) -> Any:
        waits.add("tolist")
        return content_of(self).tolist()

    def __repr__(self) -> str:  # type: ignore[override]
        return f"DeviceTensor({content_of(self)!r})"

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return DeviceTensor, (content_of(self).clone(),)

    def __deepcopy__(self, memo: dict[int, Any]) -> "DeviceTensor":
        return DeviceTensor(content_of(self).clone())

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {})


def content_of(tensor: torch.Tensor) -> torch.Tensor:
    """The CPU tensor with the same memory; a host tensor itself."""
    if not isinstance(tensor, DeviceTensor):
        return tensor
    with torch._C._DisableTorchDispatch(), torch._C.DisableTorchFunction():
        storage = torch.Tensor.untyped_storage(tensor)
        if torch.Tensor.numel(tensor) and not storage.nbytes():  # set_ below would make room without a word
            raise RuntimeError(f"memory that was given up is touched at {place()}")
        return torch.empty(0, dtype=tensor.dtype).set_(
            storage,
            torch.Tensor.storage_offset(tensor),
            torch.Tensor.size(tensor),
            torch.Tensor.stride(tensor),
        )


def is_device(device: Any) -> bool:
    """Whether C++ or Python means the pretended device by it."""
    return device is not None and torch.device(device).type in ("cuda", "meta")


def run(func: Any, args: tuple, kwargs: dict) -> Any:
    """One operation of ATen, on the memory of its operands."""
    if func is torch.ops.prim.device.default:
        return META
    name = func._schema.name
    tensors = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, torch.Tensor)]
    on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
    lands_on_device = _where(name, args, kwargs, bool(on_device))
    _refuse_two_devices(name, on_device, tensors, kwargs)
    if on_device:
        _count(name, args)
    originals: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def unwrap(value: Any) -> Any:
        if not isinstance(value, DeviceTensor):
            return value
        content = content_of(value)
        originals[id(content)] = (value, content)
        return content

    def wrap(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) in originals:  # an operation in place returns its operand
            return originals[id(value)][0]
        return DeviceTensor(value) if lands_on_device and not isinstance(value, DeviceTensor) else value

    plain_args, plain_kwargs = tree_map(unwrap, args), tree_map(unwrap, kwargs)
    if plain_kwargs.get("device") is not None:
        plain_kwargs["device"] = CPU
    if plain_kwargs.get("pin_memory"):
        plain_kwargs["pin_memory"] = False
    return tree_map(wrap, func(*plain_args, **plain_kwargs))


def _where(name: str, args: tuple, kwargs: dict, has_device_operand: bool) -> bool:
    """Whether the result lands on the device; counts copies that the host waits for."""
    asked = kwargs.get("device")
    waits_for_it = not kwargs.get("non_blocking")
    if name == "aten::_to_copy" and asked is not None:
        if has_device_operand and not is_device(asked) and waits_for_it:
            waits.add("copy to host")
        if not has_device_operand and is_device(asked) and args[0].numel() > 1:
            waits.add("copy from pageable host")
        return is_device(asked)
    if name == "aten::copy_":
        target, source, *rest = args
        to_device, from_device = isinstance(target, DeviceTensor), isinstance(source, DeviceTensor)
        if to_device != from_device and not (rest and rest[0]):
            waits.add("copy to host" if from_device else "copy from pageable host")
        return to_device
    return has_device_operand if asked is None else is_device(asked)


def _refuse_two_devices(
    name: str, on_device: list[DeviceTensor], tensors: list[torch.Tensor], kwargs: dict
) -> None:
    moves = name in ("aten::_to_copy", "aten::copy_", "aten::set_") or kwargs.get("device") is not None
    if moves or name in INDEXING or name.startswith("c10d::") or not on_device:
        return
    if any(
        not isinstance(x, DeviceTensor) and x.dim() > 0 for x in tensors
    ):  # numbers may come from the host
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! "
            f"({name} at {place()})"
        )


def _count(name: str, args: tuple) -> None:
    if name in READS:
        waits.add({"aten::_local_scalar_dense": "item"}.get(name, name.removeprefix("aten::")))
    if name in INDEXING:
        indices = [x for x in args[1] if isinstance(x, torch.Tensor)]
        if any(index.dtype == torch.bool for index in indices):
            waits.add("boolean index")


class EveryOperation(TorchDispatchMode):
    """Factories have no operand to dispatch on."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        return run(func, args, kwargs or {})


class EveryFunction(TorchFunctionMode):
    """What Python asks before ATen is reached."""

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if isinstance(kwargs.get("device"), int):
            kwargs["device"] = CUDA
        if func is torch.Tensor.to:
            return _to(*args, **kwargs)
        if func in (torch.Tensor.cuda, torch.Tensor.cpu):
            return _to(args[0], CUDA if func is torch.Tensor.cuda else CPU)
        if func is torch.Tensor.type_as:
            return _to(args[0], args[1])
        if func in (torch.tensor, torch.as_tensor):
            return _made_of_values(func, args, kwargs)
        if func is torch.Tensor.pin_memory and not isinstance(args[0], DeviceTensor):
            return args[0]
        if func is torch.Tensor.is_pinned:
            return False
        if func is torch.Tensor.type and isinstance(args[0], DeviceTensor) and len(args) == 1 and not kwargs:
            return f"torch.cuda.{torch.Tensor.type(content_of(args[0])).rpartition('.')[2]}"
        if func in (
            torch.Tensor.numpy,
            torch.Tensor.__array__,
            torch.Tensor.tolist,
            torch.Tensor.record_stream,
        ):
            own = isinstance(args[0], DeviceTensor)
            return getattr(args[0], func.__name__)(*args[1:]) if own else func(*args)
        return func(*args, **kwargs)


def _made_of_values(func: Callable, args: tuple, kwargs: dict) -> torch.Tensor:
    """torch.tensor and torch.as_tensor, which build on the host and read every tensor in a list."""
    values = args[0]
    if isinstance(values, list | tuple):
        values = tree_map(lambda x: x.tolist() if isinstance(x, DeviceTensor) else x, values)
    if not is_device(kwargs.get("device")):
        return func(values, *args[1:], **kwargs)
    requires_grad = kwargs.pop("requires_grad", False)
    made = func(values, *args[1:], **{**kwargs, "device": None})
    return _to(made, CUDA).requires_grad_(requires_grad)


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to, whose own C++ would compare devices that it does not know."""
    copy, non_blocking = kwargs.pop("copy", False), False
    if args and isinstance(args[0], torch.Tensor):
        device, dtype = args[0].device, args[0].dtype
    else:
        if args and type(args[0]) is int:
            args = (CUDA, *args[1:])
        device, dtype, non_blocking, _ = torch._C._nn._parse_to(*args, **kwargs)
    device = tensor.device if device is None else torch.device(device)
    dtype = dtype or tensor.dtype
    if device.type == tensor.device.type and dtype == tensor.dtype and not copy:
        return tensor
    return torch.ops.aten._to_copy(tensor, dtype=dtype, device=device, non_blocking=non_blocking)
