"""Requests, their seeds, and the replica that draws them."""

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.requests import (
    ANSWERS,
    EVALUATION,
    PROBE,
    REPHRASING,
    TEACHER,
    TRAINING,
    VERIFICATION,
    Stream,
    make_requests,
    place,
    replica_of_rank,
    request_seed,
    requests_for,
)
from megatron_coreward.types import GenerationRequest, QuestionPair, View


def pair(pair_id: int, original: int, rephrased: int) -> QuestionPair:
    return QuestionPair(pair_id, "q", "r", tuple(range(original)), tuple(range(rephrased)))


@st.composite
def request_lists(draw) -> list[GenerationRequest]:
    lengths = draw(st.lists(st.tuples(st.integers(1, 300), st.integers(1, 300)), max_size=12))
    samples = draw(st.integers(1, 4))
    return make_requests([pair(i, *both) for i, both in enumerate(lengths)], samples, run_seed=1, step=0)


def group(request: GenerationRequest) -> tuple[int, str]:
    return (request.pair_id, request.view.value)


@given(request_lists(), st.integers(1, 5))
def test_every_request_is_placed_once_and_groups_stay_whole(requests, num_replicas):
    placed = place(requests, num_replicas)
    assert sorted((r for mine in placed for r in mine), key=lambda r: r.key) == requests
    homes = [{group(request) for request in mine} for mine in placed]
    assert sum(len(home) for home in homes) == len(set().union(*homes))


@given(request_lists(), st.integers(1, 5))
def test_replicas_draw_equally_many_groups_and_similar_prompts(requests, num_replicas):
    placed = place(requests, num_replicas)
    samples = 1 + max((request.sample for request in requests), default=0)
    counts = [len(mine) for mine in placed]
    assert max(counts) - min(counts) <= samples
    if len(set(counts)) == 1 and requests:
        tokens = [sum(len(request.prompt_ids) for request in mine) for mine in placed]
        assert max(tokens) - min(tokens) <= samples * max(len(request.prompt_ids) for request in requests)


