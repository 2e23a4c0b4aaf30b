"""The rows of every tensor that an actor rank holds and a rollout rank needs, and the bytes in between.

Both sides cut a tensor into equal parts along one dimension; "rows" are the indices along it. The actor cuts
as its family's table says (families/mapping.py). The engine's cut is that of vLLM's tensor parallelism: the
vocabulary is padded to a multiple of 64 first, and a key/value head goes to several ranks where there are
fewer heads than ranks.

The minimum of a sync is what a rank's rollout shard is made of, less what its actor shard holds, in bytes;
a tied head is the embedding and counts once. No order of sending needs less, unless it compresses.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from megatron_coreward.actor.weights.kinds import merge
from megatron_coreward.actor.weights.load import Entry, hf_shapes
from megatron_coreward.config.model_shape import VLLM_VOCABULARY_MULTIPLE, ModelShape
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


@dataclass(frozen=True)
class EngineRank:
    """A rank's place in its vLLM replica."""

    rank: int
    size: int


def cut_dimension(kind: Kind) -> int:
    if isinstance(kind, Split):
        return kind.dim
    return kind.engine_dim if isinstance(kind, ExpertGatedMLP | ExpertDown) else 0


def actor_rows(kind: Kind, index: int, size: int, shape: ModelShape, tp_rank: int, tp_size: int) -> range:
    """The rows of the entry's tensor number `index`, which has `size` of them, on a TP rank of the actor."""
    if not kind.sharded:
        return range(size)
    if isinstance(kind, Vocabulary):
        return _part(shape.padded_vocab(tp_size), tp_rank, tp_size, size)
    if isinstance(kind, FusedQKV):
        fused = _part((shape.heads + 2 * shape.kv_heads) * shape.head_dim, tp_rank, tp_size)
        return range(_rows_before(fused.start, index, shape), _rows_before(fused.stop, index, shape))
    return _part(size, tp_rank, tp_size)


def _rows_before(position: int, index: int, shape: ModelShape) -> int:
    """Rows of q, k or v (index 0, 1, 2) before a row of the fused tensor: q, k, v of the first group, ..."""
    queries = shape.heads // shape.kv_heads * shape.head_dim
    own = queries if index == 0 else shape.head_dim
    before = (0, queries, queries + shape.head_dim)[index]
    groups, rest = divmod(position, queries + 2 * shape.head_dim)
    return groups * own + min(max(rest - before, 0), own)


