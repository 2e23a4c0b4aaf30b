"""Weights between Hugging Face folders and the actor's shards: loading and streaming export.

Both walk the family's table (families/). Export is planned once: every rank derives the same ordered list
of parameters, the stage that holds each, and buckets of neighbours from one stage. A bucket is one
broadcast over the pipeline group and one all-gather over the tensor group; no rank ever holds more of the
full model than one bucket.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig

from megatron_coreward.actor.cpu import compute_device, compute_dtype
from megatron_coreward.actor.families.mapping import Dims, Family, Mapping
from megatron_coreward.actor.families.registry import family_of
from megatron_coreward.actor.model import build_model, model_dims
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.config import ModelConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


class HfFolder:
    """Tensors of a folder of safetensors, with or without an index, read one by one."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / "model.safetensors.index.json"
        if index.exists():
            files = json.loads(index.read_text())["weight_map"]
        else:
            single = self.folder / "model.safetensors"
            if not single.exists():
                raise ValueError(
                    f"model.path={folder} holds neither model.safetensors nor an index of shards"
                )
            files = dict.fromkeys(self._open(single.name).keys(), single.name)
        self.files: dict[str, str] = files

    def _open(self, file: str) -> safe_open:
        try:
            return safe_open(self.folder / file, framework="pt")
        except (FileNotFoundError, SafetensorError) as error:
            raise ValueError(f"cannot read {self.folder / file} of model.path: {error}") from error

    def tensor(self, name: str) -> Tensor:
        if name not in self.files:
            raise ValueError(f"model.path={self.folder} has no tensor {name}, which its architecture needs")
        with self._open(self.files[name]) as file:
            return file.get_tensor(name)


@dataclass(frozen=True)
class Entry:
    """One Megatron parameter of the whole model."""

    mapping: Mapping
    layer: int | None
    """Global layer index; None outside the layers."""
    stage: int
    """The pipeline stage that holds it."""
    local_name: str
    """Its name on that stage, where layers are counted from 0."""
    shape: tuple[int, ...]
    """Its shard's shape, the same on every TP rank."""

    @property
    def hf_names(self) -> list[str]:
        return [name.format(layer=self.layer) for name in self.mapping.hf]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


def local_entries(model: GPTModel, family: Family, layout: Layout) -> list[Entry]:
    """The parameters of this stage, in table order."""
    parameters = dict(model.named_parameters())
    layer_numbers = {i: layer.layer_number - 1 for i, layer in enumerate(model.decoder.layers)}
    entries = []
    for mapping in family.mappings:
        per_layer = "{layer}" in mapping.megatron
        for local, layer in layer_numbers.items() if per_layer else [(None, None)]:
            name = mapping.megatron.format(layer=local)
            if name in parameters:
                entries.append(Entry(mapping, layer, layout.pp_rank, name, tuple(parameters[name].shape)))
    missing = parameters.keys() - {entry.local_name for entry in entries}
    assert not missing, f"family {family.architecture} has no mapping for {sorted(missing)}"
    return entries


@dataclass(frozen=True)
class LoadedModel:
    """This rank's part of a model, and what it was built from."""

    module: GPTModel
    hf: PretrainedConfig
    family: Family
    dims: Dims


def load_model(config: ModelConfig, layout: Layout) -> LoadedModel:
    """Builds this rank's part of `model.path` and fills it."""
    hf = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    family = family_of(hf.architectures or [])
    dims = model_dims(hf, layout.tp_size)
    module = build_model(hf, family, layout, compute_dtype(config.dtype))
    load_hf_weights(module, family, dims, layout, config.path)
    return LoadedModel(module, hf, family, dims)


def load_hf_weights(model: GPTModel, family: Family, dims: Dims, layout: Layout, folder: str | Path) -> None:
    """Fills the model's shards from a Hugging Face folder."""
    source = HfFolder(folder)
    parameters = dict(model.named_parameters())
    for entry in local_entries(model, family, layout):
        # A tied model on several stages has the embedding on the last one too, as its head.
        names = [EMBEDDING] if dims.tied and entry.hf_names == [HEAD] else entry.hf_names
        tensors = [source.tensor(name) for name in names]
        for name, tensor, shape in zip(names, tensors, _hf_shapes(entry, dims, layout), strict=True):
            if tensor.shape != shape:
                raise ValueError(
                    f"{name} of model.path={folder} has shape {list(tensor.shape)} where config.json asks "
                    f"for {list(shape)}; weights and config.json belong to different models"
                )
        shard = entry.mapping.kind.split(tensors, dims, layout.tp_rank, layout.tp_size)
        with torch.no_grad():
            parameters[entry.local_name].copy_(shard)


def _hf_shapes(entry: Entry, dims: Dims, layout: Layout) -> list[torch.Size]:
    """Shapes of the Hugging Face tensors that the built parameter is made of."""
    shards = [torch.empty(entry.shape, device="meta")] * layout.tp_size
    return [tensor.shape for tensor in entry.mapping.kind.merge(shards, dims)]


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
