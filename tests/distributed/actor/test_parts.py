"""Parts of the actor that import Megatron-Core but need no ranks."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.actor.compute.optimizer import learning_rate
from megatron_coreward.actor.compute.packing import pack, plan_micro_batches
from megatron_coreward.actor.compute.sharding import balanced_owners
from megatron_coreward.actor.weights.kinds import merge, split
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.families.mapping import FusedQKV, GatedMLP, Kind, Replicated, Split, Vocabulary
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import random_responses

CPU = torch.device("cpu")


# Micro-batches


@given(st.lists(st.integers(1, 60)), st.integers(1, 100))
def test_every_response_is_in_one_micro_batch_within_the_budget(lengths, budget):
    plan = plan_micro_batches(lengths, budget)
    assert sorted(index for indices in plan for index in indices) == list(range(len(lengths)))
    for indices in plan:
        assert sum(lengths[i] for i in indices) <= budget or len(indices) == 1


def test_longest_first_into_the_first_micro_batch_with_room():
    assert plan_micro_batches([3, 9, 5, 2, 4], budget=10) == [[1], [2, 4], [0, 3]]


def test_a_response_over_the_budget_has_a_micro_batch_of_its_own():
    assert plan_micro_batches([1, 50, 1], budget=10) == [[1], [0, 2]]


def test_no_responses_still_make_one_micro_batch():
    assert plan_micro_batches([], budget=10) == [[]]


@pytest.mark.parametrize("multiple", [1, 2, 8])
def test_rows_are_the_positions_that_predict_the_response_tokens(multiple):
    responses = random_responses(seed=5, pairs=2, samples=2, vocab=300)
    indices = [3, 0, 7, 5]
    micro_batch = pack(make_batch([WeightedResponse(r) for r in responses]), indices, multiple, CPU)
    tokens_N = micro_batch.tokens_1N[0]
    assert len(tokens_N) % multiple == 0
    expected_targets, expected_rows, start = [], [], 0
    for response in (responses[i] for i in indices):
        prompt, end = len(response.prompt_ids), start + response.num_tokens
        assert tokens_N[start : start + prompt].tolist() == list(response.prompt_ids)
        assert micro_batch.positions_1N[0, start:end].tolist() == list(range(response.num_tokens))
        expected_rows += range(start + prompt - 1, end - 1)
        expected_targets += response.response_ids.tolist()
        start = end
    assert micro_batch.rows_T.tolist() == expected_rows
    assert micro_batch.targets_T.tolist() == expected_targets
    boundaries = micro_batch.packed.cu_seqlens_q.tolist()
    assert boundaries[-1] == len(tokens_N)
    assert start in boundaries, "the filling belongs to no response"
    assert micro_batch.packed.max_seqlen_q == max(np.diff(boundaries))


@pytest.mark.parametrize("multiple", [1, 2])
def test_an_empty_micro_batch_has_tokens_but_no_rows(multiple):
    micro_batch = pack(make_batch([]), [], multiple, CPU)
    assert micro_batch.tokens_1N.shape == (1, multiple)
    assert len(micro_batch.rows_T) == len(micro_batch.targets_T) == len(micro_batch.batch.advantages_R) == 0


# Owners


def keys_of(sizes: list[int]) -> dict[tuple[int, str, int], int]:
    return {(i // 4, ("original", "rephrased")[i % 2], i % 4 // 2): size for i, size in enumerate(sizes)}


@given(st.lists(st.integers(1, 1000)), st.integers(1, 8), st.randoms())
def test_owners_are_balanced_and_depend_on_the_set_only(lengths, ranks, rng):
    sizes = keys_of(lengths)
    owners = balanced_owners(sizes, ranks)
    assert owners.keys() == sizes.keys()
    load = [sum(sizes[key] for key, owner in owners.items() if owner == rank) for rank in range(ranks)]
    assert max(load) - min(load) <= max(lengths, default=0)
    shuffled = list(sizes.items())
    rng.shuffle(shuffled)
    assert balanced_owners(dict(shuffled), ranks) == owners


# Mappings


SHAPE = ModelShape(
    folder=Path("model"),
    architecture="LlamaForCausalLM",
    layers=2,
    hidden=20,
    intermediate=48,
    heads=12,
    kv_heads=4,
    head_dim=6,
    vocab=301,
    tied=False,
    max_positions=64,
)


KINDS: dict[str, tuple[Kind, list[tuple[int, ...]]]] = {  # with the shapes of the HF tensors
    "replicated": (Replicated(), [(20,)]),
    "column": (Split(dim=0), [(48, 20)]),
    "column bias": (Split(dim=0), [(48,)]),
    "row": (Split(dim=1), [(20, 72)]),
    "vocabulary": (Vocabulary(), [(301, 20)]),
    "qkv": (FusedQKV(), [(72, 20), (24, 20), (24, 20)]),
    "qkv bias": (FusedQKV(), [(72,), (24,), (24,)]),
    "gated mlp": (GatedMLP(), [(48, 20), (48, 20)]),
}


@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("name", KINDS)
def test_merge_undoes_split(name, tp_size):
    kind, shapes = KINDS[name]
    tensors = [torch.randn(shape) for shape in shapes]
    shards = [split(kind, tensors, SHAPE, rank, tp_size) for rank in range(tp_size)]
    assert len({shard.shape for shard in shards}) == 1, "Megatron's shards have one shape"
    whole = sum(tensor.numel() for tensor in tensors)
    if kind.sharded:
        assert shards[0].numel() * tp_size >= whole
    else:
        assert all(torch.equal(shard, tensors[0]) for shard in shards)
    merged = merge(kind, shards, SHAPE)
    assert len(merged) == len(tensors)
    assert all(torch.equal(one, other) for one, other in zip(merged, tensors, strict=True))


def test_fused_qkv_lies_by_key_value_head():
    shape = replace(SHAPE, heads=4, kv_heads=2, head_dim=1)
    query, key, value = torch.tensor([10, 11, 20, 21]), torch.tensor([12, 22]), torch.tensor([13, 23])
    assert split(FusedQKV(), [query, key, value], shape, 1, 2).tolist() == [20, 21, 22, 23]


def test_gated_mlp_holds_its_gate_then_its_up():
    gate, up = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])
    assert split(GatedMLP(), [gate, up], SHAPE, 1, 2).tolist() == [3, 4, 7, 8]


@pytest.mark.parametrize(
    ("vocab", "rows"), [(5, [[0, 1], [2, 3], [4], []]), (7, [[0, 1], [2, 3], [4, 5], [6]])]
)
def test_the_padding_of_a_vocabulary_is_zero(vocab, rows):
    table = torch.arange(vocab)[:, None] + 100.0
    for rank, own in enumerate(rows):
        shard = split(Vocabulary(), [table], replace(SHAPE, vocab=vocab), rank, 4)
        assert shard[:, 0].tolist() == [100.0 + row for row in own] + [0.0] * (2 - len(own))


# Learning rate


def rates(total: int, **settings) -> list[float]:
    config = OptimizerConfig(lr=1.0, **settings)
    return [learning_rate(config, step, total) for step in range(total)]


def test_warm_up_starts_above_zero_and_ends_at_the_peak():
    assert rates(10, warmup_ratio=0.4, schedule="constant") == [0.25, 0.5, 0.75] + [1.0] * 7


def test_the_cosine_falls_from_the_peak_towards_the_floor():
    after = rates(10, warmup_ratio=0.2, schedule="cosine", min_lr=0.2)[2:]
    assert after[0] == 1.0
    assert after == sorted(after, reverse=True)
    assert after[4] == pytest.approx(0.6)  # half of the way
    config = OptimizerConfig(lr=1.0, warmup_ratio=0.2, schedule="cosine", min_lr=0.2)
    assert learning_rate(config, 10, 10) == learning_rate(config, 99, 10) == pytest.approx(0.2)


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_a_single_step_without_warm_up_has_the_peak_rate(schedule):
    assert rates(1, schedule=schedule) == [1.0]
