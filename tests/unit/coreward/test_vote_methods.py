"""Methods that count votes in their own way: by hand on one example, and by their rule in other words."""

import math
import random
from fractions import Fraction

import numpy as np
import pytest

from megatron_coreward.algorithm.advantages import group_advantages
from megatron_coreward.config.loading import load_config
from megatron_coreward.coreward.rewards.judging import Group
from megatron_coreward.coreward.rewards.registry import METHODS, method_of, with_options
from megatron_coreward.coreward.voting import answer_entropy, in_band
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View
from tests.unit.coreward.test_rewards import answers, judge

N = NO_ANSWER
A, B, C, D, E = range(5)
ORIGINALS, REPHRASINGS = [A, A, A, B, B, C, D, N], [B, B, B, B, A, A, C, E]
"""The example of all hand-worked cases."""
ROUNDS = 10_000


def views(original, rephrased):
    return {View.ORIGINAL: Group(answers(original)), View.REPHRASED: Group(answers(rephrased))}


def rewards(method, original=ORIGINALS, rephrased=REPHRASINGS, **options):
    judged = judge(method, views(original, rephrased), **options)
    return [judged[view].rewards for view in View]


def random_views(rounds=ROUNDS, least=1, most=8):
    rng = random.Random(16)
    for _ in range(rounds):
        yield [[rng.randint(-1, 3) for _ in range(rng.randint(least, most))] for _ in View]


def paid(classes, label):
    return [float(c == label and c != N) for c in classes]


def shares(classes):
    return {c: Fraction(classes.count(c), len(classes)) for c in dict.fromkeys(classes) if c != N}


def best(scores):
    """The first of the classes with the largest score, and whether there are others."""
    most = max(scores.values(), default=0)
    top = [c for c, score in scores.items() if score == most > 0]
    return (top[0] if top else None), len(top) > 1


def test_majority_voting_on_both_views():
    assert rewards("majority_voting") == [paid(ORIGINALS, A), paid(REPHRASINGS, B)]
    advantages = group_advantages(np.array(rewards("majority_voting")[0]))
    assert advantages == pytest.approx([1.208] * 3 + [-0.725] * 5, abs=6e-4)
    for original, rephrased in random_views():
        labels = [best(shares(classes))[0] for classes in (original, rephrased)]
        wanted = [paid(original, labels[0]), paid(rephrased, labels[1])]
        assert rewards("majority_voting", original, rephrased) == wanted


def test_pooled_vote():
    judged = judge("pooled_vote", views(ORIGINALS, REPHRASINGS))
    assert [judged[v].rewards for v in View] == [paid(ORIGINALS, B), paid(REPHRASINGS, B)]
    assert {(j.label, j.share) for j in judged.values()} == {("answer 1", 6 / 16)}
    for original, rephrased in random_views():
        label = best(shares([*original, *rephrased]))[0]
        assert rewards("pooled_vote", original, rephrased) == [paid(original, label), paid(rephrased, label)]


def test_harmonic():
    judged = judge("harmonic", views(ORIGINALS, REPHRASINGS))
    assert [judged[v].rewards for v in View] == [paid(ORIGINALS, B), paid(REPHRASINGS, B)]
    assert {(j.label, j.share) for j in judged.values()} == {("answer 1", 0.375)}
    assert judge("harmonic", views(ORIGINALS, REPHRASINGS), min_agreement=0.376)[View.ORIGINAL].label == ""
    second = group_advantages(np.array(judged[View.REPHRASED].rewards))
    assert second == pytest.approx([0.935] * 4 + [-0.935] * 4, abs=6e-4)
    for original, rephrased in random_views():
        p, q = shares(original), shares(rephrased)
        label = best({a: 2 / (1 / p[a] + 1 / q[a]) for a in p if a in q})[0]
        assert rewards("harmonic", original, rephrased) == [paid(original, label), paid(rephrased, label)]


def test_harmonic_prefers_what_both_views_hold():
    original, rephrased = [A] * 5 + [B] * 2 + [C], [A] + [B] * 2 + [C, D, E, N, N]
    assert rewards("harmonic", original, rephrased)[0] == paid(original, B)
    assert rewards("pooled_vote", original, rephrased)[0] == paid(original, A)
    assert rewards("harmonic", [A, A], [B, B]) == [[0, 0], [0, 0]]


