import random

import pytest

from megatron_coreward.coreward.grader import NO_ANSWER, Grader
from megatron_coreward.coreward.rewards import co_reward

N = NO_ANSWER


@pytest.mark.parametrize(
    ("original", "rephrased", "ties", "least", "labels", "rewards"),
    [
        # each view is judged by the other's majority
        ([0, 0, 1], [1, 1, 0], "first", 0.0, (0, 1), ([0, 0, 1], [0, 0, 1])),
        ([0, 0, 0], [0, 0, 1], "first", 0.0, (0, 0), ([1, 1, 1], [1, 1, 0])),
        # groups of different size
        ([0], [1, 1, 0], "first", 0.0, (0, 1), ([0], [0, 0, 1])),
        # no answer on one side: no reward on the other
        ([N, N], [0, 0], "first", 0.0, (None, 0), ([0, 0], [0, 0])),
        ([N, 0], [0, 0], "first", 0.0, (0, 0), ([0, 1], [1, 1])),
        ([N, N], [N, N], "first", 0.0, (None, None), ([0, 0], [0, 0])),
        # ties
        ([2, 0, 0, 2], [0, 0, 2, 1], "first", 0.0, (2, 0), ([0, 1, 1, 0], [0, 0, 1, 0])),
        ([2, 0, 0, 2], [0, 0, 2, 1], "abstain", 0.0, (None, 0), ([0, 1, 1, 0], [0, 0, 0, 0])),
        # minimum agreement
        ([0, 0, 1, 2], [0, 1, 1, 1], "first", 0.75, (None, 1), ([0, 0, 1, 0], [0, 0, 0, 0])),
    ],
)
def test_by_hand(original, rephrased, ties, least, labels, rewards):
    votes, earned = co_reward(original, rephrased, ties, least)
    assert (votes[0].label, votes[1].label) == labels
    assert earned == rewards


def test_swapping_the_views_swaps_everything():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.randint(-1, 3) for _ in range(rng.randint(1, 8))] for _ in range(2))
        ties, least = rng.choice(["first", "abstain"]), rng.choice([0.0, 0.3, 0.6])
        votes, rewards = co_reward(a, b, ties, least)
        assert co_reward(b, a, ties, least) == (votes[::-1], rewards[::-1])


def reference_rewards(original, rephrased):
    """The published rule on raw strings (method 1.3, 1.4), stated anew: strings, not classes."""

    def majority(answers):
        best = ""
        for answer in answers:
            if answer.strip() and (best == "" or answers.count(answer) > answers.count(best)):
                best = answer
        return best

    def judged(answers, label):
        return [1.0 if label != "" and answer == label else 0.0 for answer in answers]

    return judged(original, majority(rephrased)), judged(rephrased, majority(original))


def test_exact_mode_reproduces_the_reference():
    rng = random.Random(1)
    spellings = ["5", " 5", "5.0", r"\frac12", r"\dfrac12", "x", "", "  ", "12", r"\text{x}"]
    with Grader("exact") as grader:
        for _ in range(4000):
            pool = rng.sample(spellings, rng.randint(1, 6))
            a, b = ([rng.choice(pool) for _ in range(8)] for _ in range(2))
            classes = grader.classes([grader.form(answer) for answer in a + b])
            _, rewards = co_reward(classes[:8], classes[8:], "first", 0.0)
            assert rewards == reference_rewards(a, b)
