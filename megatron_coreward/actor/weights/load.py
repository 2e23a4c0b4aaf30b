"""Which Hugging Face tensors each of the actor's parameters is made of, and loading them.

Loading, export (weight_export.py) and conversion walk the family's table (families/) through
`local_entries`.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from megatron.core.models.gpt import GPTModel
from transformers import AutoConfig, PretrainedConfig

from megatron_coreward.actor.checkpoint.model_state import load_weights
from megatron_coreward.actor.device import compute_dtype
from megatron_coreward.actor.model.build import build_model, model_dims
from megatron_coreward.actor.model.families.mapping import Dims, Family, Mapping
from megatron_coreward.actor.model.families.registry import family_of
from megatron_coreward.actor.model.precision import megatron_settings, transformer_impl
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.hf_folder import HfFolder, some
from megatron_coreward.config.schema import Fp8Config, ModelConfig

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
ROTARY_BUFFER = "rotary_emb.inv_freq"


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


def local_entries(model: GPTModel, family: Family, layout: Layout) -> list[Entry]:
    """The parameters of this stage, in table order."""
    parameters = dict(model.named_parameters())
    layer_numbers = {i: layer.layer_number - 1 for i, layer in enumerate(model.decoder.layers)}
    entries = []
    experts = range((model.config.num_moe_experts or 0) // layout.ep_size)
    for mapping in family.mappings:
        per_layer = "{layer}" in mapping.megatron
        for local, layer in layer_numbers.items() if per_layer else [(None, None)]:
            for index in experts if mapping.of_expert else [None]:
                name = mapping.megatron.format(layer=local, expert=index)
                if name not in parameters:
                    continue
                entry = Entry(mapping, layer, layout.pp_rank, name, tuple(parameters[name].shape))
                if index is not None:
                    number = layout.ep_rank * len(experts) + index
                    entry = replace(entry, expert=number, ep_rank=layout.ep_rank)
                entries.append(entry)
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

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights, which all have the same."""
        return next(self.module.parameters()).dtype


def load_model(
    config: ModelConfig, layout: Layout, recompute: str = "none", fp8: Fp8Config | None = None
) -> LoadedModel:
    """Builds this rank's part of `model.path` and fills it, from `model.checkpoint` if there is one."""
    precision = megatron_settings(config, fp8 or Fp8Config(), transformer_impl(config.transformer_impl))
    hf = AutoConfig.from_pretrained(config.path, trust_remote_code=config.trust_remote_code)
    family = family_of(hf.architectures or [])
    dims = model_dims(hf, layout.tp_size)
    module = build_model(
        hf, family, layout, compute_dtype(config.dtype), recompute=recompute, precision=precision
    )
    if config.checkpoint:
        load_weights(Path(config.checkpoint), module, family, dims)
    else:
        load_hf_weights(module, family, dims, layout, config.path)
    return LoadedModel(module, hf, family, dims)


def load_hf_weights(model: GPTModel, family: Family, dims: Dims, layout: Layout, folder: str | Path) -> None:
    """Fills the model's shards from a Hugging Face folder.

    Raises:
        ValueError: it lacks a tensor of this rank's part, has one of another shape, or has one that the
            model would ignore.
    """
    source = HfFolder(folder)
    check_extra_tensors(
        source, family, dims, "convert it there and back with tools/convert_checkpoint.py and --allow-extra"
    )
    parameters = dict(model.named_parameters())
    entries = [(entry, source_names(entry, dims)) for entry in local_entries(model, family, layout)]
    for entry, names in entries:
        source.check_shapes(dict(zip(names, hf_shapes(entry, dims, layout.tp_size), strict=True)))
    for entry, names in entries:
        tensors = [source.tensor(name) for name in names]
        shard = entry.mapping.kind.split(tensors, dims, layout.tp_rank, layout.tp_size)
        with torch.no_grad():
            parameters[entry.local_name].copy_(shard)


def source_names(entry: Entry, dims: Dims) -> list[str]:
    """The tensors of a folder that a parameter is made of."""
    # A tied model on several stages has the embedding on the last one too, as its head.
    return [EMBEDDING] if dims.tied and entry.hf_names == [HEAD] else entry.hf_names


def hf_shapes(entry: Entry, dims: Dims, tp_size: int) -> list[torch.Size]:
    """Shapes of the Hugging Face tensors that the built parameter is made of."""
    shards = [torch.empty(entry.shape, device="meta")] * tp_size
    return [tensor.shape for tensor in entry.mapping.kind.merge(shards, dims)]


def extra_tensors(source: HfFolder, family: Family, dims: Dims) -> list[str]:
    """Tensors of a folder that the model does not use.

    Not the buffers of rotary frequencies that older files hold: everybody computes them from config.json.
    """
    known = {
        name.format(layer=layer, expert=expert)
        for mapping in family.mappings
        for name in mapping.hf
        for layer in range(dims.num_layers)
        for expert in (range(dims.experts) if mapping.of_expert else [None])
    }
    return [name for name in source.tensors if name not in known and not name.endswith(ROTARY_BUFFER)]


def check_extra_tensors(
    source: HfFolder, family: Family, dims: Dims, way_out: str, *, allowed: bool = False
) -> None:
    """Refuses what the model would ignore: it would compute another function than the folder's.

    The head of a tied model is fine if it equals the embedding. `way_out` tells how to leave the others out.

    Raises:
        ValueError: naming them, unless they are `allowed`; a tied head that differs from the embedding.
    """
    extra = extra_tensors(source, family, dims)
    if extra and not allowed:
        raise ValueError(
            f"{source.given} has tensors that {family.architecture} does not know: {some(extra)}. To leave "
            f"them out, {way_out}"
        )
    if dims.tied and {HEAD, EMBEDDING} <= source.tensors.keys() and not source.same(EMBEDDING, HEAD):
        raise ValueError(
            f"{HEAD} of {source.given} differs from {EMBEDDING}, but config.json ties them; set "
            "tie_word_embeddings to false there if the head is to be its own"
        )
