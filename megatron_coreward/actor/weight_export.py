"""The policy's weights as whole tensors under Hugging Face names, streamed from the actor's shards.

Planned once: every rank derives the same ordered list of parameters, the stage that holds each, and buckets
of neighbours from one stage. A bucket is one broadcast over the pipeline group and one all-gather over the
tensor group; no rank ever holds more of the full model than one bucket.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from megatron_coreward.actor.cpu import compute_device
from megatron_coreward.actor.hf_weights import EMBEDDING, HEAD, Entry, LoadedModel, local_entries
from megatron_coreward.actor.parallel import Layout


class WeightExporter:
    """Streams the whole model under Hugging Face names to every rank."""

    def __init__(self, model: LoadedModel, layout: Layout, bucket_bytes: int) -> None:
        self.parameters = dict(model.module.named_parameters())
        self.dims = model.dims
        self.layout = layout
        self.dtype = next(iter(self.parameters.values())).dtype
        self.buckets = self._plan(local_entries(model.module, model.family, layout), bucket_bytes)

    def _plan(self, mine: list[Entry], bucket_bytes: int) -> list[list[Entry]]:
        """The same buckets on every rank; a parameter larger than a bucket is one of its own."""
        stages: list[list[Entry]] = [[] for _ in range(self.layout.pp_size)]
        torch.distributed.all_gather_object(stages, mine, group=self.layout.pp_group)
        limit = bucket_bytes // (self.dtype.itemsize * self.layout.tp_size)
        buckets: list[list[Entry]] = []
        for entries in stages:
            room = 0
            for entry in entries:
                if self.dims.tied and entry.hf_names == [HEAD]:
                    continue  # the last stage's copy of the embedding
                if room < entry.numel:
                    buckets.append([])
                    room = limit
                buckets[-1].append(entry)
                room -= entry.numel
        return buckets

    def export(self, tied_head: bool) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, whole tensor) of every weight, in one order on all ranks.

        `tied_head` sends the head of a tied model as well: vLLM's CPU head is prepacked and would keep
        its old weights otherwise. A file wants it left out.
        """
        for bucket in self.buckets:
            for entry, shards in zip(bucket, self._gather(bucket), strict=True):
                tensors = entry.mapping.kind.merge(shards, self.dims)
                yield from zip(entry.hf_names, tensors, strict=True)
                if tied_head and self.dims.tied and entry.hf_names == [EMBEDDING]:
                    yield HEAD, tensors[0]

    @torch.no_grad()
    def _gather(self, bucket: list[Entry]) -> list[list[Tensor]]:
        """Every entry's shards by TP rank."""
        stage = bucket[0].stage
        if stage == self.layout.pp_rank:
            flat = torch.cat([self.parameters[entry.local_name].flatten() for entry in bucket])
        else:
            flat = torch.empty(sum(e.numel for e in bucket), dtype=self.dtype, device=compute_device())
        if self.layout.pp_size > 1:
            source = self.layout.pp_global_rank(stage)
            torch.distributed.broadcast(flat, source, group=self.layout.pp_group)
        flats = [flat]
        if self.layout.tp_size > 1:
            flats = [torch.empty_like(flat) for _ in range(self.layout.tp_size)]
            torch.distributed.all_gather(flats, flat, group=self.layout.tp_group)
        sizes = [entry.numel for entry in bucket]
        by_rank = [whole.split(sizes) for whole in flats]
        return [[pieces[i].view(entry.shape) for pieces in by_rank] for i, entry in enumerate(bucket)]
