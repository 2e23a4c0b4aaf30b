"""Every reward method on classes of answers, by hand; Co-Reward also against the authors' rule."""

import random
from dataclasses import replace

import numpy as np
import pytest

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config, RunConfig
from megatron_coreward.coreward.rewards.judging import Answers, Group, judged, voted
from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.types import Confidence, Response, View

N = NO_ANSWER
ORIGINAL, REPHRASED = View.ORIGINAL, View.REPHRASED


def answers(classes):
    return Answers(classes, ["" if c == N else f"answer {c}" for c in classes])


def judge(method, groups, **options):
    """The method's judgements, after the votes that the stage takes.

    `options` are keys of the section `reward`; those of the method have the defaults that it gives.
    """
    own = {**METHODS[method].options, **options.pop("options", {})}
    config = RewardConfig(method=method, options=own, **options)

    def with_votes(group):
        policy, teacher = (voted(a.classes, a.forms, config) for a in (group.answers, group.teacher))
        return replace(group, answers=policy, teacher=teacher)

    return judged(METHODS[method], {view: with_votes(group) for view, group in groups.items()}, config)


def co_reward(original, rephrased, ties="first", least=0.0):
    """(labels, rewards) of both views; a label is the one that the view was judged *by*."""
    groups = {ORIGINAL: Group(answers(original)), REPHRASED: Group(answers(rephrased))}
    decided = judge("co_reward", groups, ties=ties, min_agreement=least)
    return [decided[v].label for v in View], [decided[v].rewards for v in View]


@pytest.mark.parametrize(
    ("original", "rephrased", "ties", "least", "votes", "rewards"),
    [
        # each view is judged by the other's majority
        ([0, 0, 1], [1, 1, 0], "first", 0.0, (0, 1), [[0, 0, 1], [0, 0, 1]]),
        ([0, 0, 0], [0, 0, 1], "first", 0.0, (0, 0), [[1, 1, 1], [1, 1, 0]]),
        # groups of different size
        ([0], [1, 1, 0], "first", 0.0, (0, 1), [[0], [0, 0, 1]]),
        # no answer on one side: no reward on the other
        ([N, N], [0, 0], "first", 0.0, (None, 0), [[0, 0], [0, 0]]),
        ([N, 0], [0, 0], "first", 0.0, (0, 0), [[0, 1], [1, 1]]),
        ([N, N], [N, N], "first", 0.0, (None, None), [[0, 0], [0, 0]]),
        # ties
        ([2, 0, 0, 2], [0, 0, 2, 1], "first", 0.0, (2, 0), [[0, 1, 1, 0], [0, 0, 1, 0]]),
        ([2, 0, 0, 2], [0, 0, 2, 1], "abstain", 0.0, (None, 0), [[0, 1, 1, 0], [0, 0, 0, 0]]),
        # minimum agreement
        ([0, 0, 1, 2], [0, 1, 1, 1], "first", 0.75, (None, 1), [[0, 0, 1, 0], [0, 0, 0, 0]]),
    ],
)
def test_co_reward_by_hand(original, rephrased, ties, least, votes, rewards):
    labels, earned = co_reward(original, rephrased, ties, least)
    assert labels == ["" if v is None else f"answer {v}" for v in reversed(votes)]
    assert earned == rewards


def test_swapping_the_views_swaps_everything():
    rng = random.Random(0)
    for _ in range(300):
        a, b = ([rng.randint(-1, 3) for _ in range(rng.randint(1, 8))] for _ in range(2))
        ties, least = rng.choice(["first", "abstain"]), rng.choice([0.0, 0.3, 0.6])
        labels, rewards = co_reward(a, b, ties, least)
        assert co_reward(b, a, ties, least) == (labels[::-1], rewards[::-1])


def authors_rewards(original, rephrased):
    """The rule of the authors' code, stated anew: majority and equality of raw strings, not of classes."""

    def majority(given):
        best = ""
        for answer in given:
            if answer.strip() and (best == "" or given.count(answer) > given.count(best)):
                best = answer
        return best

    def judged(given, label):
        return [1.0 if label != "" and answer == label else 0.0 for answer in given]

    return [judged(original, majority(rephrased)), judged(rephrased, majority(original))]


def test_exact_mode_reproduces_the_authors_code():
    rng = random.Random(1)
    spellings = ["5", " 5", "5.0", r"\frac12", r"\dfrac12", "x", "", "  ", "12", r"\text{x}"]
    grader = Grader("exact")
    for _ in range(10_000):
        pool = rng.sample(spellings, rng.randint(1, 6))
        a, b = ([rng.choice(pool) for _ in range(8)] for _ in range(2))
        classes = grader.classify([[grader.form(answer) for answer in a + b]])[0]
        assert co_reward(classes[:8], classes[8:])[1] == authors_rewards(a, b)


