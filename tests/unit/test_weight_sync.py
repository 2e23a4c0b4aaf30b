"""The sync and its proof, with an engine and a policy that hold no model."""

import numpy as np
import pytest

from megatron_coreward.config.precision import sync_tolerance
from megatron_coreward.trainer import mini_batches
from megatron_coreward.types import QuestionPair, ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.weight_sync import (
    LONG_PROMPT,
    VERIFIED_PAIRS,
    VERIFY_TOKENS,
    prompts_to_verify,
    sync_weights,
    verify_sync,
)
from tests.support.fakes import FakeEngine, FakePolicy

PAIRS = [QuestionPair(i, "a", "b", (1, 2), (3, 4, 5)) for i in range(3)]


def verify(gap: float) -> float:
    policy, engine = FakePolicy(gap=gap), FakeEngine()
    return verify_sync(policy, engine, TorchCommunicator(), PAIRS, temperature=1.0, tolerance=1e-3)


@pytest.mark.parametrize("gap", [0.0, 1e-4, -1e-4])
def test_a_small_gap_passes_and_is_returned(gap: float) -> None:
    measured = verify(gap)
    assert measured == pytest.approx(abs(gap), abs=1e-6)


@pytest.mark.parametrize("gap", [0.01, -0.01, float("nan")])
def test_a_large_gap_or_nan_is_an_error_that_names_the_key(gap: float) -> None:
    with pytest.raises(RuntimeError, match=r"weight_sync\.tolerance"):
        verify(gap)


def test_many_small_gaps_are_an_error_though_each_would_pass() -> None:
    """In bfloat16 one token may be far off by rounding, not all of them."""
    with pytest.raises(RuntimeError, match=r"up to 5\.00e-04 nats .* and 5\.0e-04 on average"):
        verify(5e-4)


@pytest.mark.parametrize(
    ("choice", "dtype", "tolerance"), [(0.0, "float32", 1e-3), (0.0, "bfloat16", 0.5), (0.1, "bfloat16", 0.1)]
)
def test_the_tolerance_follows_the_compute_type(choice: float, dtype: str, tolerance: float) -> None:
    assert sync_tolerance(choice, dtype) == tolerance


def test_an_engine_that_stops_early_does_not_stop_the_export() -> None:
    """Other ranks are in the collectives of the remaining buckets."""
    policy, engine = FakePolicy(), FakeEngine(takes=1)
    sync_weights(policy, engine, version=5)
    assert (policy.exported, list(engine.weights), engine.version) == (3, ["weight 0"], 5)


def test_a_sync_reports_its_own_traffic() -> None:
    policy = FakePolicy()
    for _ in range(2):
        figures = sync_weights(policy, FakeEngine(), version=1).as_dict()
        assert (figures["sync/bytes_sent"], figures["sync/bytes_received"]) == (3, 6)
        assert figures["sync/bytes_minimum"] == 9
        assert 0 < figures["sync/gb_per_second"] < 1


def test_the_verified_prompts_hold_a_long_one() -> None:
    prompts = prompts_to_verify(PAIRS, context=1000)
    assert prompts[:VERIFIED_PAIRS] == PAIRS[:VERIFIED_PAIRS]
    [long] = prompts[VERIFIED_PAIRS:]
    assert long.pair_id not in {pair.pair_id for pair in PAIRS}
    for view in View:
        ids, start = long.prompt_ids(view), PAIRS[0].prompt_ids(view)
        assert len(ids) == LONG_PROMPT > 128
        assert ids[: 2 * len(start)] == start + start
    assert prompts_to_verify(PAIRS, context=1000) == prompts


def test_the_long_prompt_leaves_room_for_a_response() -> None:
    *_, long = prompts_to_verify(PAIRS, context=60)
    assert {len(long.prompt_ids(view)) for view in View} == {60 - VERIFY_TOKENS}


def test_mini_batches_hold_whole_pairs() -> None:
    scored = [
        ScoredResponse(pair.pair_id, view, 0, (1,), np.array([2]), np.array([0.0]), "", "stop", 0)
        for view in View
        for pair in PAIRS
    ]
    parts = mini_batches(PAIRS, scored, 2)
    assert [sorted({r.pair_id for r in part}) for part in parts] == [[0, 1], [2]]
    assert sum(len(part) for part in parts) == len(scored)
