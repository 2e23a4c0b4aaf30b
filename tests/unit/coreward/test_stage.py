"""The reward stage gives the same result for any world size, placement and order."""

import random
from dataclasses import replace

import numpy as np
import pytest

from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.config.learning import AlgorithmConfig, RewardConfig
from megatron_coreward.config.schema import Config, RolloutConfig
from megatron_coreward.coreward.rewards.registry import METHODS, with_options
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.grading.grader import Grader
from megatron_coreward.types import Confidence, Response, ScoredResponse, View
from megatron_coreward.utils.metrics import Figures
from tests.support.fakes import run_threads

SPELLINGS = [
    "5",
    "5.0",
    r"\frac{1}{2}",
    "0.5",
    r"\dfrac12",
    "x+1",
    "1+x",
    "(1,2)",
    "(1, 2)",
    "7",
    None,
    "1" * 300,
]


def response(pair_id, view, sample, answer, finish_reason="stop"):
    text = "thinking it over" if answer is None else rf"so \boxed{{{answer}}}."
    ids = np.arange(len(text), dtype=np.int32)
    logps = np.zeros(len(text), np.float32)
    return Response(pair_id, view, sample, (1, 2), ids, logps, text, finish_reason, weights_version=0)


def random_step(seed, pairs=13, samples=4):
    rng = random.Random(seed)
    pools = {pair_id: rng.sample(SPELLINGS, 5) for pair_id in rng.sample(range(1000), pairs)}
    return [
        response(pair_id, view, sample, rng.choice(pool))
        for pair_id, pool in pools.items()
        for view in View
        for sample in range(samples)
    ]


def run_stage(parts, config=None, equality="math", views="auto", teacher=None, truths=None):
    """Scored responses and figures per rank; rank r holds parts[r] and teacher[r]."""
    whole = with_options(Config(reward=config or RewardConfig(), rollout=RolloutConfig(views=views)))

    def work(comm):
        grader = Grader(equality)
        stage = CoRewardStage(comm, grader, whole, truths)
        return stage(parts[comm.rank], teacher[comm.rank] if teacher else ())

    results = run_threads(len(parts), work)
    return [scored for scored, _ in results], [figures for _, figures in results]


def verdicts(scored):
    return {
        r.key: (r.answer, r.pseudo_label, r.label_share, r.majority, r.reward)
        for part in scored
        for r in part
    }


def merged(by_rank):
    return Figures.merged(by_rank).as_dict()


def bytes_of(by_rank):
    return [figures.as_dict()["stage/bytes"] for figures in by_rank]


def test_by_hand():
    original = ["0.5", r"\frac12", "3", None]
    rephrased = ["3", "3.0", r"\dfrac{1}{2}", "4"]
    step = [response(7, View.ORIGINAL, i, a) for i, a in enumerate(original)]
    step += [response(7, View.REPHRASED, i, a) for i, a in enumerate(rephrased)]
    [scored], [figures] = run_stage([step])
    assert [r.reward for r in scored] == [0, 0, 1, 0, 0, 0, 1, 0]
    assert [r.pseudo_label for r in scored] == ["3"] * 4 + ["0.5"] * 4
    assert [r.answer for r in scored][:4] == ["0.5", r"\frac{1}{2}", "3", ""]
    assert [r.label_share for r in scored] == [2 / 4] * 8
    assert all(isinstance(r, ScoredResponse) and r.advantage == 0 for r in scored)
    assert bytes_of([figures]) == [0], "one rank sends nothing"
    assert figures.as_dict() == {
        "coreward/agreement": 0.0,
        "coreward/labelled": 1.0,
        "coreward/tied": 0.0,
        "original/distinct_answers": 2.0,
        "original/majority_share": 0.5,
        "original/top_answer_share": 0.25,
        "rephrased/distinct_answers": 3.0,
        "rephrased/majority_share": 0.5,
        "rephrased/top_answer_share": 0.5,
        "grader/timeouts": 0.0,
        "stage/bytes": 0.0,
    }


def test_nothing_but_reward_fields_changes():
    step = random_step(0)
    [scored], _ = run_stage([step])
    for before, after in zip(step, scored, strict=True):
        assert {name: vars(after)[name] for name in vars(before)} == vars(before)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
@pytest.mark.parametrize("ties", ["first", "abstain"])
def test_any_number_of_ranks_and_any_placement(world_size, ties):
    config = RewardConfig(ties=ties, min_agreement=0.3)
    step = random_step(1)
    expected, expected_by_rank = run_stage([step], config)
    rng = random.Random(world_size)
    groups = sorted({r.group for r in step})
    for _ in range(3):
        place = {group: rng.randrange(world_size) for group in groups}
        parts = [[r for r in step if place[r.group] == rank] for rank in range(world_size)]
        for part in parts:
            rng.shuffle(part)
        scored, by_rank = run_stage(parts, config)
        assert [[r.key for r in part] for part in scored] == [[r.key for r in part] for part in parts]
        assert verdicts(scored) == verdicts(expected)
        figures, expected_figures = merged(by_rank), merged(expected_by_rank)
        figures.pop("stage/bytes"), expected_figures.pop("stage/bytes")
        assert figures == pytest.approx(expected_figures)


