"""The sampler: every pair once per epoch, unique ids in a batch, exact resume."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.types import QuestionPair


def make(count: int) -> list[QuestionPair]:
    return [QuestionPair(i, f"q{i}", f"r{i}", (i,), (i,)) for i in range(count)]


def ids(sampler: PairSampler, batches: int) -> list[list[int]]:
    return [[pair.pair_id for pair in sampler.next()] for _ in range(batches)]


def test_an_epoch_holds_no_pair_twice_and_drops_the_rest() -> None:
    sampler = PairSampler(make(10), 3)
    assert sampler.steps_per_epoch == 3
    drawn = sum(ids(sampler, 3), [])
    assert len(drawn) == len(set(drawn)) == 9


def test_paper_arithmetic() -> None:
    assert PairSampler(make(7500), 128).steps_per_epoch == 58


def test_epochs_and_seeds_differ_and_repeat() -> None:
    first = ids(PairSampler(make(20), 20, seed=1), 2)
    assert first == ids(PairSampler(make(20), 20, seed=1), 2)
    assert first[0] != first[1]
    assert sorted(first[0]) == sorted(first[1])
    other = ids(PairSampler(make(20), 20, seed=2), 2)
    assert other[0] not in first


def test_without_shuffle_the_file_order_repeats() -> None:
    assert ids(PairSampler(make(5), 2, shuffle=False), 3) == [[0, 1], [2, 3], [0, 1]]


def test_epoch_is_that_of_the_next_batch() -> None:
    sampler = PairSampler(make(4), 2)
    epochs = [sampler.epoch]
    for _ in range(4):
        sampler.next()
        epochs.append(sampler.epoch)
    assert epochs == [0, 0, 1, 1, 2]


def test_fewer_pairs_than_a_batch_are_all_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    sampler = PairSampler(make(83), 128)
    batches = ids(sampler, 3)
    assert sampler.steps_per_epoch == 1
    assert all(sorted(batch) == list(range(83)) for batch in batches)
    assert batches[0] != batches[1]
    assert caplog.text.count("data.batch_pairs=128, but there are 83 pairs") == 1


@given(
    count=st.integers(1, 30),
    batch=st.integers(1, 40),
    shuffle=st.booleans(),
    seed=st.integers(-5, 5),
    before=st.integers(0, 50),
)
def test_resume_is_exact(count: int, batch: int, shuffle: bool, seed: int, before: int) -> None:
    straight = PairSampler(make(count), batch, shuffle, seed)
    ids(straight, before)
    state = straight.state_dict()
    resumed = PairSampler(make(count), batch, shuffle, seed)
    ids(resumed, 7)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    following = ids(straight, 40)
    assert ids(resumed, 40) == following
    assert all(len(set(drawn)) == len(drawn) == min(batch, count) for drawn in following)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (PairSampler(make(9), 2, True, 1), "pairs=10, this run has 9"),
        (PairSampler(make(10), 3, True, 1), "batch_pairs=2, this run has 3"),
        (PairSampler(make(10), 2, False, 1), "shuffle=True, this run has False"),
        (PairSampler(make(10), 2, True, 2), "seed=1, this run has 2"),
    ],
)
def test_resume_with_other_settings_is_refused(other: PairSampler, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        other.load_state_dict(PairSampler(make(10), 2, True, 1).state_dict())


def test_repeated_pair_ids_are_refused() -> None:
    with pytest.raises(AssertionError, match="pair ids repeat"):
        PairSampler([*make(3), *make(1)], 2)
