"""Process groups that take tensors only where their backend has them.

NCCL's are on the device, gloo's on the host. All of them are gloo's in truth.
"""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.utils._pytree import tree_flatten

from tests.support.pretended.tensor import DeviceTensor
from tests.support.pretended.waits import place

TENSORS = (
    *("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce_scatter_tensor"),
    *("all_to_all_single", "send", "recv", "isend", "irecv"),
)
OBJECTS = (
    *("all_gather_object", "broadcast_object_list", "gather_object", "scatter_object_list", "barrier"),
)
"""torch moves objects to the device of the group by itself."""


class Groups:
    """Which groups were asked for as gloo's, and whether objects are under way."""

    def __init__(self) -> None:
        self._gloo: set[int] = set()
        self._objects = 0
        self._init, self._new = dist.init_process_group, dist.new_group

    def enter(self, stack: ExitStack) -> None:
        """Puts the checks into torch.distributed until the stack is closed."""
        changes: dict[str, Callable] = {
            "init_process_group": self.init_process_group,
            "new_group": self.new_group,
            "get_backend": self.get_backend,
        }
        changes |= {name: self._checked(name) for name in TENSORS}
        changes |= {name: self._unchecked(name) for name in OBJECTS}
        for module in (dist, dist.distributed_c10d):
            stack.enter_context(mock.patch.multiple(module, **changes))

    def init_process_group(self, backend: str | None = None, **options: Any) -> None:
        options.pop("device_id", None)
        self._init("gloo", **options)

    def new_group(
        self, ranks: Any = None, timeout: Any = None, backend: str | None = None, **options: Any
    ) -> Any:
        options = {name: value for name, value in options.items() if name not in ("pg_options", "device_id")}
        group = self._new(ranks, timeout=timeout, backend="gloo", **options)
        if backend == "gloo" and group is not None:
            self._gloo.add(id(group))
        return group

    def get_backend(self, group: Any = None) -> str:
        return "gloo" if id(group) in self._gloo else "nccl"

    def _checked(self, name: str) -> Callable:
        function = getattr(dist.distributed_c10d, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group", next((x for x in args if isinstance(x, dist.ProcessGroup)), None))
            if not self._objects:
                self._check(name, id(group) in self._gloo, tree_flatten((args, kwargs))[0])
            return function(*args, **kwargs)

        return call

    def _unchecked(self, name: str) -> Callable:
        function = getattr(dist.distributed_c10d, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._objects += 1
            try:
                return function(*args, **kwargs)
            finally:
                self._objects -= 1

        return call

    def _check(self, name: str, is_gloo: bool, values: list[Any]) -> None:
        for tensor in values:
            if isinstance(tensor, torch.Tensor) and isinstance(tensor, DeviceTensor) == is_gloo:
                where, backend = ("device", "gloo") if is_gloo else ("host", "NCCL")
                raise RuntimeError(f"{name}: a {where} tensor in a {backend} group, at {place()}")
