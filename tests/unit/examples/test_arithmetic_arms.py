"""The experiment of examples/arithmetic_arms: equal rollouts, the rule for collapse, the order of runs."""

import importlib
import json
import sys

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.preflight.costs import batch_arithmetic
from megatron_coreward.preflight.method import check_method
from tests.support.paths import ROOT

FOLDER = ROOT / "examples" / "arithmetic_arms"


@pytest.fixture(scope="module")
def arms():
    sys.path.insert(0, str(FOLDER))
    yield importlib.import_module("arms")
    sys.path.remove(str(FOLDER))


def result(run, greedy):
    return {
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "rate": run.rate,
        "start_model": "a",
        "collapse_step": None,
        "evaluations": {"step": [0, 5, 10], "greedy_pass@1": [0.5, greedy, greedy]},
    }


def test_every_arm_draws_equally_many_responses(arms):
    drawn = {}
    for name in arms.ARMS:
        run = arms.Run(name, 1, 1e-5)
        config = load_config([FOLDER / "config.yaml"], [f"{k}={v}" for k, v in run.overrides.items()])
        check_method(config)
        batch = batch_arithmetic(config, world_size=1, pairs_in_data=2000)
        drawn[name] = batch.drawn + batch.by_teacher
    assert set(drawn.values()) == {512}, drawn


@pytest.mark.parametrize(
    ("greedy", "shares", "step"),
    [
        ([0.5, 0.6, 0.7, 0.7], [0.1, 0.1], None),
        ([0.5, 0.39, 0.39, 0.39], [0.1], 5),
        ([0.5, 0.39, 0.39, 0.41], [0.1], None),
        ([0.5, 0.4, 0.4, 0.4], [0.1], None),  # not below
        ([0.5, 0.5, 0.3, 0.3, 0.3], [0.1], 10),
        ([0.5, 0.5, 0.3, 0.3, 0.3], [0.1, 0.1, 0.31], 3),
        ([0.5, 0.1, 0.1, 0.1], [0.3] * 9 + [0.4], 5),
    ],
)
def test_collapse(arms, greedy, shares, step):
    evaluations = [(5 * i, value) for i, value in enumerate(greedy)]
    assert arms.collapse_step(evaluations, [(i + 1, share) for i, share in enumerate(shares)]) == step


def test_the_rate_is_chosen_on_ground_truth_when_all_rates_were_tried(arms):
    low, middle, high = arms.sweep()
    assert {run.arm for run in arms.sweep()} == {"ground_truth"}
    results = [result(low, 0.6), result(middle, 0.7)]
    assert arms.chosen_rate(results) is None
    assert arms.chosen_rate([*results, result(high, 0.65)]) == middle.rate


def test_the_plan_has_every_arm_and_no_run_twice(arms):
    runs = arms.planned(3e-5)
    assert len({run.name for run in runs}) == len(runs) == 6 * 3 + 3 + 9
    for name, arm in arms.ARMS.items():
        assert [run.seed for run in runs if run.arm == name and run.rate == 3e-5] == list(arm.seeds)
    assert {run.arm for run in runs[:9]} == set(arms.ARMS), "a table of one seed is there early"


def test_results_of_different_start_models_are_not_mixed(arms, tmp_path):
    one, two = (result(run, 0.5) for run in arms.sweep()[:2])
    for r in (one, {**two, "start_model": "b"}):
        (tmp_path / f"{r['name']}.json").write_text(json.dumps(r))
    with pytest.raises(ValueError, match="different start models"):
        arms.read_results(tmp_path)


def test_committed_results_are_of_one_model_and_of_the_plan(arms):
    results = arms.read_results(FOLDER / "results")
    rate = arms.chosen_rate(results)
    names = {run.name for run in arms.sweep() + (arms.planned(rate) if rate else [])}
    assert {r["name"] for r in results} <= names
