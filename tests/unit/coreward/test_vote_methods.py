"""Methods that count votes in their own way: one example by hand, and 10,000 random groups by an oracle."""

import math
import random

import numpy as np
import pytest

from megatron_coreward.algorithm.advantages import group_advantages
from megatron_coreward.config.loading import load_config
from megatron_coreward.coreward.rewards.consensus import CHOICES, win_chance
from megatron_coreward.coreward.rewards.judging import Group
from megatron_coreward.coreward.rewards.registry import METHODS, method_of, with_options
from megatron_coreward.coreward.voting import answer_entropy, in_band
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View
from tests.oracles import votes as oracle
from tests.unit.coreward.test_rewards import answers, judge

N = NO_ANSWER
A, B, C, D, E = range(5)
ORIGINALS, REPHRASINGS = [A, A, A, B, B, C, D, N], [B, B, B, B, A, A, C, E]
"""The example of all hand-worked cases."""
PAIRS = 5_000
"""Of random groups, so that each method has 10,000."""
JUDGES = CHOICES["judges"]


def views(original, rephrased, teacher=((), ())):
    both = zip(View, (original, rephrased), teacher, strict=True)
    return {view: Group(answers(given), teacher=answers(taught)) for view, given, taught in both}


def rewards(method, original=ORIGINALS, rephrased=REPHRASINGS, teacher=((), ()), **options):
    judged = judge(method, views(original, rephrased, teacher), **options)
    return [judged[view].rewards for view in View]


def consensus(judges, subset, *groups, **more):
    return rewards("consensus", *groups, options={"judges": judges, "subset": subset}, **more)


def random_views(pairs=PAIRS, least=1, most=8):
    rng = random.Random(16)
    for _ in range(pairs):
        yield [[rng.randint(-1, 3) for _ in range(rng.randint(least, most))] for _ in View]


def near(*values):
    return pytest.approx(values, abs=6e-4)


def equal(given, wanted):
    """Within rounding; pytest.approx is too slow for thousands."""
    return all(
        len(g) == len(w) and all(abs(a - b) < 1e-12 for a, b in zip(g, w, strict=True))
        for g, w in zip(given, wanted, strict=True)
    )


def paid(classes, label):
    return [float(c == label) for c in classes]


def test_majority_voting_on_both_views():
    assert rewards("majority_voting") == [paid(ORIGINALS, A), paid(REPHRASINGS, B)]
    assert group_advantages(np.array(rewards("majority_voting")[0])) == near(*[1.208] * 3, *[-0.725] * 5)
    for pair in random_views():
        assert rewards("majority_voting", *pair) == [oracle.majority_voting(answered) for answered in pair]


def test_pooled_vote():
    judged = judge("pooled_vote", views(ORIGINALS, REPHRASINGS))
    assert [judged[v].rewards for v in View] == [paid(ORIGINALS, B), paid(REPHRASINGS, B)]
    assert {(j.label, j.share) for j in judged.values()} == {("answer 1", 6 / 16)}
    for pair in random_views():
        assert rewards("pooled_vote", *pair) == [oracle.pooled_vote(answered, *pair) for answered in pair]


def test_split_vote():
    """Even samples A A B D elect A; the odd ones, A B C and none, tie: the first is A."""
    judged = judge("split_vote", views(ORIGINALS, REPHRASINGS))
    assert judged[View.ORIGINAL].rewards == [1, 1, 1, 0, 0, 0, 0, 0]
    assert (judged[View.ORIGINAL].label, judged[View.ORIGINAL].share) == ("answer 0", (2 / 4 + 1 / 4) / 2)
    assert judged[View.ORIGINAL].vote.tied
    for pair in random_views():
        assert rewards("split_vote", *pair) == [oracle.split_vote(answered) for answered in pair]


def test_split_vote_has_two_labels_or_one_or_none():
    def of_originals(original, **options):
        return judge("split_vote", views(original, [A]), **options)[View.ORIGINAL]

    differ = of_originals([A, B, A, B, B, A])
    assert (differ.rewards, differ.label, differ.vote.label) == ([0, 0, 0, 0, 1, 1], "", A)
    half = of_originals(ORIGINALS, ties="abstain")
    assert half.rewards == [0, 1, 0, 0, 0, 0, 0, 0], "the even half has no judge"
    assert (half.label, half.share, half.vote.label) == ("", 1 / 4, A)
    nobody = of_originals(ORIGINALS, min_agreement=0.6)
    assert (nobody.rewards, nobody.label, nobody.share, nobody.vote.label) == ([0] * 8, "", 0, None)


def test_split_vote_follows_its_responses_within_a_half_and_when_the_halves_change_places():
    rng = random.Random(5)
    for answered, _ in random_views(500, least=8):
        plain = rewards("split_vote", answered, ties="abstain")[0]
        order = list(range(8))
        order[::2], order[1::2] = rng.sample(order[::2], 4), rng.sample(order[1::2], 4)
        if rng.random() < 0.5:
            order[::2], order[1::2] = order[1::2], order[::2]
        mixed = rewards("split_vote", [answered[i] for i in order], ties="abstain")[0]
        assert mixed == [plain[i] for i in order]