def test_majority_voting_judges_each_wording_by_itself():
    groups = {ORIGINAL: Group(answers([0, 0, 1])), REPHRASED: Group(answers([1, 1, N, 1]))}
    decided = judge("majority_voting", groups)
    assert [decided[v].rewards for v in View] == [[1, 1, 0], [1, 1, 0, 1]]
    assert [(decided[v].label, decided[v].share) for v in View] == [("answer 0", 2 / 3), ("answer 1", 3 / 4)]
    assert judge("majority_voting", groups, min_agreement=0.7)[ORIGINAL].rewards == [0, 0, 0]


def test_the_teacher_votes_on_the_same_wording_in_ii_and_on_the_other_in_iii():
    groups = {
        ORIGINAL: Group(answers([0, 1, 2]), teacher=answers([1, 1, 0])),
        REPHRASED: Group(answers([0, 1, 2]), teacher=answers([2, 2])),
    }
    second, third = judge("co_rewarding_2", groups), judge("co_rewarding_3", groups)
    assert [second[v].rewards for v in View] == [[0, 1, 0], [0, 0, 1]]
    assert [third[v].rewards for v in View] == [[0, 0, 1], [0, 1, 0]]
    assert [third[v].label for v in View] == ["answer 2", "answer 1"]
    assert second[ORIGINAL].share == pytest.approx(2 / 3)


def test_a_teacher_without_an_answer_gives_no_reward():
    groups = {ORIGINAL: Group(answers([0, N]), teacher=answers([N, N]))}
    [decided] = judge("co_rewarding_2", groups).values()
    assert (decided.rewards, decided.label, decided.vote.label) == ([0, 0], "", None)


def test_ground_truth():
    truth = Answers([3], ["answer 3"])
    groups = {ORIGINAL: Group(answers([0, 3, N]), truth=truth), REPHRASED: Group(answers([1]), truth=truth)}
    decided = judge("ground_truth", groups)
    assert [decided[v].rewards for v in View] == [[0, 1, 0], [0]]
    assert decided[REPHRASED].label == "answer 3" and decided[REPHRASED].vote is None


def test_self_certainty_and_entropy_are_the_signal_with_its_sign():
    group = {ORIGINAL: Group(answers([0, N, 1]), signals=[2.5, 0.5, 1.0])}
    assert judge("self_certainty", group)[ORIGINAL].rewards == [2.5, 0.5, 1.0]
    assert judge("entropy", group)[ORIGINAL].rewards == [-2.5, -0.5, -1.0]
    assert judge("entropy", group, no_answer_entropy=7.0)[ORIGINAL].rewards == [-2.5, -7.0, -1.0]


def response(sample, version=0, pair_id=1):
    ids = np.zeros(1, np.int32)
    return Response(
        *(pair_id, ORIGINAL, sample, (1,), ids, np.zeros(1, np.float32), "", "stop", version),
        confidence=Confidence(self_certainty=3.0, entropy=0.25),
    )


def test_signals_are_those_of_the_response():
    assert METHODS["self_certainty"].signal(response(0), Config()) == 3.0
    assert METHODS["entropy"].signal(response(0), Config()) == 0.25


def test_random_rewards_are_a_fair_coin_that_depends_on_seed_step_and_place_only():
    signal = METHODS["random"].signal
    seeds = [replace(Config(), run=RunConfig(seed=seed)) for seed in range(5)]
    places = [(seed, version, pair) for seed in range(5) for version in range(20) for pair in range(20)]
    flips = [
        [signal(response(s, version, pair), seeds[seed]) for s in range(2)] for seed, version, pair in places
    ]
    assert {flip for pair in flips for flip in pair} == {0.0, 1.0}
    assert abs(np.mean(flips) - 0.5) < 0.03
    assert abs(np.mean([a == b for a, b in flips]) - 0.5) < 0.05, "samples are independent"
    assert flips[0] == [signal(response(s, *places[0][1:]), seeds[0]) for s in range(2)]
    assert judge("random", {ORIGINAL: Group(answers([0, N]), signals=[1.0, 0.0])})[ORIGINAL].rewards == [1, 0]


@pytest.mark.parametrize("name", [name for name in METHODS if name != "split_vote"])
def test_rewards_follow_their_responses(name):
    """Permuting a group's responses permutes its rewards, but for ties, which the first sample decides.

    In split_vote the place of a response decides who judges it: it has a test of its own.
    """
    rng = random.Random(3)
    for _ in range(50):
        groups, order = {}, {}
        for view in View:
            classes = [0] * 4 + [rng.randint(-1, 2) for _ in range(3)]  # class 0 wins, nothing is tied
            groups[view] = Group(
                answers(classes),
                signals=[rng.random() for _ in classes],
                teacher=answers([1, 1, 0]),
                truth=Answers([2], ["answer 2"]),
            )
            order[view] = rng.sample(range(7), 7)
        mixed = {
            view: Group(
                answers([group.answers.classes[i] for i in order[view]]),
                [group.signals[i] for i in order[view]],
                group.teacher,
                group.truth,
            )
            for view, group in groups.items()
        }
        plain, permuted = judge(name, groups), judge(name, mixed)
        for view in View:
            assert permuted[view].rewards == [plain[view].rewards[i] for i in order[view]]
            assert permuted[view].label == plain[view].label
