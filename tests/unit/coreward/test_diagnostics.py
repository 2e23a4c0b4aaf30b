"""Metrics of a step with and without the ground truth."""

import random
from dataclasses import replace

import numpy as np
import pytest

from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.diagnostics import (
    diagnose,
    ground_truth_figures,
    label_free_figures,
    repetition,
)
from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.grading.grader import Grader
from megatron_coreward.types import Confidence, QuestionPair, ScoredResponse, View
from tests.support.fakes import run_threads
from tests.support.metric_names import undocumented

ORIGINAL, REPHRASED = View.ORIGINAL, View.REPHRASED


def scored(pair_id, view, sample, answer, label, reward, tokens=4, finish_reason="stop", majority=""):
    return ScoredResponse(
        pair_id=pair_id,
        view=view,
        sample=sample,
        prompt_ids=(1,),
        response_ids=np.arange(tokens, dtype=np.int32) % 4,
        rollout_logps=np.full(tokens, -0.5, np.float32),
        text="",
        finish_reason=finish_reason,
        weights_version=0,
        answer=answer,
        pseudo_label=label,
        reward=reward,
        majority=majority,
    )


def pair(pair_id, answer, level=""):
    return QuestionPair(pair_id, "q", "r", (1,), (1,), answer, level)


CO_REWARD = METHODS["co_reward"]
STEP = with_advantages(
    [
        scored(1, ORIGINAL, 0, "5", "5", 1.0, majority="5"),
        scored(1, ORIGINAL, 1, "6", "5", 0.0, tokens=8, majority="5"),
        scored(1, REPHRASED, 0, "5.0", "5", 1.0, majority="5.0"),
        scored(1, REPHRASED, 1, "", "5", 0.0, finish_reason="length", majority="5.0"),
        scored(2, ORIGINAL, 0, r"\frac{1}{2}", "3", 0.0, majority=r"\frac{1}{2}"),
        scored(2, ORIGINAL, 1, "", "3", 0.0, finish_reason="length", majority=r"\frac{1}{2}"),
        scored(2, REPHRASED, 0, "3", "0.5", 0.0, majority="3"),
        scored(2, REPHRASED, 1, "3", "0.5", 0.0, majority="3"),
    ],
    Config(),
)
PAIRS = {1: pair(1, "5", "Level 2"), 2: pair(2, "0.5", "Level ?")}


def truth_figures(step, pairs, grader, method=CO_REWARD):
    figures, _ = ground_truth_figures(step, pairs, grader, method)
    return figures


@pytest.fixture(scope="module")
def grader():
    grader = Grader()
    yield grader


def test_label_free_figures():
    figures = label_free_figures(STEP).as_dict()
    assert figures == pytest.approx(
        {
            "reward/mean": 2 / 8,
            "original/answered": 3 / 4,
            "original/truncated": 1 / 4,
            "original/response_tokens": 5.0,
            "original/entropy": 0.5,
            "original/repetition": (1 / 5) / 4,  # of the five runs of the long response the last is the first
            "original/signal_groups": 1 / 2,
            "rephrased/answered": 3 / 4,
            "rephrased/truncated": 1 / 4,
            "rephrased/response_tokens": 4.0,
            "rephrased/entropy": 0.5,
            "rephrased/repetition": 0.0,
            "rephrased/signal_groups": 1 / 2,
        }
    )


def test_confidence_is_shown_where_it_was_measured():
    measured = replace(STEP[0], confidence=Confidence(self_certainty=2.0, entropy=0.1))
    assert label_free_figures([measured]).as_dict()["original/self_certainty"] == 2.0


def test_repetition():
    assert repetition(np.array([1, 2, 3])) == 0.0
    assert repetition(np.arange(100)) == 0.0
    assert repetition(np.zeros(103, np.int32)) == 1 - 1 / 100
    assert repetition(np.array([1, 2, 3, 4] * 2)) == pytest.approx(1 / 5)
    assert repetition(np.array([1, 2, 3, 4, 4, 3, 2, 1])) == 0.0, "the order counts"
    large = np.array([151_000, 7, 151_642, 3] * 3, np.int32)
    assert repetition(large) == pytest.approx(5 / 9)