@given(request_lists(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_placement_ignores_the_order_of_the_list(requests, num_replicas, rng: random.Random):
    shuffled = requests.copy()
    rng.shuffle(shuffled)
    assert place(shuffled, num_replicas) == place(requests, num_replicas)


def test_long_prompts_are_spread():
    requests = make_requests([pair(0, 100, 1), pair(1, 100, 1)], samples=2, run_seed=1, step=0)
    tokens = [sum(len(request.prompt_ids) for request in mine) for mine in place(requests, 2)]
    assert tokens == [202, 202]


def test_the_longest_expected_start_first_and_replicas_decode_equally_much():
    pairs = [pair(0, 9, 9), pair(1, 9, 9), pair(2, 9, 9)]
    expected = {"0/original": 10, "0/rephrased": 60, "1/original": 20, "1/rephrased": 30, "2/original": 40}
    requests = make_requests(pairs, samples=1, run_seed=1, step=0, expected=expected)

    def lengths(num_replicas: int) -> list[list[int]]:
        return [[request.expected_tokens for request in share] for share in place(requests, num_replicas)]

    assert lengths(1) == [[60, 40, 0, 30, 20, 10]], "the last group is unknown and counts as the mean, 32"
    assert lengths(2) == [[60, 30, 10], [40, 0, 20]]


def test_without_predictions_the_longest_prompts_start_first():
    requests = make_requests([pair(0, 5, 7), pair(1, 9, 1)], samples=2, run_seed=1, step=0)
    [placed] = place(requests, 1)
    assert [len(request.prompt_ids) for request in placed] == [9, 9, 7, 7, 5, 5, 1, 1]
    assert [request.sample for request in placed] == [0, 1] * 4


def test_a_request_listed_twice_is_refused():
    requests = make_requests([pair(0, 3, 4)], samples=1, run_seed=1, step=0)
    with pytest.raises(AssertionError, match="twice"):
        place(requests + requests[:1], 2)


def test_requests_cover_both_views_in_canonical_order():
    requests = make_requests([pair(7, 3, 4), pair(2, 5, 6)], samples=3, run_seed=1, step=5)
    assert len(requests) == 2 * 2 * 3
    assert all(before.key < after.key for before, after in pairwise(requests))
    lengths = {group(request): len(request.prompt_ids) for request in requests}
    assert lengths == {(2, "original"): 5, (2, "rephrased"): 6, (7, "original"): 3, (7, "rephrased"): 4}


def test_more_samples_leave_the_first_ones_as_they_were():
    few, many = (make_requests([pair(7, 3, 4)], samples, run_seed=1, step=5) for samples in (2, 5))
    assert [request for request in many if request.sample < 2] == few


def test_seeds_depend_on_every_part_and_fit_63_bits():
    base = (1, 2, 3, View.ORIGINAL, 4)
    others = [(9, *base[1:]), (1, 9, *base[2:]), (1, 2, 9, *base[3:]), (*base[:3], View.REPHRASED, 4)]
    others.append((*base[:4], 9))
    seeds = {request_seed(*parts) for parts in [base, *others]}
    assert len(seeds) == 6
    many = [request_seed(1, 0, pair_id, View.ORIGINAL, 0) for pair_id in range(2000)]
    assert len(set(many)) == 2000
    assert all(0 <= seed < 2**63 for seed in many)
    assert max(many) > 2**62  # the upper bits are used too


def test_seed_is_stable_across_processes_and_versions():
    assert request_seed(1, 2, 3, View.REPHRASED, 4) == 5378179196019716176


FIRST, SECOND = View.ORIGINAL, View.REPHRASED


@pytest.mark.parametrize(
    ("stream", "run_seed", "step", "prompts", "samples", "expected"),
    [
        (TRAINING, 7, 0, [FIRST], [3], [2823460811668885862]),
        (TRAINING, 7, 5, [SECOND], [3], [8651024229129086344]),
        (TEACHER, 7, 0, [FIRST], [3], [5336136571819690397]),
        (TEACHER, 7, 5, [SECOND], [3], [3091641332548064486]),
        (
            *(EVALUATION, 7, 0, [FIRST], [0, 1, 2, 3]),
            [8234381718289260072, 6425765119988019541, 7579736614639836223, 7581399347273879715],
        ),
        (
            PROBE,
            7,
            0,
            [FIRST, SECOND],
            [0, 1],
            [4179529133659414451, 2960431472472903636, 8488512764016714172, 9016237961932348384],
        ),
        (REPHRASING, 7, 0, [SECOND], [0, 1], [2170486826119244021, 4552306769819417740]),
        (
            *(ANSWERS, 7, 0, [FIRST, SECOND], [0, 1]),
            [4936165061146852842, 3819977295696253074, 8095023628373757386, 8983017990558163794],
        ),
        (
            *(ANSWERS, 7, 1, [FIRST, SECOND], [0, 1]),
            [4470941126388802578, 7121996350182057657, 1562667018988850576, 3034132275711422694],
        ),
        (VERIFICATION, 0, 0, [FIRST, SECOND], [0], [8477029112691017709, 4260310169066444196]),
    ],
)
def test_every_stream_draws_what_the_first_version_drew(
    stream: Stream, run_seed: int, step: int, prompts: list[View], samples: list[int], expected: list[int]
) -> None:
    requests = requests_for([(12, view, (1, 2)) for view in prompts], samples, run_seed, stream, step)
    assert [request.seed for request in requests] == expected


def test_streams_of_a_run_have_nothing_in_common() -> None:
    streams = (TRAINING, TEACHER, EVALUATION, PROBE, REPHRASING, ANSWERS)
    seeds = [
        {request_seed(1, step, 0, FIRST, sample, stream) for step in range(4) for sample in range(4)}
        for stream in streams
    ]
    assert len(set().union(*seeds)) == sum(map(len, seeds)) == 4 + 4 + 4 + 3 * 16


def test_a_replica_is_consecutive_ranks():
    assert [replica_of_rank(rank, 2) for rank in range(4)] == [0, 0, 1, 1]