def test_harmonic():
    judged = judge("harmonic", views(ORIGINALS, REPHRASINGS))
    assert [judged[v].rewards for v in View] == [paid(ORIGINALS, B), paid(REPHRASINGS, B)]
    assert {(j.label, j.share) for j in judged.values()} == {("answer 1", 0.375)}
    assert judge("harmonic", views(ORIGINALS, REPHRASINGS), min_agreement=0.376)[View.ORIGINAL].label == ""
    assert group_advantages(np.array(judged[View.REPHRASED].rewards)) == near(*[0.935] * 4, *[-0.935] * 4)
    for pair in random_views():
        assert rewards("harmonic", *pair) == [oracle.harmonic(answered, *pair) for answered in pair]


def test_harmonic_prefers_what_both_views_hold():
    original, rephrased = [A] * 5 + [B] * 2 + [C], [A] + [B] * 2 + [C, D, E, N, N]
    assert rewards("harmonic", original, rephrased)[0] == paid(original, B)
    assert rewards("pooled_vote", original, rephrased)[0] == paid(original, A)
    assert rewards("harmonic", [A, A], [B, B]) == [[0, 0], [0, 0]]


def test_agreement_gate():
    assert rewards("agreement_gate") == [[0] * 8, [0] * 8]
    assert rewards("agreement_gate", [A, A, B], [A, C, N]) == [[1, 1, 0], [1, 0, 0]]
    for pair in random_views():
        wanted = [oracle.agreement_gate(*pair), oracle.agreement_gate(*pair[::-1])]
        assert rewards("agreement_gate", *pair) == wanted


def test_reszero():
    reszero = {"fallback": "reszero"}
    original = rewards("agreement_gate", options=reszero)[0]
    assert original == pytest.approx([-0.00234] * 3 + [0.05766] * 2 + [-0.03609] * 3, abs=6e-6)
    assert sum(original) == pytest.approx(0, abs=1e-12)
    assert group_advantages(np.array(original)) == near(*[-0.060] * 3, *[1.483] * 2, *[-0.929] * 3)
    assert rewards("agreement_gate", [A, B], [A, A], options=reszero) == [[1, 0], [1, 1]], "they agree"
    assert rewards("agreement_gate", [A, A], [B, N], options=reszero)[0] == pytest.approx([0, 0])
    for pair in random_views():
        wanted = [oracle.agreement_gate(*views, reszero=True) for views in (pair, pair[::-1])]
        assert equal(rewards("agreement_gate", *pair, options=reszero), wanted)


def test_consensus_by_hand():
    """Four of eight vote: of the 35 votes with an A in it, A wins 26.167, and so on."""
    rivals = {3: [1, 1, 2], 2: [1, 1, 3], 1: [1, 2, 3]}
    won = [35 * win_chance(count, others, silent=1, size=4, certain=True) for count, others in rivals.items()]
    assert won == near(26.167, 16.583, 5.167)
    own = consensus("own", 4)[0]
    assert own == near(*[0.748] * 3, *[0.474] * 2, *[0.148] * 2, 0)
    centred = group_advantages(np.array(own), "no-std")
    assert centred == near(*[0.312] * 3, *[0.038] * 2, *[-0.288] * 2, -0.436)
    assert consensus("other", 4) == [
        near(*[0.200] * 3, *[0.743] * 2, 0.029, 0, 0),
        near(*[0.281] * 4, *[0.571] * 2, 0.074, 0),
    ]


def test_the_corners_of_consensus():
    soft = consensus("other", 1)[0]
    assert soft == [0.25] * 3 + [0.5] * 2 + [0.125, 0, 0]
    assert group_advantages(np.array(soft)) == near(*[0.081] * 3, *[1.369] * 2, -0.564, *[-1.208] * 2)
    empo = consensus("own", 1)[0]
    assert empo == [0.375] * 3 + [0.25] * 2 + [0.125] * 2 + [0]
    assert group_advantages(np.array(empo)) == near(*[0.999] * 3, *[0.111] * 2, *[-0.777] * 2, -1.665)
    teacher = ([A, B, B], [C, C, D])
    methods = ("majority_voting", "co_reward", "co_rewarding_2", "co_rewarding_3")
    for judges, method in zip(JUDGES, methods, strict=True):
        assert consensus(judges, 0, teacher=teacher) == rewards(method, teacher=teacher)
    assert consensus("own", 0, [A, B, C, C, B], [A])[0] == [0, 0.5, 0.5, 0.5, 0.5], "a tie is shared"