def test_ground_truth_figures(grader):
    assert truth_figures(STEP, PAIRS, grader).as_dict() == {
        "diagnostics/original/pass@1": 2 / 4,
        "diagnostics/rephrased/pass@1": 1 / 4,
        # the vote of the originals is 5 and 0.5, that of the rephrasings 5 and 3
        "diagnostics/original/label_accuracy": 1.0,
        "diagnostics/original/label_accuracy/level_2": 1.0,
        "diagnostics/original/vote_accuracy": 1.0,
        "diagnostics/original/vote_accuracy/level_2": 1.0,
        "diagnostics/rephrased/label_accuracy": 1 / 2,
        "diagnostics/rephrased/label_accuracy/level_2": 1.0,
        "diagnostics/rephrased/vote_accuracy": 1 / 2,
        "diagnostics/rephrased/vote_accuracy/level_2": 1.0,
        # all but pair 2, original, sample 0: right, yet without reward
        "diagnostics/reward_accuracy": 7 / 8,
    }


def test_a_label_belongs_to_the_wording_that_it_was_voted_on(grader):
    """Here the originals are labelled 5 and 3, of which the second is wrong."""
    own = truth_figures(STEP, PAIRS, grader, METHODS["majority_voting"]).as_dict()
    assert own["diagnostics/original/label_accuracy"] == 1 / 2
    assert own["diagnostics/rephrased/label_accuracy"] == 1.0


def test_what_makes_no_sense_for_a_method_is_left_out(grader):
    names = {name: truth_figures(STEP, PAIRS, grader, METHODS[name]).as_dict() for name in METHODS}
    assert not any("label_accuracy" in key for key in names["ground_truth"]), "it would be 1"
    assert "diagnostics/reward_accuracy" not in names["entropy"], "its rewards judge nothing"
    assert "diagnostics/original/vote_accuracy" in names["random"]


def test_unknown_truths_and_missing_labels_are_left_out(grader):
    assert truth_figures(STEP, {1: pair(1, None), 2: pair(2, " ")}, grader).as_dict() == {}
    unlabelled = [scored(3, ORIGINAL, 0, "1", "", 0.0)]
    assert set(truth_figures(unlabelled, {3: pair(3, "1")}, grader).as_dict()) == {
        "diagnostics/original/pass@1",
        "diagnostics/reward_accuracy",
    }


def test_figures_add_up_over_ranks(grader):
    whole = label_free_figures(STEP)
    whole.merge(truth_figures(STEP, PAIRS, grader))
    groups = sorted({r.group for r in STEP})
    for seed in range(5):
        place = {group: random.Random(seed).randrange(3) for group in groups}
        total = label_free_figures([])
        for rank in range(3):
            part = [r for r in STEP if place[r.group] == rank]
            total.merge(label_free_figures(part))
            total.merge(truth_figures(part, PAIRS, grader))
        assert total.as_dict() == whole.as_dict()


def test_diagnose_gives_every_rank_all_figures():
    step = [replace(r, text=rf"\boxed{{{r.answer}}}") for r in STEP]

    def work(comm):
        grader = Grader()
        stage = CoRewardStage(comm, grader, Config())
        judged = stage([r for i, r in enumerate(step) if i // 2 % comm.world_size == comm.rank])
        return diagnose(*judged, PAIRS, grader, CO_REWARD, comm).as_dict()

    [alone] = run_threads(1, work)
    for figures in run_threads(3, work):
        assert {**figures, "stage/bytes": 0.0} == alone
    assert alone["coreward/agreement"] == 0.5 and alone["diagnostics/reward_accuracy"] == 7 / 8
    assert alone["diagnostics/rephrased/vote_accuracy"] == 0.5
    assert alone["diagnostics/either_vote_accuracy"] == 1.0
    assert undocumented(alone) == []
