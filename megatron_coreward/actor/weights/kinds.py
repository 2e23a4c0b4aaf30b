"""Tensors of each kind of mapping (families/mapping.py): from Hugging Face to a TP rank's shard and back.

`split` and `merge` are exact inverses, and the shards of a parameter have one shape on all TP ranks. The
collectives that bring shards together (stream.py) are the same for every kind, so there is no communication
here. Shape words: K key/value heads, H query heads, D head size.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.families.mapping import (
    ExpertDown,
    ExpertGatedMLP,
    FusedQKV,
    GatedMLP,
    Kind,
    Replicated,
    Split,
    Vocabulary,
)


def split(kind: Kind, tensors: Sequence[Tensor], shape: ModelShape, tp_rank: int, tp_size: int) -> Tensor:
    """The shard of a TP rank from the Hugging Face tensors."""
    match kind:
        case Replicated() | ExpertDown():
            return tensors[0]
        case Split(dim=dim):
            return tensors[0].chunk(tp_size, dim=dim)[tp_rank]
        case Vocabulary():
            rows = shape.padded_vocab(tp_size) // tp_size
            shard = tensors[0][tp_rank * rows : (tp_rank + 1) * rows]
            missing = rows - shard.shape[0]
            return torch.nn.functional.pad(shard, (0, 0, 0, missing)) if missing else shard
        case FusedQKV():
            query, key, value = (t.view(shape.kv_heads, -1, *t.shape[1:]) for t in tensors)
            fused = torch.cat([query, key, value], dim=1)  # [K, (H/K + 2) D, ...]
            return fused.flatten(0, 1).chunk(tp_size)[tp_rank]
        case GatedMLP():
            return torch.cat([t.chunk(tp_size)[tp_rank] for t in tensors])
        case ExpertGatedMLP():
            return torch.cat(list(tensors))


def merge(kind: Kind, shards: Sequence[Tensor], shape: ModelShape) -> list[Tensor]:
    """The Hugging Face tensors from the shards of all TP ranks, in order."""
    match kind:
        case Replicated() | ExpertDown():
            return [shards[0]]
        case Split(dim=dim):
            return [_join(shards, dim)]
        case Vocabulary():
            return [_join(shards)[: shape.vocab]]
        case FusedQKV():
            fused = _join(shards)
            fused = fused.view(shape.kv_heads, -1, *fused.shape[1:])
            queries = shape.heads // shape.kv_heads * shape.head_dim
            tensors = fused.split([queries, shape.head_dim, shape.head_dim], dim=1)
            return [tensor.flatten(0, 1) for tensor in tensors]
        case GatedMLP():
            gates, ups = zip(*(shard.chunk(2) for shard in shards), strict=True)
            return [_join(gates), _join(ups)]
        case ExpertGatedMLP():
            return list(shards[0].chunk(2))


def _join(shards: Sequence[Tensor], dim: int = 0) -> Tensor:
    """One shard is not copied: the embedding of a large model takes gigabytes."""
    return shards[0] if len(shards) == 1 else torch.cat(list(shards), dim=dim)
