import random
from dataclasses import replace

import numpy as np
import pytest

from megatron_coreward.algorithm.advantages import with_advantages
from megatron_coreward.config import Config, RewardConfig
from megatron_coreward.coreward.alignment import CoRewardStage
from megatron_coreward.coreward.diagnostics import diagnose, ground_truth_figures, label_free_figures
from megatron_coreward.coreward.grader import Grader
from megatron_coreward.types import ScoredResponse, View
from megatron_coreward.utils.metrics import undocumented
from tests.fakes import run_threads

ORIGINAL, REPHRASED = View.ORIGINAL, View.REPHRASED


def scored(pair_id, view, sample, answer, label, reward, tokens=4, finish_reason="stop"):
    ids, logps = np.zeros(tokens, np.int32), np.zeros(tokens, np.float32)
    return ScoredResponse(
        pair_id, view, sample, (1,), ids, logps, "", finish_reason, 0, answer, label, reward
    )


STEP = with_advantages(
    [
        scored(1, ORIGINAL, 0, "5", "5", 1.0),
        scored(1, ORIGINAL, 1, "6", "5", 0.0, tokens=8),
        scored(1, REPHRASED, 0, "5.0", "5", 1.0),
        scored(1, REPHRASED, 1, "", "5", 0.0, finish_reason="length"),
        scored(2, ORIGINAL, 0, r"\frac{1}{2}", "3", 0.0),
        scored(2, ORIGINAL, 1, "", "3", 0.0, finish_reason="length"),
        scored(2, REPHRASED, 0, "3", "0.5", 0.0),
        scored(2, REPHRASED, 1, "3", "0.5", 0.0),
    ],
    Config(),
)


@pytest.fixture(scope="module")
def grader():
    with Grader() as grader:
        yield grader


def test_label_free_figures():
    assert label_free_figures(STEP).as_dict() == {
        "reward/mean": 2 / 8,
        "original/answered": 3 / 4,
        "original/truncated": 1 / 4,
        "original/response_tokens": 5.0,
        "original/signal_groups": 1 / 2,
        "rephrased/answered": 3 / 4,
        "rephrased/truncated": 1 / 4,
        "rephrased/response_tokens": 4.0,
        "rephrased/signal_groups": 1 / 2,
    }


def test_ground_truth_figures(grader):
    assert ground_truth_figures(STEP, {1: "5", 2: "0.5"}, grader).as_dict() == {
        "diagnostics/original/pass@1": 2 / 4,
        "diagnostics/rephrased/pass@1": 1 / 4,
        # the vote of the originals is 5 and 0.5, that of the rephrasings 5 and 3
        "diagnostics/original/label_accuracy": 1.0,
        "diagnostics/rephrased/label_accuracy": 1 / 2,
        # all but pair 2, original, sample 0: right, yet without reward
        "diagnostics/reward_accuracy": 7 / 8,
    }


def test_unknown_truths_and_missing_labels_are_left_out(grader):
    assert ground_truth_figures(STEP, {1: None, 2: " "}, grader).as_dict() == {}
    assert ground_truth_figures(STEP, {}, grader).as_dict() == {}
    unlabelled = [scored(3, ORIGINAL, 0, "1", "", 0.0)]
    assert set(ground_truth_figures(unlabelled, {3: "1"}, grader).as_dict()) == {
        "diagnostics/original/pass@1",
        "diagnostics/reward_accuracy",
    }


def test_figures_add_up_over_ranks(grader):
    truths = {1: "5", 2: "0.5"}
    whole = label_free_figures(STEP)
    whole.merge(ground_truth_figures(STEP, truths, grader))
    groups = sorted({r.group for r in STEP})
    for seed in range(5):
        place = {group: random.Random(seed).randrange(3) for group in groups}
        total = label_free_figures([])
        for rank in range(3):
            part = [r for r in STEP if place[r.group] == rank]
            total.merge(label_free_figures(part))
            total.merge(ground_truth_figures(part, truths, grader))
        assert total.as_dict() == whole.as_dict()


def test_diagnose_gives_every_rank_all_figures():
    step = [replace(r, text=rf"\boxed{{{r.answer}}}") for r in STEP]
    truths = {1: "5", 2: "0.5"}

    def work(comm):
        with Grader() as grader:
            stage = CoRewardStage(comm, grader, RewardConfig())
            part = stage([r for i, r in enumerate(step) if i // 2 % comm.world_size == comm.rank])
            return diagnose(part, truths, stage, grader, comm).as_dict()

    [alone] = run_threads(1, work)
    for figures in run_threads(3, work):
        assert {**figures, "stage/bytes": 0.0} == alone
    assert alone["coreward/agreement"] == 0.5 and alone["diagnostics/reward_accuracy"] == 7 / 8
    assert undocumented(alone) == []