@pytest.mark.parametrize("judges", JUDGES)
def test_consensus_equals_the_enumeration_of_all_votes(judges):
    rng = random.Random(8)
    for pair in random_views(PAIRS // len(JUDGES), most=6):
        teacher = [[rng.randint(-1, 3) for _ in range(rng.randint(1, 5))] for _ in View]
        of_same = teacher if "teacher" in judges else pair
        of_judges = of_same[::-1] if "other" in judges else of_same
        size = rng.randint(1, min(map(len, of_judges)))
        wanted = [
            oracle.consensus(answered, voters, size, own=judges == "own")
            for answered, voters in zip(pair, of_judges, strict=True)
        ]
        assert equal(consensus(judges, size, *pair, teacher=teacher), wanted)


def test_answers_of_as_many_judges_have_exactly_equal_chances():
    """So that a group of which all have the same chance has no signal, not the noise of rounding."""
    for size in (2, 3, 7, 64):
        original = [*range(16)] * 4
        assert len(set(consensus("own", size, original, [A] * 64)[0])) == 1


def test_consensus_without_a_label_pays_nothing():
    assert consensus("other", 1, [A, B], [A, B], ties="abstain") == [[0, 0], [0, 0]]
    assert consensus("other", 1, [A, B], [A, C, D], min_agreement=0.5) == [[0, 0], [0.5, 0, 0]]
    judged = judge("consensus", views([A, B], [B, B, A]), options={"judges": "other", "subset": 1})
    assert (judged[View.ORIGINAL].label, judged[View.ORIGINAL].share) == ("answer 1", 2 / 3)
    assert judged[View.ORIGINAL].rewards == pytest.approx([1 / 3, 2 / 3])


def test_the_band_of_entropies():
    entropy = answer_entropy(ORIGINALS)
    assert entropy == pytest.approx(1.494, abs=5e-4)
    assert answer_entropy([N, N, N, N]) == pytest.approx(math.log(4)), "each missing answer is its own class"
    assert answer_entropy([A, A]) == 0
    assert in_band(ORIGINALS, 0.1, 1.6) and in_band(ORIGINALS, 0, 0)
    assert not in_band([A, A], 0.1, 1.6) and in_band([A, A], 0, 1.6)
    assert not in_band(ORIGINALS, entropy, 0) and not in_band(ORIGINALS, 0, entropy), "its ends are outside"
    for original, rephrased in random_views():
        assert abs(answer_entropy([*original, *rephrased]) - oracle.entropy([*original, *rephrased])) < 1e-12


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.votes])
def test_a_group_outside_of_the_band_gets_no_rewards_from_any_vote(method):
    answered = views([A] * 7 + [B], [A, A, A, B, B, C, D, N], teacher=([A, A], [A, A]))
    free, gated = judge(method, answered), judge(method, answered, min_entropy=0.5)
    assert gated[View.REPHRASED] == free[View.REPHRASED] and any(free[View.ORIGINAL].rewards)
    left_out = gated[View.ORIGINAL]
    assert (left_out.rewards, left_out.label, left_out.share) == ([0.0] * 8, "", 0.0)
    assert left_out.vote is None or left_out.vote.label is None


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *((name, {}) for name in ("majority_voting", "pooled_vote", "split_vote", "harmonic")),
        *(("agreement_gate", {"fallback": fallback}) for fallback in ("zero", "reszero")),
        *(("consensus", {"judges": judges, "subset": 2}) for judges in JUDGES),
    ],
)
def test_swapping_the_views_swaps_the_rewards(method, options):
    for original, rephrased in random_views(500, least=2):
        teacher = (original[::-1], rephrased[1:] + rephrased)
        more = {"ties": "abstain", "options": options}
        straight = rewards(method, original, rephrased, teacher, **more)
        assert rewards(method, rephrased, original, teacher[::-1], **more) == straight[::-1]


def configured(method, *overrides):
    return load_config([], ["model.path=m", f"reward.method={method}", *overrides])


def test_an_option_of_a_built_in_method():
    assert with_options(configured("agreement_gate")).reward.options == {"fallback": "zero"}
    assert method_of(configured("agreement_gate")).graded
    assert not method_of(configured("agreement_gate", "reward.options.fallback=reszero")).graded
    message = "reward.options.fallback is 'none', but must be 'zero' or 'reszero'."
    with pytest.raises(ValueError, match=message):
        with_options(configured("agreement_gate", "reward.options.fallback=none"))


def test_the_judges_of_consensus_decide_what_it_needs():
    methods = [method_of(configured("consensus", f"reward.options.judges={judges}")) for judges in JUDGES]
    needs = ((method.both_views, method.teacher) for method in methods)
    assert dict(zip(JUDGES, needs, strict=True)) == {
        "own": (False, False),
        "other": (True, False),
        "teacher": (False, True),
        "teacher_other": (True, True),
    }
    assert METHODS["consensus"] == method_of(configured("consensus"))
    message = "is 'all', but must be 'own', 'other', 'teacher' or 'teacher_other'."
    with pytest.raises(ValueError, match=message):
        with_options(configured("consensus", "reward.options.judges=all"))
