"""A weight sync's bytes against a brute-force count, the rows that it leaves NaN, and its peak memory."""

import math
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from megatron_coreward.actor import parallel
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.actor.weights.kinds import split
from megatron_coreward.actor.weights.load import LoadedModel, load_model, local_entries, source_names
from megatron_coreward.actor.weights.stream import WeightExporter
from megatron_coreward.config.schema import ModelConfig, ParallelConfig
from megatron_coreward.types import Traffic
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

RANKS = 4
# Cuts inside a key/value group (TP4), padded vocabularies on both sides, stages of 2 and 1 layers.
SIZES = {"heads": 4, "kv_heads": 2, "head_dim": 8, "vocab": 301, "hidden_size": 16, "layers": 3}
MODELS = {
    "qwen2 tied": {"family": "qwen2", "tied": True},
    "qwen3 untied": {"family": "qwen3", "tied": False},
    "even vocabulary": {"family": "llama", "tied": True, "vocab": 512},
}
LAYOUTS = {
    "TP1 PP1": ParallelConfig(),
    "TP2 PP1": ParallelConfig(tensor=2),
    "TP4 PP1": ParallelConfig(tensor=4),
    "TP1 PP2": ParallelConfig(pipeline=2),
    "TP2 PP2": ParallelConfig(tensor=2, pipeline=2),
}
ROLLOUT_SIZES = (1, 2, 4)
BUCKET = 20_000  # bytes; the embedding is larger
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Seen:
    """One rank's view of one sync."""

    traffic: Traffic
    counted: Traffic
    """The same by watching the collectives, and the minimum by numbering the elements."""
    wrong: list[str]
    """Tensors whose part for this rank's engine is not the file's, bit for bit."""
    nan: int
    order: list[int]
    """Layers in the order of the stream."""
    alive: int
    """Most bytes that were alive of what the exporter had made room for."""
    largest: int
    """Bytes of the largest tensor."""