def test_agreement_gate():
    assert rewards("agreement_gate") == [[0] * 8, [0] * 8]
    assert rewards("agreement_gate", [A, A, B], [A, C, N]) == [[1, 1, 0], [1, 0, 0]]
    for original, rephrased in random_views():
        labels = {best(shares(classes))[0] for classes in (original, rephrased)}
        label = labels.pop() if len(labels) == 1 else None
        wanted = [paid(original, label), paid(rephrased, label)]
        assert rewards("agreement_gate", original, rephrased) == wanted


def test_reszero():
    reszero = {"fallback": "reszero"}
    original = rewards("agreement_gate", options=reszero)[0]
    assert original == pytest.approx([-0.00234] * 3 + [0.05766] * 2 + [-0.03609] * 3, abs=6e-6)
    assert sum(original) == pytest.approx(0, abs=1e-12)
    advantages = group_advantages(np.array(original))
    assert advantages == pytest.approx([-0.060] * 3 + [1.483] * 2 + [-0.929] * 3, abs=6e-4)
    assert rewards("agreement_gate", [A, B], [A, A], options=reszero) == [[1, 0], [1, 1]], "they agree"
    assert rewards("agreement_gate", [A, A], [B, N], options=reszero)[0] == pytest.approx([0, 0])
    for classes, other in random_views():
        label, elsewhere = best(shares(classes))[0], best(shares(other))[0]
        if label is None or label == elsewhere:
            continue
        rest, g = [c for c in classes if c != label], len(classes)
        z = [0 if c == N or len(rest) < 2 else (rest.count(c) - 1) / (len(rest) - 1) for c in rest]
        alpha, scores = (g - len(rest)) / g, iter(z)
        wanted = [
            (-0.01 * alpha if c == label else alpha * (next(scores) - sum(z) / len(z))) + 0.01 * alpha**2
            for c in classes
        ]
        assert rewards("agreement_gate", classes, other, options=reszero)[0] == pytest.approx(wanted)


def test_the_band_of_entropies():
    entropy = answer_entropy(ORIGINALS)
    assert entropy == pytest.approx(1.494, abs=5e-4)
    assert answer_entropy([N, N, N, N]) == pytest.approx(math.log(4)), "each missing answer is its own class"
    assert answer_entropy([A, A]) == 0
    assert in_band(ORIGINALS, 0.1, 1.6) and in_band(ORIGINALS, 0, 0)
    assert not in_band([A, A], 0.1, 1.6) and in_band([A, A], 0, 1.6)
    assert not in_band(ORIGINALS, entropy, 0) and not in_band(ORIGINALS, 0, entropy), "its ends are outside"
    for original, rephrased in random_views(1000):
        classes = [*original, *rephrased]
        own = [100 + i if c == N else c for i, c in enumerate(classes)]
        p = np.unique(own, return_counts=True)[1] / len(own)
        assert answer_entropy(classes) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.votes])
def test_a_group_outside_of_the_band_gets_no_rewards_from_any_vote(method):
    original = [A] * 7 + [B]
    answered = {
        view: Group(answers(c), teacher=answers([A, A]))
        for view, c in zip(View, (original, [A, A, A, B, B, C, D, N]), strict=True)
    }
    free, gated = judge(method, answered), judge(method, answered, min_entropy=0.5)
    assert gated[View.REPHRASED] == free[View.REPHRASED] and any(free[View.ORIGINAL].rewards)
    left_out = gated[View.ORIGINAL]
    assert (left_out.rewards, left_out.label, left_out.share) == ([0.0] * 8, "", 0.0)
    assert left_out.vote is None or left_out.vote.label is None


@pytest.mark.parametrize("method", ["pooled_vote", "harmonic", "agreement_gate"])
def test_swapping_the_views_swaps_the_rewards(method):
    for original, rephrased in random_views(500):
        straight = rewards(method, original, rephrased, ties="abstain")
        assert rewards(method, rephrased, original, ties="abstain") == straight[::-1]


def test_an_option_of_a_built_in_method():
    def gate(*overrides):
        return load_config([], ["model.path=m", "reward.method=agreement_gate", *overrides])

    assert with_options(gate()).reward.options == {"fallback": "zero"}
    assert method_of(gate()).graded
    assert not method_of(gate("reward.options.fallback=reszero")).graded
    message = "reward.options.fallback is 'none', but must be 'zero' or 'reszero'."
    with pytest.raises(ValueError, match=message):
        with_options(gate("reward.options.fallback=none"))
