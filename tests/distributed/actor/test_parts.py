"""Parts of the actor that import Megatron-Core but need no ranks."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.actor.compute.grouping import Size, cost, parts_of_groups, plan_micro_batches
from megatron_coreward.actor.compute.optimizer import learning_rate
from megatron_coreward.actor.compute.packing import pack
from megatron_coreward.actor.compute.sharding import balanced_owners
from megatron_coreward.actor.model.attention import attend, sdpa, varlen
from megatron_coreward.actor.model.packed_row import PackedRow, Sequences
from megatron_coreward.actor.weights.kinds import merge, split
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.families.mapping import FusedQKV, GatedMLP, Kind, Replicated, Split, Vocabulary
from megatron_coreward.types import WeightedResponse
from tests.distributed.actor.actor_runs import random_responses
from tests.support.pretended.attention import varlen_attn

# Micro-batches


def sizes_of(rows: list[tuple[int, int, int]]) -> list[Size]:
    """From prompt, its tokens (one number for all that share it) and the response's tokens."""
    tokens = {prompt: length for prompt, length, _ in rows}
    return [Size(prompt, tokens[prompt], response) for prompt, _, response in rows]


ROWS = st.lists(st.tuples(st.integers(0, 5), st.integers(1, 30), st.integers(0, 60)))


@given(ROWS, st.integers(1, 100), st.booleans())
def test_every_response_is_in_one_micro_batch_within_the_budget(rows, budget, share):
    sizes = sizes_of(rows)
    plan = plan_micro_batches(sizes, budget, share)
    assert sorted(i for parts in plan for part in parts for i in part) == list(range(len(sizes)))
    for parts in plan:
        responses = [i for part in parts for i in part]
        assert sum(cost(part, sizes) for part in parts) <= budget or len(responses) == 1
        for part in parts:
            assert len({sizes[i].prompt for i in part}) == 1
            assert share or len(part) == 1


@given(ROWS, st.integers(1, 100))
def test_a_group_is_cut_only_when_it_is_over_the_limit(rows, limit):
    sizes = sizes_of(rows)
    parts = parts_of_groups(sizes, limit, share=True)
    for prompt in {size.prompt for size in sizes}:
        group = [i for i, size in enumerate(sizes) if size.prompt == prompt]
        of_group = [part for part in parts if sizes[part[0]].prompt == prompt]
        assert sorted(i for part in of_group for i in part) == group
        assert (len(of_group) == 1) or cost(group, sizes) > limit


def test_a_group_is_cut_into_equal_parts_that_repeat_the_prompt():
    sizes = [Size("q", 10, n) for n in (9, 1, 5, 5)]
    assert parts_of_groups(sizes, 30, share=True) == [[0, 1, 2, 3]]
    assert parts_of_groups(sizes, 29, share=True) == [[0, 1], [2, 3]]
    assert parts_of_groups(sizes, 15, share=True) == [[0], [2], [3], [1]]


def test_the_costliest_part_first_into_the_first_micro_batch_with_room():
    sizes = [Size(i, 1, n) for i, n in enumerate([2, 8, 4, 1, 3])]
    assert plan_micro_batches(sizes, 10, share=True) == [[[1]], [[2], [4]], [[0], [3]]]


def test_a_response_over_the_budget_has_a_micro_batch_of_its_own():
    sizes = [Size("q", 1, n) for n in (0, 49, 0)]
    assert plan_micro_batches(sizes, 10, share=False) == [[[1]], [[0], [2]]]
    assert plan_micro_batches(sizes, 10, share=True) == [[[1]], [[0, 2]]]


def test_no_responses_still_make_one_micro_batch():
    assert plan_micro_batches([], 10, share=True) == [[]]


@pytest.mark.parametrize("multiple", [1, 2, 16])
@pytest.mark.parametrize(
    "parts", [[[3], [0], [7], [5]], [[6, 7], [3], [0, 1]], [[0, 1], [2, 3], [4, 5], [6, 7]]]
)
def test_every_token_attends_to_its_own_sequence_only(multiple, parts):
    """What each row sees, written out as a mask, against the responses one by one."""
    responses = random_responses(seed=5, pairs=2, samples=2, vocab=300)
    micro_batch = pack(make_batch([WeightedResponse(r) for r in responses]), parts, multiple)
    tokens_N, row = micro_batch.tokens_1N[0], micro_batch.packed
    assert len(tokens_N) % multiple == 0
    sees = visible(row, len(tokens_N))
    places = iter(micro_batch.rows_T.tolist())
    targets = iter(micro_batch.targets_T.tolist())
    for response in (responses[i] for part in parts for i in part):
        ids = [*response.prompt_ids, *response.response_ids.tolist()]
        for end in range(len(response.prompt_ids), len(ids)):
            seen = sees[next(places)].nonzero()[:, 0]
            assert tokens_N[seen].tolist() == ids[:end]
            assert row.positions_N[seen].tolist() == list(range(end))
            assert next(targets) == ids[end]
    assert next(places, None) is next(targets, None) is None
    prompts = sum(len(responses[part[0]].prompt_ids) for part in parts)
    shared = prompts + sum(len(responses[i].response_ids) for part in parts for i in part)
    assert len(tokens_N) == shared + -shared % multiple, "each prompt once"


