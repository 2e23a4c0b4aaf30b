"""Statistics of evaluations against values by hand, by brute force over subsets, and by simulation."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest

from megatron_coreward.coreward.voting import vote
from megatron_coreward.evaluation.measures import Scores, by_group, estimate, majorities, majority_at
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.utils import bootstrap
from megatron_coreward.utils.bootstrap import mean_interval, paired_bootstrap, pass_at_k


def test_pass_at_k_by_hand():
    correct_QN = np.array([[1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=bool)
    np.testing.assert_allclose(pass_at_k(correct_QN, 1), [0.25, 0, 1, 0.5])
    np.testing.assert_allclose(pass_at_k(correct_QN, 2), [0.5, 0, 1, 5 / 6])
    np.testing.assert_allclose(pass_at_k(correct_QN, 4), [1, 0, 1, 1])


def test_pass_at_k_is_the_mean_over_all_subsets():
    correct_QN = np.random.default_rng(0).random((6, 7)) < 0.4
    for k in range(1, 8):
        subsets = [correct_QN[:, list(chosen)].any(axis=1) for chosen in combinations(range(7), k)]
        np.testing.assert_allclose(pass_at_k(correct_QN, k), np.mean(subsets, axis=0))


def test_mean_interval_has_the_normal_width():
    values_Q = np.array([0.0, 1.0] * 200)
    interval = mean_interval(values_Q, seed=0)
    half_width = 1.96 * 0.5 / np.sqrt(400)
    assert interval.value == 0.5
    assert interval.low == pytest.approx(0.5 - half_width, abs=0.006)
    assert interval.high == pytest.approx(0.5 + half_width, abs=0.006)


def test_intervals_do_not_depend_on_how_many_are_drawn_at_once(monkeypatch):
    values_Q = np.random.default_rng(0).random(30)
    expected = mean_interval(values_Q, seed=0, samples=1000)
    monkeypatch.setattr(bootstrap, "DRAWS_AT_ONCE", 700)
    assert mean_interval(values_Q, seed=0, samples=1000) == pytest.approx(expected)


def test_intervals_are_seeded():
    values_Q = np.random.default_rng(0).random(30)
    assert mean_interval(values_Q, seed=0) == mean_interval(values_Q, seed=0)
    assert mean_interval(values_Q, seed=0) != mean_interval(values_Q, seed=1)


def test_bootstrap_is_paired():
    """A gain of exactly 0.1 on every question is certain, however much the questions differ."""
    before_Q = np.random.default_rng(0).random(50)
    difference = paired_bootstrap(before_Q, before_Q + 0.1, seed=0)
    np.testing.assert_allclose(difference, [0.1, 0.1, 0.1])


def test_bootstrap_of_outcomes_that_changed():
    before_Q, after_Q = np.zeros(100, dtype=bool), np.arange(100) < 20
    difference = paired_bootstrap(before_Q, after_Q, seed=0)
    assert difference.value == pytest.approx(0.2)
    assert 0.1 < difference.low < 0.15 < 0.25 < difference.high < 0.3
    assert paired_bootstrap(after_Q, before_Q, seed=0).value == pytest.approx(-0.2)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    """Means of 60 questions, each solved with chance 0.3."""
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.random(60) < 0.3, seed=trial, samples=1000) for trial in range(400)]
    covered = np.mean([interval.low <= 0.3 <= interval.high for interval in intervals])
    assert 0.90 < covered < 0.98, "percentile intervals are a little short at 60 questions"


A, B = 0, 1


@pytest.mark.parametrize(
    ("classes", "k", "expected"),
    [
        ([A, A, B, B], 1, 1 / 2),
        ([A, A, B, B], 2, 5 / 6),  # AA wins, BB loses, AB is a tie and A always comes first
        ([B, A, A, B], 2, 3 / 6),  # AA, and of the four ties those in which A comes first: 1-3, 2-3
        ([A, A, B, B], 3, 1 / 2),
        ([A, A, B, B], 4, 1),
        ([B, B, A, A], 4, 0),
        ([A, NO_ANSWER, NO_ANSWER, NO_ANSWER], 2, 1 / 2),  # whoever says nothing does not vote
        ([NO_ANSWER] * 4, 4, 0),
        ([B, B, B, B], 2, 0),
    ],
)
def test_majority_by_hand(classes: list[int], k: int, expected: float) -> None:
    correct = np.array(classes) == A
    assert majority_at([k], np.array(classes), correct) == [pytest.approx(expected, abs=1e-12)]


def votes(classes: Sequence[int], right: set[int]) -> bool:
    return vote(classes, ties="first", min_agreement=0.0).label in right


def test_majority_is_the_mean_over_all_subsets() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        size = int(rng.integers(1, 9))
        classes = rng.integers(NO_ANSWER, 4, size=size)
        right = set(rng.choice(4, size=rng.integers(0, 3), replace=False).tolist())
        ks = list(range(1, size + 1))
        expected = [
            np.mean([votes(classes[list(chosen)].tolist(), right) for chosen in combinations(range(size), k)])
            for k in ks
        ]
        found = majority_at(ks, classes, np.isin(classes, sorted(right)))
        np.testing.assert_allclose(found, expected, atol=1e-12)
        assert found[-1] == votes(classes.tolist(), right), "all samples: exactly the vote"


def test_majority_of_many_samples_stays_exact() -> None:
    classes = np.arange(400) % 2
    assert majority_at([1, 399, 400], classes, classes == 0) == [0.5, 0.5, 1.0]


SAMPLED_SQK = np.array([[[1, 1, 0, 0], [0, 0, 0, 1]], [[1, 1, 1, 1], [0, 0, 0, 0]]], dtype=bool)
CLASSES_SQK = np.array([[[0, 0, 1, 1], [1, 1, 1, 0]], [[0, 0, 0, 0], [1, 2, 3, -1]]])
SCORES = Scores(
    question_ids_Q=np.array([7, 9]),
    greedy_Q=np.array([True, False]),
    sampled_SQK=SAMPLED_SQK,
    majorities=majorities([2, 4], CLASSES_SQK, SAMPLED_SQK),
)


def test_measures_by_hand() -> None:
    values = SCORES.by_question([1, 2, 4])
    expected = {
        "greedy_pass@1": [[1, 0]],
        "avg@4": [[0.5, 0.25], [1, 0]],
        "pass@1": [[0.5, 0.25], [1, 0]],
        "pass@2": [[5 / 6, 0.5], [1, 0]],
        "pass@4": [[1, 1], [1, 0]],
        "maj@2": [[5 / 6, 0], [1, 0]],
        "maj@4": [[1, 0], [1, 0]],
    }
    assert list(values) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(values[name], value, err_msg=name)


def test_nothing_sampled_leaves_the_greedy_figure() -> None:
    nothing = np.zeros((0, 2, 0), dtype=bool)
    scores = Scores(SCORES.question_ids_Q, SCORES.greedy_Q, nothing, majorities([], nothing, nothing))
    assert list(scores.by_question([])) == ["greedy_pass@1"]


def test_estimate_over_seeds() -> None:
    """The interval is that of questions averaged over seeds; the spread that of the seeds' means."""
    values_SQ = np.array([[0.0, 1.0, 0.5, 0.5], [1.0, 1.0, 0.5, 0.5], [0.5, 1.0, 0.5, 0.5]])
    found = estimate(values_SQ, bootstrap_seed=3)
    interval = mean_interval(np.array([0.5, 1.0, 0.5, 0.5]), seed=3)
    assert (found["value"], found["low"], found["high"]) == interval
    assert found["by_seed"] == [0.5, 0.75, 0.625]
    assert found["spread"] == pytest.approx(0.125)
    assert estimate(values_SQ[:1], 3).keys() == {"value", "low", "high"}, "one seed has no spread"


def test_groups_hold_their_own_questions_only() -> None:
    values = {"pass@1": np.array([[1.0, 0.0, 0.5, 0.5]])}
    found = by_group(values, ["b", "a", "b", ""], bootstrap_seed=1)
    assert {group: part["questions"] for group, part in found.items()} == {"a": 1, "b": 2}
    assert list(found) == ["a", "b"]
    assert found["a"]["metrics"]["pass@1"] == {"value": 0, "low": 0, "high": 0}
    assert found["b"]["metrics"]["pass@1"]["value"] == 0.75
    assert (found["b"]["metrics"]["pass@1"]["low"], found["b"]["metrics"]["pass@1"]["high"]) == (0.5, 1)