def test_an_idle_rank_takes_part():
    step = random_step(2, pairs=1)
    scored, _ = run_stage([[], step, []])
    assert scored[0] == scored[2] == [] and len(scored[1]) == len(step)


def test_swapping_the_views_swaps_the_rewards():
    step = random_step(3)
    swapped = [replace(r, view=r.view.other) for r in step]
    [scored], _ = run_stage([step])
    [other], _ = run_stage([swapped])
    assert [(r.answer, r.pseudo_label, r.reward) for r in scored] == [
        (r.answer, r.pseudo_label, r.reward) for r in other
    ]


def test_permuting_the_responses_permutes_the_rewards():
    step = random_step(4)
    shuffled = random.Random(4).sample(step, len(step))
    [scored], _ = run_stage([step])
    [other], _ = run_stage([shuffled])
    assert [r.key for r in other] == [r.key for r in shuffled]
    assert verdicts([other]) == verdicts([scored])


def test_the_label_is_the_spelling_of_its_first_sample():
    step = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["9", "0.50", r"\frac12", "1/2"])]
    step += [response(1, View.REPHRASED, 0, "0.5")]
    [scored], _ = run_stage([step[::-1]])
    assert scored[0].view is View.REPHRASED and scored[0].pseudo_label == "0.5" and scored[0].reward == 1


def test_the_share_is_that_of_the_label_in_the_vote_of_the_other_view():
    step = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["1", "1", "1", None, "2"])]
    step += [response(1, View.REPHRASED, i, a) for i, a in enumerate(["1", "2"])]
    [scored], _ = run_stage([step], RewardConfig(ties="abstain"))
    assert [(r.pseudo_label, r.label_share) for r in scored] == [("", 0.0)] * 5 + [("1", 3 / 5)] * 2


def test_more_voters_can_change_the_label_but_not_who_is_trained_on():
    """Three of five vote 2, though the first two samples, which are trained on, say 1."""
    original = ["1", "1", "2", "2", "2"]
    step = [response(1, view, i, answer) for view in View for i, answer in enumerate(original)]
    config = Config(rollout=RolloutConfig(samples=2, vote_samples=5))
    [all_vote], _ = run_stage([step])
    [few_vote], _ = run_stage([[r for r in step if r.sample < 2]])
    assert {r.pseudo_label for r in all_vote} == {"2"} and {r.pseudo_label for r in few_vote} == {"1"}
    assert [r.reward for r in all_vote] == [0, 0, 1, 1, 1] * 2
    # the two that are trained on earn nothing, so their group has no signal, whatever the voters earn
    assert {r.advantage for r in with_advantages(all_vote, config)} == {0.0}


def test_exact_mode_and_math_mode_differ_where_spellings_do():
    step = [response(1, view, 0, answer) for view, answer in zip(View, ["0.5", r"\frac12"], strict=True)]
    assert [r.reward for r in run_stage([step])[0][0]] == [1, 1]
    assert [r.reward for r in run_stage([step], equality="exact")[0][0]] == [0, 0]


def test_owners_use_math_verify_for_the_hard_answers():
    step = [response(pair_id, View.ORIGINAL, 0, r"\sin(\pi/6)") for pair_id in range(3)]
    step += [
        response(pair_id, View.REPHRASED, 0, answer) for pair_id, answer in enumerate(["0.5", "0.6", "x<1"])
    ]
    scored, _ = run_stage([step[:3], step[3:]])
    assert [r.reward for part in scored for r in part] == [1, 0, 0, 1, 0, 0]


def test_only_answers_cross_never_text():
    marker = "SECRET REASONING " * 500
    step = [replace(r, text=marker + r.text) for r in random_step(5, pairs=8)]
    parts = [[r for r in step if r.view is view] for view in View]
    _, by_rank = run_stage(parts)
    _, plain = run_stage([[r for r in random_step(5, pairs=8) if r.view is view] for view in View])
    assert 0 < bytes_of(by_rank)[0] == bytes_of(plain)[0], "bytes do not depend on the length of the text"
    assert sum(bytes_of(by_rank)) < 100 * len(step)


def test_owners_differ_by_one_pair_at_most():
    ids = random.Random(6).sample(range(10_000), 50)

    def work(comm):
        stage = CoRewardStage(comm, Grader("exact"), Config())
        return stage._owners(set(ids[comm.rank :: comm.world_size]) | {ids[0]})

    owners, *others = run_threads(4, work)
    assert all(other == owners for other in others)
    counts = [list(owners.values()).count(rank) for rank in range(4)]
    assert sorted(owners) == sorted(ids) and max(counts) - min(counts) <= 1


def test_a_pair_without_one_of_its_views():
    step = [r for r in random_step(7) if r.view is View.ORIGINAL]
    with pytest.raises(AssertionError, match=r"pair \d+ has only \[\('policy', 'original'\)\]"):
        run_stage([step])


def test_a_sample_that_comes_twice():
    step = random_step(8, pairs=1)
    with pytest.raises(AssertionError, match="repeated samples"):
        run_stage([step, step[:1]])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("world_size", [2, 3])