def engine_rows(kind: Kind, index: int, size: int, shape: ModelShape, engine: EngineRank) -> range:
    """The rows of the entry's tensor number `index` that vLLM keeps on a rank."""
    if isinstance(kind, Replicated):
        return range(size)
    if isinstance(kind, Vocabulary):
        padded = -(-size // VLLM_VOCABULARY_MULTIPLE) * VLLM_VOCABULARY_MULTIPLE
        return _part(padded, engine.rank, engine.size, size)
    is_key_or_value = isinstance(kind, FusedQKV) and index > 0
    if is_key_or_value and shape.kv_heads < engine.size:
        copies = engine.size // shape.kv_heads
        return _part(size, engine.rank // copies, shape.kv_heads)
    return _part(size, engine.rank, engine.size)


def needed_shards(entry: Entry, shape: ModelShape, tp_size: int, engine: EngineRank) -> set[int]:
    """The TP ranks whose shards have rows that the engine rank needs."""
    kind = entry.mapping.kind
    if _cuts_heads(kind, shape, tp_size):
        return set(range(tp_size))
    needed = set()
    for index, size in enumerate(_rows(entry, shape, tp_size)):
        wanted = engine_rows(kind, index, size, shape, engine)
        for tp_rank in range(tp_size):
            if _common(wanted, actor_rows(kind, index, size, shape, tp_rank, tp_size)):
                needed.add(tp_rank)
    return needed


def join_shards(entry: Entry, shards: Mapping[int, Tensor], shape: ModelShape, tp_size: int) -> list[Tensor]:
    """The entry's whole tensors from shards by TP rank; the rows of those that are missing stay undefined."""
    kind = entry.mapping.kind
    if len(shards) == tp_size or not kind.sharded:
        return merge(kind, [shards[tp_rank] for tp_rank in sorted(shards)], shape)
    assert not _cuts_heads(kind, shape, tp_size), "a part of the shards has no whole heads"
    wholes = undefined(entry, next(iter(shards.values())), shape, tp_size)
    for tp_rank, shard in shards.items():
        fill(wholes, entry, tp_rank, shard, shape, tp_size)
    return wholes


def undefined(entry: Entry, like: Tensor, shape: ModelShape, tp_size: int) -> list[Tensor]:
    """Memory for the entry's whole tensors, of the type and on the device of `like`."""
    return [like.new_empty(hf_shape) for hf_shape in hf_shapes(entry, shape, tp_size)]


def fill(
    wholes: list[Tensor], entry: Entry, tp_rank: int, shard: Tensor, shape: ModelShape, tp_size: int
) -> None:
    """Copies a TP rank's shard to its place in the whole tensors."""
    own = replace(shape, heads=shape.heads // tp_size, kv_heads=shape.kv_heads // tp_size)
    dim = cut_dimension(entry.mapping.kind)
    places = places_of(wholes, entry, tp_rank, shape, tp_size)
    for place, piece in zip(places, merge(entry.mapping.kind, [shard], own), strict=True):
        place.copy_(piece.narrow(dim, 0, place.shape[dim]))


def places_of(
    wholes: list[Tensor], entry: Entry, tp_rank: int, shape: ModelShape, tp_size: int
) -> list[Tensor]:
    """Views of the whole tensors: the rows that are in the shard of a TP rank."""
    kind = entry.mapping.kind
    dim, places = cut_dimension(kind), []
    for index, whole in enumerate(wholes):
        rows = actor_rows(kind, index, whole.shape[dim], shape, tp_rank, tp_size)
        places.append(whole.narrow(dim, rows.start, len(rows)))
    return places


def arrives_in_place(entry: Entry) -> bool:
    """Whether the rows of a shard lie next to each other in the whole tensors, so that no copy is needed."""
    kind = entry.mapping.kind
    return isinstance(kind, Vocabulary | GatedMLP) or (isinstance(kind, Split) and kind.dim == 0)


def _cuts_heads(kind: Kind, shape: ModelShape, tp_size: int) -> bool:
    """Fewer key/value heads than TP ranks: no shard of q, k and v can be taken apart alone."""
    return isinstance(kind, FusedQKV) and shape.kv_heads % tp_size != 0


def minimum_bytes(
    entries: Iterable[tuple[Entry, bool]],
    shape: ModelShape,
    actor: tuple[int, int],
    engine: EngineRank,
    itemsize: int,
) -> int:
    """Bytes that a rank has to receive.

    `entries` come with whether the rank's pipeline stage holds them; `actor` is its TP rank and their number.
    """
    tp_rank, tp_size = actor
    total = 0
    for entry, held in entries:
        kind = entry.mapping.kind
        for index, hf_shape in enumerate(hf_shapes(entry, shape, tp_size)):
            size = hf_shape[cut_dimension(kind)]
            wanted = engine_rows(kind, index, size, shape, engine)
            rows = len(wanted)
            if held:
                rows -= _common(wanted, actor_rows(kind, index, size, shape, tp_rank, tp_size))
            total += rows * (hf_shape.numel() // size) * itemsize
    return total


def _rows(entry: Entry, shape: ModelShape, tp_size: int) -> list[int]:
    return [hf_shape[cut_dimension(entry.mapping.kind)] for hf_shape in hf_shapes(entry, shape, tp_size)]


def _part(rows: int, rank: int, ranks: int, size: int | None = None) -> range:
    """Part `rank` of `rows` in equal parts; `size` where the tensor ends earlier, and the rest is padding."""
    assert rows % ranks == 0, f"{rows} rows in {ranks} equal parts"
    each, end = rows // ranks, rows if size is None else size
    return range(min(rank * each, end), min((rank + 1) * each, end))


def _common(first: range, second: range) -> int:
    return max(0, min(first.stop, second.stop) - max(first.start, second.start))