def visible(row: PackedRow, tokens: int) -> torch.Tensor:
    """Which tokens each token of the row attends to, [N, N]."""
    sees = torch.zeros(tokens, tokens, dtype=torch.bool)
    whole = sum(row.trunks.queries)
    pieces = [(row.trunks, torch.arange(whole), 0)]
    pieces += [(row.branches, row.branch_keys_C, whole)] if row.branches is not None else []
    for sequences, rows, first in pieces:
        assert sequences.query_ends.diff().tolist() == list(sequences.queries)
        assert sequences.key_ends.diff().tolist() == list(sequences.keys)
        for keys, queries in zip(rows.split(sequences.keys), sequences.queries, strict=True):
            for query in range(queries):
                sees[first + query, keys[: len(keys) - queries + query + 1]] = True
            first += queries
    return sees


@pytest.mark.parametrize("multiple", [1, 2])
def test_an_empty_micro_batch_has_tokens_but_no_rows(multiple):
    micro_batch = pack(make_batch([]), [], multiple)
    assert micro_batch.tokens_1N.shape == (1, multiple)
    assert len(micro_batch.rows_T) == len(micro_batch.targets_T) == len(micro_batch.batch.advantages_R) == 0


def test_attention_is_that_of_the_formula_and_a_spoiled_response_reaches_no_other():
    """Values and gradients in float64 against softmax over an explicit mask."""
    responses = random_responses(seed=6, pairs=2, samples=3, vocab=300)
    parts = [[0, 1, 2], [3, 4], [5], [6, 7, 8], [9, 10, 11]]
    micro_batch = pack(make_batch([WeightedResponse(r) for r in responses]), parts, 4)
    row, tokens = micro_batch.packed, micro_batch.tokens_1N.shape[1]
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(tokens, 1, heads, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        for heads in (4, 2, 2)
    )

    def kernel(q, k, v, sequences):
        return sdpa(q, k, v, sequences, 8**-0.5)

    found = attend(kernel, q, k, v, row)
    keys, values = (x[:, 0].repeat_interleave(2, dim=1) for x in (k, v))
    scores = torch.einsum("qhd,chd->hqc", q[:, 0], keys) * 8**-0.5
    weights = scores.masked_fill(~visible(row, tokens), -torch.inf).softmax(-1)
    expected = torch.einsum("hqc,chd->qhd", weights, values).reshape(tokens, 1, -1)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    noise = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    for ours, oracle in zip(
        torch.autograd.grad((found * noise).sum(), (q, k, v)),
        torch.autograd.grad((expected * noise).sum(), (q, k, v)),
        strict=True,
    ):
        torch.testing.assert_close(ours, oracle, atol=1e-12, rtol=0)

    first = sum(row.trunks.queries)
    spoiled = slice(first, first + row.branches.queries[0])
    with torch.no_grad():
        k[spoiled], v[spoiled] = torch.nan, torch.nan
        again = attend(kernel, q, k, v, row)
    assert again[spoiled].isnan().any()
    again[spoiled] = found.detach()[spoiled]
    assert torch.equal(again, found.detach())


def test_the_gpu_kernel_is_called_as_torch_wants_it():
    """By the stand-in of the pretended device, which has the real signature."""
    sequences = Sequences.of([3, 2], [3, 6])
    q, k, v = (torch.randn(rows, heads, 8, dtype=torch.bfloat16) for rows, heads in ((5, 4), (9, 2), (9, 2)))
    with mock.patch.object(torch.nn.attention.varlen, "varlen_attn", varlen_attn):
        found = varlen(q, k, v, sequences, 0.3)
    assert torch.equal(found, sdpa(q, k, v, sequences, 0.3))


# Owners


def keys_of(rows: list[tuple[int, int, int]]) -> dict[tuple[int, str, int], Size]:
    return {(size.prompt, "original", i): size for i, size in enumerate(sizes_of(rows))}


@given(ROWS, st.integers(1, 8), st.integers(1, 100), st.booleans(), st.randoms())
def test_owners_are_balanced_and_depend_on_the_set_only(rows, ranks, budget, share, rng):
    sizes = keys_of(rows)
    config = OptimizerConfig(micro_batch_tokens=budget, share_prompts=share)
    owners = balanced_owners(sizes, ranks, config)
    assert owners.keys() == sizes.keys()
    assert set(owners.values()) <= set(range(ranks))
    shuffled = list(sizes.items())
    rng.shuffle(shuffled)
    assert balanced_owners(dict(shuffled), ranks, config) == owners


def test_groups_stay_whole_and_few_large_ones_are_cut():
    many = keys_of([(prompt, 5, 3) for prompt in range(6) for _ in range(4)])
    owners = balanced_owners(many, 2, OptimizerConfig())
    assert all(len({owners[key] for key in many if key[0] == prompt}) == 1 for prompt in range(6))
    assert sorted(owners.values()) == [0] * 12 + [1] * 12
    one = keys_of([(0, 5, 3)] * 4)
    assert sorted(balanced_owners(one, 2, OptimizerConfig()).values()) == [0, 0, 1, 1]


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