def test_every_method_gives_one_result_for_any_placement(method, world_size):
    """Responses, the teacher's and the truth are scattered, or held by one rank: no difference."""
    needs = METHODS[method]
    config = RewardConfig(method=method)
    step = [
        replace(r, confidence=Confidence(float(i), 0.5 * i)) for i, r in enumerate(random_step(11, pairs=9))
    ]
    teacher = [replace(r, text=r.text.replace("0.5", "7")) for r in step] if needs.teacher else []
    truths = {r.pair_id: "5" for r in step} if needs.truth else None
    [alone], figures_alone = run_stage([step], config, views="both", teacher=[teacher], truths=truths)
    rng = random.Random(world_size)
    place = {group: rng.randrange(world_size) for group in sorted({r.group for r in step})}

    def scattered(responses):
        return [[r for r in responses if place[r.group] == rank] for rank in range(world_size)]

    theirs = scattered(teacher)[::-1]
    scored, by_rank = run_stage(scattered(step), config, views="both", teacher=theirs, truths=truths)
    assert verdicts(scored) == verdicts([alone])
    figures, expected = merged(by_rank), merged(figures_alone)
    figures.pop("stage/bytes"), expected.pop("stage/bytes")
    assert figures == pytest.approx(expected)
    assert len({r.reward for r in alone}) > 1


def test_the_tokens_of_an_answer_are_marked_on_request_where_they_are_trained_on():
    step = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["47", None, "47"])]
    step = [replace(r, response_ids=np.array([*r.text.encode(), 0], np.int32)) for r in step]

    def decode(token_ids):
        return bytes(token_ids).decode().rstrip("\0")

    def marked(mask):
        config = Config(
            algorithm=AlgorithmConfig(mask_answer=mask),
            reward=RewardConfig(method="majority_voting"),
            rollout=RolloutConfig(samples=2, vote_samples=3),
        )

        def work(comm):
            return CoRewardStage(comm, Grader("math"), config, decode=decode)(step)

        [(scored, figures)] = run_threads(1, work)
        return [r.answer_tokens for r in scored], figures.as_dict().get("original/answer_tokens")

    begin = len(r"so \boxed{")
    assert marked(True) == ([(begin, begin + 1), (), ()], 1.0), "the third response only votes"
    assert marked(False) == ([(), (), ()], None)


def test_one_view_is_enough_for_methods_that_do_not_cross():
    step = [response(1, View.REPHRASED, i, a) for i, a in enumerate(["2", "2.0", "3"])]
    [scored], [figures] = run_stage([step], RewardConfig(method="majority_voting"), views="rephrased")
    assert [(r.pseudo_label, r.majority, r.reward) for r in scored] == [("2", "2", 1)] * 2 + [("2", "2", 0)]
    assert "coreward/agreement" not in figures.as_dict()
    assert "original/top_answer_share" not in figures.as_dict()


def test_the_teachers_answers_vote_and_are_not_judged():
    step = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["2", "3"])]
    teacher = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["3", "3.0", "2"])]
    [scored], [figures] = run_stage([step], RewardConfig(method="co_rewarding_2"), teacher=[teacher])
    assert [(r.pseudo_label, r.label_share, r.reward) for r in scored] == [
        ("3", 2 / 3, 0.0),
        ("3", 2 / 3, 1.0),
    ]
    assert {r.majority for r in scored} == {"2"}, "the policy's own vote, its first sample winning the tie"
    assert figures.as_dict()["coreward/teacher_agreement"] == 0.0


def test_a_teacher_that_did_not_answer_is_found():
    step = [response(1, View.ORIGINAL, 0, "2")]
    with pytest.raises(AssertionError, match="teacher"):
        run_stage([step], RewardConfig(method="co_rewarding_2"))


def test_truth_reaches_the_method_that_needs_it_and_no_other():
    step = [response(1, View.ORIGINAL, i, a) for i, a in enumerate(["0.5", "2"])]
    [scored], _ = run_stage([step], RewardConfig(method="ground_truth"), truths={1: r"\frac12"})
    assert [(r.pseudo_label, r.reward) for r in scored] == [(r"\frac{1}{2}", 1.0), (r"\frac{1}{2}", 0.0)]
    for method in set(METHODS) - {"ground_truth"}:
        with pytest.raises(AssertionError, match="ground truths given"):
            run_stage([step], RewardConfig(method=method), truths={1: "2"}, views="both")


@pytest.mark.parametrize("company", [["5 km"], [], ["5 cm", "5 km"]])
def test_other_answers_do_not_decide_whether_one_is_right(company):
    """A bare number is right for a truth with a unit, whoever else names another unit; that one is wrong."""
    answers = ["5", "6", *company]
    step = [response(1, View.ORIGINAL, sample, answer) for sample, answer in enumerate(answers)]
    [scored], _ = run_stage([step], RewardConfig(method="ground_truth"), truths={1: "5 cm"})
    right = {"5": 1.0, "5 cm": 1.0, "6": 0.0, "5 km": 0.0}
    assert [r.reward for r in scored] == [right[answer] for answer in answers]
