"""The Hugging Face tensors that each of the actor's parameters is made of, and loading them.

Loading, export (stream.py) and conversion walk the family's table (families/) through `local_entries`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel

from megatron_coreward.actor.checkpoint.model_state import load_weights
from megatron_coreward.actor.device import compute_dtype
from megatron_coreward.actor.model.build import build_model
from megatron_coreward.actor.model.precision import megatron_settings, transformer_impl
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.hf_folder import HfFolder
from megatron_coreward.actor.weights.kinds import merge, split
from megatron_coreward.config import hf_weights
from megatron_coreward.config.model_shape import ModelShape, find_folder, read_shape
from megatron_coreward.config.schema import Fp8Config, ModelConfig
from megatron_coreward.families.mapping import Mapping


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
    expert: int | None = None
    """Number of the expert in its layer; None for what is no expert's."""
    ep_rank: int | None = None
    """The expert-parallel rank that holds it; None: all do."""

    @property
    def hf_names(self) -> list[str]:
        return [name.format(layer=self.layer, expert=self.expert) for name in self.mapping.hf]

    @property
    def numel(self) -> int:
        return torch.Size(self.shape).numel()


def local_entries(model: GPTModel, shape: ModelShape, layout: Layout) -> list[Entry]:
    """The parameters of this stage, in table order."""
    parameters = dict(model.named_parameters())
    layer_numbers = {i: layer.layer_number - 1 for i, layer in enumerate(model.decoder.layers)}
    entries = []
    experts = range(shape.experts // layout.ep_size)
    for mapping in shape.family.mappings:
        pattern = mapping.grouped if model.config.moe_grouped_gemm and mapping.grouped else mapping.megatron
        per_layer = "{layer}" in pattern
        for local, layer in layer_numbers.items() if per_layer else [(None, None)]:
            for index in experts if mapping.of_expert else [None]:
                name = pattern.format(layer=local, expert=index)
                if name not in parameters:
                    continue
                entry = Entry(mapping, layer, layout.pp_rank, name, tuple(parameters[name].shape))
                if index is not None:
                    number = layout.ep_rank * len(experts) + index
                    entry = replace(entry, expert=number, ep_rank=layout.ep_rank)
                entries.append(entry)
    missing = parameters.keys() - {entry.local_name for entry in entries}
    assert not missing, f"family {shape.architecture} has no mapping for {sorted(missing)}"
    return entries


@dataclass(frozen=True)
class LoadedModel:
    """This rank's part of a model, and what it was built from."""

    module: GPTModel
    shape: ModelShape

    @property
    def dtype(self) -> torch.dtype:
        """The type that all of its weights have."""
        return next(self.module.parameters()).dtype


def load_model(
    config: ModelConfig, layout: Layout, recompute: str = "none", fp8: Fp8Config | None = None
) -> LoadedModel:
    """Builds this rank's part of `model.path` and fills it, from `model.checkpoint` if there is one."""
    precision = megatron_settings(config, fp8 or Fp8Config(), transformer_impl(config.transformer_impl))
    shape = read_shape(find_folder(config.path), config.trust_remote_code)
    module = build_model(shape, layout, compute_dtype(config.dtype), recompute=recompute, precision=precision)
    if config.checkpoint:
        load_weights(Path(config.checkpoint), module, shape)
    else:
        load_hf_weights(module, shape, layout, shape.folder)
    return LoadedModel(module, shape)


def load_hf_weights(model: GPTModel, shape: ModelShape, layout: Layout, folder: Path) -> None:
    """Fills the model's shards from a Hugging Face folder.

    Raises:
        ValueError: it lacks a tensor of this rank's part, has one of another shape, or has one that the
            model would ignore.
    """
    source = HfFolder(folder)
    check_extra_tensors(source, shape, hf_weights.LEAVE_OUT_FIRST)
    parameters = dict(model.named_parameters())
    entries = [(entry, source_names(entry, shape)) for entry in local_entries(model, shape, layout)]
    for entry, names in entries:
        source.check_shapes(dict(zip(names, hf_shapes(entry, shape, layout.tp_size), strict=True)))
    for entry, names in entries:
        tensors = [source.tensor(name) for name in names]
        shard = split(entry.mapping.kind, tensors, shape, layout.tp_rank, layout.tp_size)
        with torch.no_grad():
            parameters[entry.local_name].copy_(shard)


def source_names(entry: Entry, shape: ModelShape) -> list[str]:
    """The tensors of a folder that a parameter is made of."""
    # A tied model on several stages has the embedding on the last one too, as its head.
    is_copy = shape.tied and entry.hf_names == [shape.family.head]
    return [shape.family.embedding] if is_copy else entry.hf_names


def hf_shapes(entry: Entry, shape: ModelShape, tp_size: int) -> list[torch.Size]:
    """Shapes of the Hugging Face tensors that the built parameter is made of."""
    shards = [torch.empty(entry.shape, device="meta")] * tp_size
    return [tensor.shape for tensor in merge(entry.mapping.kind, shards, shape)]


def check_extra_tensors(source: HfFolder, shape: ModelShape, way_out: str, *, allowed: bool = False) -> None:
    """hf_weights.check_extra_tensors for an open folder."""
    hf_weights.check_extra_tensors(
        source.folder, source.tensors, source.given, shape, way_out, allowed=allowed
    )
