"""The policy's weights as whole tensors under Hugging Face names, streamed from the actor's shards.

Planned once: every rank derives the same ordered list of parameters, who holds each, and buckets of
neighbours; a hash of it is compared between all ranks. The order is layer by layer, so that an engine that
collects the parts of a layer before it takes them never collects more than one.

The shards of a bucket are in flight together. Each is broadcast from where it lies to where it belongs,
without being copied into a common buffer first: along the pipeline to the ranks with the same TP rank, then
between the TP ranks, or for an expert between the ranks that share a layer's experts. Where a shard's rows
lie next to each other in the whole tensor, it arrives between the TP ranks in that tensor itself. What a rank
holds itself is used in place, so on one rank nothing moves at all, and a tied head on the last of two stages
saves the way of the embedding. Data-parallel replicas each serve themselves. No rank ever holds more of the
full model, beside its own part, than one bucket.

For the engine a shard stays where it is if no vLLM rank of the tensor group takes a row of it
(shares.py): with the same tensor-parallel size on both sides nothing travels between TP ranks. vLLM
wants whole tensors all the same, and takes its rows out of them; the other rows are never written.
"""

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from megatron.core.fp8_utils import dequantize_fp8_tensor, is_float8tensor
from torch import Tensor

from megatron_coreward.actor.device import compute_device
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.hf_writer import TensorSpec
from megatron_coreward.actor.weights.load import Entry, LoadedModel, hf_shapes, local_entries
from megatron_coreward.actor.weights.shares import (
    EngineRank,
    arrives_in_place,
    fill,
    join_shards,
    minimum_bytes,
    needed_shards,
    places_of,
    undefined,
)
from megatron_coreward.types import Traffic

Bucket = list[Entry]
Shards = dict[int, Tensor]
"""The shards of one parameter by TP rank."""


@dataclass
class Gathered:
    """What this rank has of a parameter: shards, or the whole tensors where shards arrive in place."""

    entry: Entry
    shards: Shards
    wholes: list[Tensor] | None = None