def engine_part(name: str, whole: torch.Tensor, rank: int, size: int, kv_heads: int) -> torch.Tensor:
    """What vLLM keeps of a tensor, written down from its documentation rather than from our code."""
    if "norm" in name:
        return whole
    if name in (EMBEDDING, HEAD):
        rows = math.ceil(len(whole) / 64) * 64 // size
        return whole[rank * rows : (rank + 1) * rows]
    if "o_proj" in name or "down_proj" in name:
        return whole.chunk(size, 1)[rank]
    if ("k_proj" in name or "v_proj" in name) and kv_heads < size:
        return whole.chunk(kv_heads)[rank * kv_heads // size]
    return whole.chunk(size)[rank]


def minimum(model: LoadedModel, layout: Layout, file: Tensors, rollout_size: int) -> int:
    """Numbers every element of the model and looks which numbers are missing on this rank."""
    numbers, start = {}, 0
    for name, tensor in file.items():
        numbers[name] = torch.arange(start, start + tensor.numel()).view(tensor.shape) + 1  # 0 is padding
        start += tensor.numel()
    have = set()
    for entry in local_entries(model.module, model.shape, layout):
        whole = [numbers[name] for name in source_names(entry, model.shape)]
        shard = split(entry.mapping.kind, whole, model.shape, layout.tp_rank, layout.tp_size)
        have |= set(shard.flatten().tolist())
    need = set()
    for name, whole in numbers.items():
        part = engine_part(name, whole, dist.get_rank() % rollout_size, rollout_size, model.shape.kv_heads)
        need |= set(part.flatten().tolist())
    return 4 * len(need - have)


@contextmanager
def watched_collectives(counted: list[Traffic]) -> Iterator[None]:
    """Counts what dist.broadcast is given."""
    broadcast = dist.broadcast

    def count(tensor: torch.Tensor, src: int, group: Any, **options: Any) -> Any:
        if src == dist.get_rank():
            counted.append(Traffic(sent=tensor.nbytes * (dist.get_world_size(group) - 1)))
        else:
            counted.append(Traffic(received=tensor.nbytes))
        return broadcast(tensor, src, group=group, **options)

    with mock.patch.object(dist, "broadcast", count):
        yield


@contextmanager
def watched_rooms(peak: list[int]) -> Iterator[None]:
    """Follows the life of every tensor that the exporter makes room for.

    Gloo's threads let go of a tensor a moment after the collective is done, so that moment is waited for.
    """
    make, alive = WeightExporter._room, [0]

    def settle(most: int) -> None:
        deadline = time.monotonic() + 5
        while alive[0] > most and time.monotonic() < deadline:
            time.sleep(0.001)

    def release(num_bytes: int) -> None:
        alive[0] -= num_bytes

    def watch(exporter: WeightExporter, entry: Any) -> torch.Tensor:
        room = make(exporter, entry)
        settle(max(BUCKET, room.nbytes) - room.nbytes)
        alive[0] += room.nbytes
        peak[0] = max(peak[0], alive[0])
        weakref.finalize(room, release, room.nbytes)
        return room

    with mock.patch.object(WeightExporter, "_room", watch):
        yield
    settle(0)
    assert alive[0] == 0, "the exporter keeps what it has streamed"


def sync(model: LoadedModel, layout: Layout, file: Tensors, rollout_size: int) -> Seen:
    exporter = WeightExporter(model, layout, BUCKET, rollout_size)
    counted: list[Traffic] = []
    wrong, order, nan, peak = [], [], 0, [0]
    rank, kv_heads = dist.get_rank() % rollout_size, model.shape.kv_heads
    with watched_collectives(counted), watched_rooms(peak):
        for name, tensor in exporter.export(for_engine=True):
            mine, right = (engine_part(name, t, rank, rollout_size, kv_heads) for t in (tensor, file[name]))
            wrong += [] if torch.equal(mine, right) else [name]
            nan += int(tensor.isnan().sum())
            order += [int(name.split(".")[2])] if ".layers." in name else []
            del tensor, mine
    total = sum(counted, Traffic())
    least = minimum(
        model, layout, {n: t for n, t in file.items() if n in exporter_names(model)}, rollout_size
    )
    return Seen(
        exporter.traffic,
        replace(total, minimum=least),
        wrong,
        nan,
        order,
        peak[0],
        max(tensor.nbytes for tensor in file.values()),
    )


def exporter_names(model: LoadedModel) -> set[str]:
    """The tensors of a file of this model: a tied one has no head."""
    layers = range(model.shape.layers)
    names = {
        name.format(layer=i) for mapping in model.shape.family.mappings for name in mapping.hf for i in layers
    }
    return names - {HEAD} if model.shape.tied else names


def other_bucket_on_one_rank(model: LoadedModel, layout: Layout, rank: int) -> str:
    with pytest.raises(AssertionError) as error:
        WeightExporter(model, layout, BUCKET if rank else 2 * BUCKET)
    return str(error.value)


def work(rank: int, folders: dict[str, Path]) -> tuple[dict[tuple, Seen], str]:
    torch.use_deterministic_algorithms(True)  # fills what is not defined with NaN
    seen = {}
    for layout_name, config in LAYOUTS.items():
        layout = parallel.initialize(config)
        for name, folder in folders.items():
            model = load_model(ModelConfig(str(folder)), layout)
            file = load_file(folder / "model.safetensors")
            file.setdefault(HEAD, file[EMBEDDING])
            for size in ROLLOUT_SIZES:
                seen[name, layout_name, size] = sync(model, layout, file, size)
        message = other_bucket_on_one_rank(model, layout, rank)
        parallel.destroy()
    return seen, message


@pytest.fixture(scope="module")
def by_rank(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[tuple, Seen], str]]:
    root = tmp_path_factory.mktemp("models")
    folders = {name: tiny_model(root / name, **(SIZES | settings)) for name, settings in MODELS.items()}
    return run_ranks(RANKS, work, folders, timeout_s=300)


@pytest.mark.parametrize("size", ROLLOUT_SIZES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("model", MODELS)
def test_what_travels(model, layout, size, by_rank):
    ranks = [seen[model, layout, size] for seen, _ in by_rank]
    for seen in ranks:
        assert seen.wrong == []
        assert seen.traffic == seen.counted
        assert seen.order == sorted(seen.order)
    assert sum(seen.traffic.sent for seen in ranks) == sum(seen.traffic.received for seen in ranks)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rollout_on_every_rank_gets_no_byte_too_many(layout, by_rank):
    for seen, _ in by_rank:
        traffic = seen["even vocabulary", layout, 1].traffic
        assert traffic.received == traffic.minimum


@pytest.mark.parametrize(("layout", "size"), [("TP1 PP1", 1), ("TP2 PP1", 2), ("TP4 PP1", 4)])
def test_equal_tensor_parallelism_sends_nothing(layout, size, by_rank):
    for seen, _ in by_rank:
        one = seen["even vocabulary", layout, size]
        if layout == "TP4 PP1":  # more ranks than key/value heads: vLLM repeats heads, Megatron cuts them
            assert one.traffic.received > 0
        else:
            assert one.traffic.received == one.traffic.minimum == 0
        assert (one.nan > 0) == (size > 1)


def test_no_more_than_a_bucket_is_alive(by_rank):
    for seen, _ in by_rank:
        for one in seen.values():
            assert one.alive <= max(BUCKET, one.largest)
    assert max(one.alive for one in by_rank[0][0].values()) > BUCKET / 2


def test_ranks_that_planned_differently_are_told(by_rank):
    for _, message in by_rank:
        assert "on ranks [1, 2, 3]" in message
        assert "weight_sync.bucket_mb" in message
