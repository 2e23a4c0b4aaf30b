"""Process groups of a run, and the exchange of host objects between ranks.

Works under torchrun and as a single plain process. Tensors of the models travel through Megatron's
groups; what goes through `TorchCommunicator` is small host data (answers, rows, figures), over gloo.
"""

import os
import pickle
import random
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from megatron_coreward.utils.folders import Gathers
from megatron_coreward.utils.restarts import of_this_attempt

DEFAULT_TIMEOUT = timedelta(minutes=30)
"""A collective that waits longer means a lost rank. A slow rollout or checkpoint stays well below."""
_alone: list[str] = []
"""Variables that `initialize` has set for a process without torchrun, until `shutdown` clears them."""


def initialize(timeout: timedelta = DEFAULT_TIMEOUT) -> None:
    """Joins the process group that torchrun describes, or makes one of a single process on a free port.

    NCCL with one GPU per rank where CUDA is available, gloo on CPU. Does nothing if a group exists.

    Raises:
        ValueError: another program uses the port at which the ranks would meet.
    """
    if dist.is_initialized():
        return
    store = _store_of_the_agent(timeout)
    if "RANK" not in os.environ:
        store = dist.TCPStore("127.0.0.1", 0, 1, is_master=True, timeout=timeout)
        # vLLM's external launcher reads these of every process, as if torchrun had started it.
        variables = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
        os.environ.update(variables)
        _alone.extend(variables)
    device = choose_device()
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        dist.init_process_group(
            "nccl" if device else "gloo",
            device_id=device,
            store=store,
            rank=rank,
            world_size=world_size,
            timeout=timeout,
        )
    except dist.DistNetworkError as error:
        if "EADDRINUSE" not in str(error):
            raise
        raise ValueError(
            f"MASTER_PORT is {os.environ['MASTER_PORT']}, but another program uses this port: set another "
            "one, or start the ranks of one machine by coreward train --ranks N, which finds a free one"
        ) from error


def set_cuda_environment(environment: MutableMapping[str, str]) -> None:
    """Sets what CUDA and its allocator read once, before they do; what the user has set stays.

    One hardware queue, so that a collective that was issued first starts first: Megatron's overlap of tensor
    parallel collectives with computation counts on it. Segments that grow, since packed micro-batches differ
    in length and would leave holes; vLLM turns them off in the pool that it puts to sleep.
    """
    environment.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")
    if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & environment.keys():
        environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"


def choose_device() -> torch.device | None:
    """Makes this rank's GPU the current one; None without GPUs, where denormal numbers become 0 from now on.

    Call it before anything else asks CUDA something, or every rank holds memory on the first GPU, too; and
    before torch starts threads, which take over from this one what becomes of denormals.

    Raises:
        ValueError: there are more ranks on this machine than GPUs, CUDA_VISIBLE_DEVICES hides them all, or
            torch cannot use a driver that is there, which may be too old for it.
    """
    if torch.version.cuda:
        set_cuda_environment(os.environ)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not torch.cuda.is_available():
        if torch.version.cuda:
            _refuse_hidden_gpus(visible)
        _flush_denormals()
        return None
    local_rank, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local_rank >= gpus:
        raise ValueError(
            f"rank {local_rank} of this machine has no GPU: torch sees {gpus} "
            f"(CUDA_VISIBLE_DEVICES={visible or 'not set'}). Start at most {gpus} ranks here."
        )
    if not dist.is_nccl_available():
        raise ValueError("this build of torch has no NCCL, which ranks on GPUs need. Install another build.")
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device


def _flush_denormals() -> None:
    """A CPU takes up to 15 times as long for an Adam step over them: docs/evidence/speed.md."""
    for kind in (np.float32, np.float64):
        np.finfo(kind)  # which warns at its first use if there are no denormals
    torch.set_flush_denormal(True)