class WeightExporter:
    """Streams the whole model under Hugging Face names to every rank.

    `traffic` counts what this rank has sent to others and received from them so far. A broadcast counts
    once for each rank that it reaches, whatever way the library sends it.
    """

    def __init__(self, model: LoadedModel, layout: Layout, bucket_bytes: int, rollout_size: int = 1) -> None:
        self.parameters = dict(model.module.named_parameters())
        self.shape = model.shape
        self.layout = layout
        self.dtype = model.dtype
        self.traffic = Traffic()
        own = local_entries(model.module, model.shape, layout)
        of_stage: list[list[Entry]] = [[] for _ in range(layout.ep_size)]
        dist.all_gather_object(of_stage, own, group=layout.ep_group)
        others = [e for entries in of_stage for e in entries if e.ep_rank not in (None, layout.ep_rank)]
        stages: list[list[Entry]] = [[] for _ in range(layout.pp_size)]
        dist.all_gather_object(stages, own + others, group=layout.pp_group)
        self._tied_copies = {e.stage: e.local_name for stage in stages for e in stage if self._is_copy(e)}
        self.entries = [e for stage in stages for e in sorted(stage, key=_position) if not self._is_copy(e)]
        self.buckets = self._plan(bucket_bytes)
        _check_same_everywhere(self.buckets)
        peers = [layout.tp_global_rank(tp_rank) for tp_rank in range(layout.tp_size)]
        self._engine_ranks = [EngineRank(rank % rollout_size, rollout_size) for rank in peers]
        self._wanted = {entry: self._wanted_shards(entry) for entry in self.entries}
        self._minimum = minimum_bytes(
            [(entry, self._own_shard(entry) is not None) for entry in self.entries],
            model.shape,
            (layout.tp_rank, layout.tp_size),
            self._engine_ranks[layout.tp_rank],
            self.dtype.itemsize,
        )

    def export(self, *, for_engine: bool) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole tensor) of every weight, in one order on all ranks. A collective.

        A tensor may be a view of a parameter: valid until the weights change, and not to be written to.
        `for_engine` leaves rows undefined that this rank's part of the engine has no use for, and sends the
        head of a tied model as well: vLLM's CPU head is prepacked and would keep its old weights otherwise.
        """
        self.traffic += Traffic(minimum=self._minimum if for_engine else 0)
        for bucket in self.buckets:
            gathered = self._gather(bucket, for_engine)
            while gathered:
                yield from self._merged(gathered.popleft(), for_engine)

    def _merged(self, gathered: Gathered, for_engine: bool) -> Iterator[tuple[str, Tensor]]:
        """A function of its own, so that nothing of one bucket is left when the next one is gathered."""
        entry, tensors = gathered.entry, gathered.wholes
        if tensors is None:
            tensors = join_shards(entry, gathered.shards, self.shape, self.layout.tp_size)
        gathered.shards.clear()
        yield from zip(entry.hf_names, tensors, strict=True)
        if for_engine and self.shape.tied and self._is_embedding(entry):
            yield self.shape.family.head, tensors[0]

    def specs(self) -> list[TensorSpec]:
        """Names, shapes and types of the tensors of `export(for_engine=False)`, in its order."""
        return [
            TensorSpec(name, tuple(shape), self.dtype)
            for entry in self.entries
            for name, shape in zip(
                entry.hf_names, hf_shapes(entry, self.shape, self.layout.tp_size), strict=True
            )
        ]

    def holding_stages(self, entry: Entry) -> set[int]:
        """The stages that have the parameter; a tied model's embedding is on the last one, too."""
        return {entry.stage, *(self._tied_copies if self._is_embedding(entry) else ())}

    def _is_embedding(self, entry: Entry) -> bool:
        return entry.hf_names == [self.shape.family.embedding]

    def _is_copy(self, entry: Entry) -> bool:
        return self.shape.tied and entry.hf_names == [self.shape.family.head]

    def _plan(self, bucket_bytes: int) -> list[Bucket]:
        """Plans the same buckets on every rank; a parameter larger than a bucket is alone in one."""
        buckets: list[Bucket] = []
        room, stage = 0, -1
        for entry in self.entries:
            shards = self.layout.tp_size if entry.mapping.kind.sharded else 1
            size = entry.numel * self.dtype.itemsize * shards
            if size > room or entry.stage != stage:
                buckets.append([])
                room, stage = bucket_bytes, entry.stage
            buckets[-1].append(entry)
            room -= size
        return buckets

    @torch.no_grad()
    def _gather(self, bucket: Bucket, for_engine: bool) -> deque[Gathered]:
        """Every entry's shards by TP rank: this rank's and the wanted ones."""
        sending: list[dist.Work] = []
        tp_rank = self.layout.tp_rank
        gathered = deque(Gathered(entry, {tp_rank: self._along_pipeline(entry, sending)}) for entry in bucket)
        _wait(sending)
        for one in gathered:
            entry = one.entry
            if entry.ep_rank is not None and self.layout.ep_size > 1:
                self._between_ep_ranks(entry, one.shards[tp_rank], sending)
            if self.layout.tp_size > 1 and entry.mapping.kind.sharded:
                wanted = self._wanted[entry] if for_engine else range(self.layout.tp_size)
                self._between_tp_ranks(one, wanted, sending)
        _wait(sending)
        return gathered

    def _along_pipeline(self, entry: Entry, sending: list[dist.Work]) -> Tensor:
        """This TP rank's shard, on every stage when `sending` is done."""
        layout, own = self.layout, self._own_shard(entry)
        shard = self._room(entry) if own is None else own
        in_this_pipeline = entry.ep_rank in (None, layout.ep_rank)
        if in_this_pipeline and len(self.holding_stages(entry)) < layout.pp_size:
            source = layout.pp_global_rank(entry.stage)
            sending.append(dist.broadcast(shard, source, group=layout.pp_group, async_op=True))
            self._count(shard, entry.stage == layout.pp_rank, layout.pp_size)
        return shard

    def _between_ep_ranks(self, entry: Entry, tensor: Tensor, sending: list[dist.Work]) -> None:
        """The expert from the rank that holds it to all; it is there when `sending` is done."""
        layout = self.layout
        assert entry.ep_rank is not None, "all ranks hold it"
        source = layout.ep_global_rank(entry.ep_rank)
        sending.append(dist.broadcast(tensor, source, group=layout.ep_group, async_op=True))
        self._count(tensor, entry.ep_rank == layout.ep_rank, layout.ep_size)

    def _between_tp_ranks(self, gathered: Gathered, wanted: Iterable[int], sending: list[dist.Work]) -> None:
        """Adds the wanted shards of the other TP ranks; they are there when `sending` is done."""
        layout, entry, shards = self.layout, gathered.entry, gathered.shards
        if arrives_in_place(entry):
            wholes = gathered.wholes = undefined(entry, shards[layout.tp_rank], self.shape, layout.tp_size)
            fill(wholes, entry, layout.tp_rank, shards[layout.tp_rank], self.shape, layout.tp_size)
            for tp_rank in wanted:
                for place in places_of(wholes, entry, tp_rank, self.shape, layout.tp_size):
                    self._broadcast_over_tp(place, tp_rank, sending)
            return
        for tp_rank in wanted:
            if tp_rank != layout.tp_rank:
                shards[tp_rank] = self._room(entry)
            self._broadcast_over_tp(shards[tp_rank], tp_rank, sending)

    def _broadcast_over_tp(self, tensor: Tensor, source: int, sending: list[dist.Work]) -> None:
        """From the TP rank `source`; nothing where the tensor has no elements."""
        layout = self.layout
        if tensor.numel():
            work = dist.broadcast(tensor, layout.tp_global_rank(source), group=layout.tp_group, async_op=True)
            sending.append(work)
            self._count(tensor, source == layout.tp_rank, layout.tp_size)

    def _wanted_shards(self, entry: Entry) -> list[int]:
        """The TP ranks whose shards another rank of the tensor group needs; the same list on all of them."""
        return sorted(
            {
                shard
                for tp_rank, engine in enumerate(self._engine_ranks)
                for shard in needed_shards(entry, self.shape, self.layout.tp_size, engine)
                if shard != tp_rank
            }
        )

    def _own_shard(self, entry: Entry) -> Tensor | None:
        stage = self.layout.pp_rank
        if entry.ep_rank not in (None, self.layout.ep_rank):
            return None
        if entry.stage == stage:
            return _plain(self.parameters[entry.local_name])
        if stage in self.holding_stages(entry):
            return _plain(self.parameters[self._tied_copies[stage]])
        return None

    def _room(self, entry: Entry) -> Tensor:
        return torch.empty(entry.shape, dtype=self.dtype, device=compute_device())

    def _count(self, shard: Tensor, is_source: bool, ranks: int) -> None:
        moved = Traffic(sent=shard.nbytes * (ranks - 1)) if is_source else Traffic(received=shard.nbytes)
        self.traffic += moved


def _plain(parameter: Tensor) -> Tensor:
    """The weight, dequantised if FP8: the policy computes with these values."""
    return dequantize_fp8_tensor(parameter) if is_float8tensor(parameter) else parameter.detach()


def _position(entry: Entry) -> tuple[int, str, int]:
    """Layer by layer, and within one the parameters of a module (weight and bias) next to each other."""
    module = entry.mapping.megatron if entry.mapping.of_expert else entry.local_name
    return (-1 if entry.layer is None else entry.layer, module, entry.expert or 0)


def _wait(sending: list[dist.Work]) -> None:
    while sending:
        sending.pop().wait()


def _check_same_everywhere(buckets: list[Bucket]) -> None:
    """A rank with another order would take one tensor for another, or wait for ever. A collective."""
    plan = [[(e.stage, e.hf_names, e.shape) for e in bucket] for bucket in buckets]
    digest = hashlib.sha256(repr(plan).encode()).hexdigest()[:16]
    digests = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    others = [rank for rank, other in enumerate(digests) if other != digests[0]]
    assert not others, (
        f"the plan of the weight sync is {digests[0]} on rank 0, but another one on ranks {others}: all must "
        "run with the same model.path and weight_sync.bucket_mb"
    )
