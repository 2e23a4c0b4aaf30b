"""Kinds of mapping between Hugging Face tensors and one Megatron parameter.

A family (llama.py, qwen2.py, qwen3.py) is a table of `Mapping`s. Four consumers read it: loading,
exporting, converting and weight sync. A kind knows how one parameter is split over tensor-parallel
ranks; the collectives that bring shards together (actor/weights/stream.py) are the same for every kind, so a
table has no communication in it.

Shape words: V vocabulary, padded_V the vocabulary padded to a multiple of TP, H query heads, K key/value
heads, D head size.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dims:
    """The sizes that a mapping needs to know."""

    num_layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    padded_vocab: int
    tied: bool
    experts: int = 0
    """Per layer, in a Mixture of Experts."""


class Kind(Protocol):
    """How HF tensors and the TP shards of one Megatron parameter relate."""

    sharded: bool
    """False: every TP rank holds the same whole tensor."""

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        """Hugging Face tensors -> this TP rank's shard."""

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        """Shards of all TP ranks, in order -> Hugging Face tensors."""


class Replicated:
    """The same on every TP rank: norms."""

    sharded = False

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        return tensors[0]

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        return [shards[0]]


@dataclass(frozen=True)
class Split:
    """Cut along one dimension: 0 for column-parallel weights and biases, 1 for row-parallel weights."""

    dim: int
    sharded = True

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        return tensors[0].chunk(tp_size, dim=self.dim)[tp_rank]

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        return [_join(shards, self.dim)]


class Vocabulary:
    """Embedding and head: rows padded with zeros to a multiple of TP, then cut along the rows."""

    sharded = True

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        rows = dims.padded_vocab // tp_size
        part = tensors[0][tp_rank * rows : (tp_rank + 1) * rows]
        missing = rows - part.shape[0]
        return torch.nn.functional.pad(part, (0, 0, 0, missing)) if missing else part

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        return [_join(shards)[: dims.vocab]]


class FusedQKV:
    """q, k, v (weights or biases) -> Megatron's order: per key/value head its query heads, then k, then v.

    Cut evenly, wherever the cuts fall: with fewer key/value heads than TP ranks they fall inside a key/value
    head's group, and Megatron gathers the outputs of all ranks before it takes heads from them (numerics 14).
    """

    sharded = True

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        query, key, value = (t.view(dims.kv_heads, -1, *t.shape[1:]) for t in tensors)
        fused = torch.cat([query, key, value], dim=1)  # [K, (H/K + 2) D, ...]
        return fused.flatten(0, 1).chunk(tp_size)[tp_rank]

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        fused = _join(shards)
        fused = fused.view(dims.kv_heads, -1, *fused.shape[1:])
        parts = fused.split(
            [dims.heads // dims.kv_heads * dims.head_dim, dims.head_dim, dims.head_dim], dim=1
        )
        return [part.flatten(0, 1) for part in parts]


class GatedMLP:
    """gate and up projections: each rank holds its part of gate, then its part of up."""

    sharded = True

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        return torch.cat([t.chunk(tp_size)[tp_rank] for t in tensors])

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
        return [_join(gates), _join(ups)]


class ExpertGatedMLP:
    """gate and up projections of one expert, which is whole on its expert-parallel rank.

    vLLM divides them over its tensor-parallel ranks along `engine_dim`.
    """

    sharded = False
    engine_dim = 0

    def split(self, tensors: Sequence[Tensor], dims: Dims, tp_rank: int, tp_size: int) -> Tensor:
        return torch.cat(list(tensors))

    def merge(self, shards: Sequence[Tensor], dims: Dims) -> list[Tensor]:
        return list(shards[0].chunk(2))


class ExpertDown(Replicated):
    """The down projection of one expert, whole as well."""

    engine_dim = 1


def _join(shards: Sequence[Tensor], dim: int = 0) -> Tensor:
    """One shard is not copied: the embedding of a large model takes gigabytes."""
    return shards[0] if len(shards) == 1 else torch.cat(list(shards), dim=dim)


@dataclass(frozen=True)
class Mapping:
    """One Megatron parameter and the HF tensors it is made of.

    `{layer}` and `{expert}` are numbers: in the whole model on the side of Hugging Face, on this rank on
    Megatron's.
    """

    megatron: str
    hf: tuple[str, ...]
    kind: Kind

    @property
    def of_expert(self) -> bool:
        return "{expert}" in self.megatron


@dataclass(frozen=True)
class Family:
    """One model family: its table and what its architecture adds to Megatron's configuration."""

    architecture: str
    mappings: tuple[Mapping, ...]
    add_qkv_bias: bool = False
    qk_layernorm: bool = False