def _refuse_hidden_gpus(visible: str | None) -> None:
    """For a CUDA build of torch that sees no GPU: raises ValueError unless there is no driver, either."""
    if visible == "":
        raise ValueError(
            "CUDA_VISIBLE_DEVICES is empty, so torch, which is built for CUDA, sees no GPU. Unset it, or "
            "list the GPUs to use; to run on the CPU install a CPU build of torch."
        )
    try:
        torch.cuda.init()
    except RuntimeError as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        if "no NVIDIA driver" not in reason:
            raise ValueError(
                f"torch {torch.__version__}, which is built for CUDA {torch.version.cuda}, cannot use this "
                f"machine's GPUs: {reason}. CUDA 13 needs driver 580 or newer: install one, or ask `coreward "
                "doctor`; to run on the CPU install a CPU build of torch."
            ) from error


def _store_of_the_agent(timeout: timedelta) -> dist.Store | None:
    """The store of torchrun's agent, where it may start the ranks anew; else None, torch's own choice."""
    may_restart = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0
    if not may_restart or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    agent = dist.TCPStore(address, port, world_size, is_master=False, timeout=timeout)
    return of_this_attempt(agent, rank, world_size, timeout)


def shutdown() -> None:
    """Leaves the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
    while _alone:
        os.environ.pop(_alone.pop(), None)


class TorchCommunicator:
    """roles.Communicator over all ranks. Without a process group it is a world of one.

    Collective to construct: where the default group is not gloo, a gloo group is made.
    `bytes_sent` counts what this rank has sent to other ranks by `all_to_all`.
    """

    def __init__(self, timeout: timedelta = DEFAULT_TIMEOUT) -> None:
        self.rank = 0
        self.world_size = 1
        self.bytes_sent = 0
        self._group: dist.ProcessGroup | None = None
        if dist.is_initialized():
            self.rank = dist.get_rank()
            self.world_size = dist.get_world_size()
            if dist.get_backend() != "gloo":
                self._group = dist.new_group(backend="gloo", timeout=timeout)

    def all_to_all(self, outgoing: Sequence[Any]) -> list[Any]:
        """Sends `outgoing[d]` to rank d; returns what every rank s sent here, at index s."""
        assert len(outgoing) == self.world_size, f"{len(outgoing)} items for {self.world_size} ranks"
        if self.world_size == 1:
            return list(outgoing)
        payloads = [pickle.dumps(item, protocol=pickle.HIGHEST_PROTOCOL) for item in outgoing]
        sizes = [len(payload) for payload in payloads]
        self.bytes_sent += sum(sizes) - sizes[self.rank]
        incoming_sizes = torch.empty(self.world_size, dtype=torch.int64)
        dist.all_to_all_single(incoming_sizes, torch.tensor(sizes), group=self._group)
        received_sizes = incoming_sizes.tolist()
        received = torch.empty(sum(received_sizes), dtype=torch.uint8)
        dist.all_to_all_single(
            received,
            torch.frombuffer(bytearray().join(payloads), dtype=torch.uint8),
            output_split_sizes=received_sizes,
            input_split_sizes=sizes,
            group=self._group,
        )
        return [pickle.loads(piece.numpy()) for piece in received.split(received_sizes)]

    def all_gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def gather(self, value: Any) -> list[Any]:
        """`value` of every rank, by rank, on rank 0; an empty list on the others."""
        received = self.all_to_all([value, *[None] * (self.world_size - 1)])
        return received if self.rank == 0 else []

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """`value` of rank `source`."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=source, group=self._group)
        return values[0]


def require_same(comm: Gathers, facts: Mapping[str, Any], remedy: str) -> None:
    """Lets ranks go on only if all of them have the same facts. A collective.

    Raises:
        ValueError: on every rank: the first of `facts` that is not the same everywhere, with both values.
    """
    first, *others = comm.all_gather(dict(facts))
    for rank, other in enumerate(others, start=1):
        for name in [*first, *(other.keys() - first.keys())]:
            if first.get(name) != other.get(name):
                values = f"{first.get(name)!r} on rank 0, but {other.get(name)!r} on rank {rank}"
                raise ValueError(f"{name} is {values}: {remedy}")


@contextmanager
def preserve_rng() -> Iterator[None]:
    """Restores the random states of torch (CPU and current GPU), numpy and random on exit.

    For calls into libraries that draw from, or reset, the global generators.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)
