"""The majority vote: ties, abstention and the smallest share."""

import pytest

from megatron_coreward.coreward.voting import Vote, vote
from megatron_coreward.grading.grader import NO_ANSWER


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        ([0, 1, 1, 2], Vote(label=1, count=2, share=0.5, tied=False)),
        ([7], Vote(label=7, count=1, share=1.0, tied=False)),
        ([3, 0, 1, 2], Vote(label=3, count=1, share=0.25, tied=True)),  # one of four wins, too
        ([1, 0, 0, 1], Vote(label=1, count=2, share=0.5, tied=True)),  # the first sample's class
        ([2, 0, 1, 1, 0], Vote(label=0, count=2, share=0.4, tied=True)),
        ([NO_ANSWER, NO_ANSWER, 4, NO_ANSWER], Vote(label=4, count=1, share=0.25, tied=False)),
        ([NO_ANSWER, NO_ANSWER], Vote(label=None, count=0, share=0.0, tied=False)),
        ([], Vote(label=None, count=0, share=0.0, tied=False)),
    ],
)
def test_majority_with_ties_to_the_first_sample(classes, expected):
    assert vote(classes, "first", 0.0) == expected


def test_abstaining_keeps_the_figures_but_no_label():
    assert vote([1, 0, 0, 1], "abstain", 0.0) == Vote(label=None, count=2, share=0.5, tied=True)
    assert vote([1, 0, 0], "abstain", 0.0).label == 0


def test_minimum_agreement_is_a_share_of_all_responses_also_of_those_without_answer():
    classes = [5, 5, 5, NO_ANSWER, NO_ANSWER, NO_ANSWER, 1, NO_ANSWER]  # 3 of 8, though 3 of 4 answers
    assert vote(classes, "first", 3 / 8).label == 5
    assert vote(classes, "first", 0.4).label is None
    assert vote(classes, "first", 0.4).share == 3 / 8


@pytest.mark.parametrize("n", range(1, 30))
def test_minimum_agreement_is_not_lost_to_rounding(n):
    for k in range(1, n + 1):
        assert vote([0] * k + [NO_ANSWER] * (n - k), "first", round(k / n, 12)).label == 0
        assert vote([0] * k + [NO_ANSWER] * (n - k), "first", k / n + 1e-6).label is None


def test_unknown_rule():
    with pytest.raises(AssertionError, match="coin"):
        vote([0], "coin", 0.0)
