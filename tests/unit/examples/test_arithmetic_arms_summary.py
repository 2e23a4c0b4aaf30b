"""What examples/arithmetic_arms makes of its results: intervals, tests, events, tables and the figure."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.arms import made_up
from tests.support.paths import ROOT

MODULES = ("arms", "rules", "results", "comparisons", "tables", "summarize_arms")


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    folder = str(ROOT / "examples" / "arithmetic_arms")
    sys.path.insert(0, folder)
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(folder)


def outcomes(seed: int, accuracies: tuple[float, ...], problems: int = 511) -> np.ndarray:
    """A row per seed. Problems differ in difficulty, so that seeds solve much the same ones."""
    rng = np.random.default_rng(seed)
    difficulty_P = rng.random(problems)
    noise_SP = rng.normal(0, 0.1, (len(accuracies), problems))
    return (difficulty_P + noise_SP < np.array(accuracies)[:, None]).astype(float)


SEEDS = (0.60, 0.68, 0.55, 0.63, 0.58)
"""Accuracies of five runs of one arm."""


def test_a_planted_difference_is_found(example: SimpleNamespace) -> None:
    before = outcomes(1, SEEDS)
    after = outcomes(
        1, tuple(a + 0.15 + d for a, d in zip(SEEDS, (0, 0.02, -0.02, 0.01, -0.01), strict=True))
    )
    value, low, high, p = example.comparisons.paired_difference(before, after, draws=2000)
    assert value == pytest.approx((after - before).mean())
    assert 0.05 < low < 0.15 < high < 0.25 and p < 0.01


def test_without_a_difference_none_is_found(example: SimpleNamespace) -> None:
    """Of 60 pairs of arms without one, each with its own seeds, an interval without 0 is rare."""
    found = 0
    for number in range(60):
        rng = np.random.default_rng(number)
        accuracies = [tuple(0.6 + rng.normal(0, 0.06, 5)) for _ in range(2)]
        before, after = (outcomes(number, a, problems=200) for a in accuracies)
        difference = example.comparisons.paired_difference(before, after, draws=400)
        found += difference.low > 0 or difference.high < 0
        assert (difference.p < 0.04) <= (difference.low > 0 or difference.high < 0)
    assert found <= 6


def test_pairing_by_seed_narrows_the_interval(example: SimpleNamespace) -> None:
    before, after = outcomes(1, SEEDS), outcomes(1, tuple(a + 0.1 for a in SEEDS))
    paired = example.comparisons.paired_difference(before, after, draws=2000)
    crossed = example.comparisons.paired_difference(before[::-1], after, draws=2000)
    assert paired.high - paired.low < 0.7 * (crossed.high - crossed.low)


def test_one_seed_has_the_interval_of_its_questions(example: SimpleNamespace) -> None:
    before, after = np.zeros((1, 400)), np.zeros((1, 400))
    after[0, :100] = 1
    value, low, high, _ = example.comparisons.paired_difference(before, after, draws=4000)
    error = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert (value, low, high) == pytest.approx((0.25, 0.25 - error, 0.25 + error), abs=0.005)


def test_holm(example: SimpleNamespace) -> None:
    assert example.comparisons.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert example.comparisons.holm([0.5, 0.001]) == pytest.approx([0.5, 0.002])
    assert example.comparisons.holm([0.9, 0.8]) == [1.0, 1.0]


def pilot_run(example: SimpleNamespace, arm: str = "co_reward") -> Any:
    return example.arms.Run("pilot", "arithmetic", arm, 1, 3e-5)


@pytest.mark.parametrize(
    ("values", "share", "fell", "collapsed"),
    [
        ([0.5, 0.6, 0.46], 0.1, None, None),
        ([0.5, 0.45, 0.6], 0.1, 5, None),
        ([0.5, 0.39, 0.39, 0.39], 0.1, 5, 5),
        ([0.5, 0.39, 0.39, 0.41, 0.39], 0.1, 5, None),
        ([0.5, 0.6], 0.31, None, 7),
    ],
)
def test_events(
    example: SimpleNamespace, values: list[float], share: float, fell: int | None, collapsed: int | None
) -> None:
    validation = tuple(values) + (0.5,) * (13 - len(values))
    result = made_up(pilot_run(example), validation=validation)
    result["steps"]["top_answer_share"][6] = share
    assert example.comparisons.fall_step(result) == fell
    assert example.comparisons.collapse_step(result) == collapsed


@pytest.mark.parametrize(
    ("alarms", "fallen", "word"),
    [
        ({}, False, "quiet"),
        ({"forgetting alarm": 20}, False, "false"),
        ({}, True, "missed"),
        ({"forgetting alarm": 20, "template alarm": 10}, True, "in time"),
        ({"forgetting alarm": 20}, True, "late"),
    ],
)
def test_alarms_against_the_loss(
    example: SimpleNamespace, alarms: dict[str, int], fallen: bool, word: str
) -> None:
    validation = (0.5, 0.5, 0.5 - 0.1 * fallen, *[0.5] * 10)
    assert (
        example.comparisons.warned(made_up(pilot_run(example), validation=validation, alarms=alarms)) == word
    )


def test_regret_and_rank_agreement(example: SimpleNamespace) -> None:
    validation = tuple(0.5 + 0.01 * n for n in range(13))
    result = made_up(pilot_run(example), validation=validation)
    assert example.comparisons.regret(result) == pytest.approx(0.10), "step 10 is chosen, step 60 is best"
    result["probe"]["probe/agreement"] = [0.5 + 0.02 * n for n in range(13)]
    assert example.comparisons.rank_agreement(result) == 1
    result["probe"]["probe/agreement"].reverse()
    assert example.comparisons.rank_agreement(result) == -1


def test_questions_that_moved(example: SimpleNamespace) -> None:
    runs = [made_up(pilot_run(example), start="0011", chosen=chosen) for chosen in ("1100", "1011")]
    assert example.comparisons.moves(runs) == (1.5, 1.0)


def test_the_two_wordings_of_a_problem_are_drawn_together(example: SimpleNamespace) -> None:
    run = example.arms.Run("claims", "wordings", "co_reward", 11, 3e-5)
    result = made_up(run, chosen="1011")
    assert example.results.outcomes_of(result, "chosen").tolist() == [0.5, 1.0]
    arithmetic = made_up(pilot_run(example), chosen="1011")
    assert example.results.outcomes_of(arithmetic, "chosen").tolist() == [1, 0, 1, 1]


def digits(row: np.ndarray) -> str:
    return "".join(str(int(value)) for value in row)


def claims(example: SimpleNamespace) -> list[dict[str, Any]]:
    """Five seeds; Co-Reward is better than the other votes, which are alike."""
    start = digits(outcomes(1, (0.5,), 200)[0])
    results = []
    for arm, gain in (("co_reward", 0.3), ("split_vote", 0.1), ("majority_voting", 0.1)):
        rows = outcomes(1, tuple(a - 0.1 + gain for a in SEEDS), 200)
        for seed, row in zip(example.arms.CLAIMS_SEEDS, rows, strict=True):
            run = example.arms.Run("claims", "wordings", arm, seed, 3e-5)
            results.append(made_up(run, start=start, chosen=digits(row), last=digits(row)))
    return results


def test_the_page_of_the_claims(example: SimpleNamespace, tmp_path: Path) -> None:
    page = example.summarize_arms.write_summary(claims(example), tmp_path, "claims").read_text()
    tests, _, of_last_step = page.partition("of the last step: no tests")
    rows = {line.split(" | ")[1]: line for line in tests.splitlines() if "? |" in line}
    assert rows["by judges of the other wording?"].endswith("| yes |")
    assert rows["by not being judged by oneself?"].endswith("| no difference found |")
    assert "| yes |" not in of_last_step
    assert "what do labels add?" not in page, "ground truth was not run"
    assert "greedy, plain | greedy, hard" in page
    assert (tmp_path / "claims.png").stat().st_size > 10_000
    assert (tmp_path / "claims_short.png").stat().st_size > 10_000


def test_the_table_of_training(example: SimpleNamespace) -> None:
    """Means of the first and last ten steps over seeds; a figure that an arm has not stays empty."""
    runs = [made_up(pilot_run(example)), made_up(pilot_run(example)), made_up(pilot_run(example, "entropy"))]
    for run, last in zip(runs, (0.6, 0.8, 0.1), strict=True):
        run["steps"] = {"vote_accuracy": [0.5] * 10 + [0.0] * 40 + [last] * 10}
    head, _, *rows = example.tables.training(runs)
    assert head.startswith("| arm | rate | vote accuracy | ")
    assert rows == [
        "| Co-Reward (I) | 3e-05 | 0.500 -> 0.700 |  |  |  |  |",
        "| Entropy | 3e-05 | 0.500 -> 0.100 |  |  |  |  |",
    ]


def test_an_arm_of_two_rates_is_tested_at_its_own_and_compared_at_the_common_one(
    example: SimpleNamespace,
) -> None:
    results = claims(example)
    lower = [{**r, "rate": 1e-5, "test": {**r["test"], "chosen": r["test"]["start"]}} for r in results]
    lower = [r for r in lower if r["arm"] == "split_vote"]

    def differences(given: list[dict[str, Any]]) -> list[str]:
        rows = [line for line in example.tables.comparisons(given) if "by not being judged" in line]
        return [row.split(" | ")[2] for row in rows]

    own, _, *at_the_common_rate = differences([*results, *lower])
    assert at_the_common_rate == differences(results)
    assert float(own) < -0.1 < float(at_the_common_rate[0])


def test_there_is_no_verdict_before_all_seeds_are_there(example: SimpleNamespace) -> None:
    """And the correction is over three tests, however many can be made by then."""
    page = example.tables.all_tables(claims(example)[1:], "claims")
    row = next(line for line in page if "by judges of the other wording?" in line)
    assert row.endswith("| seeds are missing |")
    results = [r for r in claims(example) if r["arm"] == "majority_voting"]
    row = next(line for line in example.tables.all_tables(results, "claims") if "anything gained" in line)
    by_arm = {"majority_voting": results}
    alone = example.comparisons.compare(by_arm, example.comparisons.PRIMARY[0], "chosen").p
    assert row.split(" | ")[4] == f"{3 * alone:.4f}"


def test_the_page_of_the_pilot(example: SimpleNamespace, tmp_path: Path) -> None:
    results = [made_up(run) for run in example.arms.planned("pilot")]
    for result in results:
        if (result["arm"], result["rate"]) == ("co_reward", 1e-4):
            result["probe"]["probe/agreement"] = [0.9] * 13
        if (result["arm"], result["rate"]) == ("co_reward", 1e-5):
            result["validation"]["greedy_pass@1"][3] = 0.9
    for number, result in enumerate(results):
        (tmp_path / f"{number}.json").write_text(json.dumps(result))
    page = example.summarize_arms.write_summary(
        example.results.read_results(tmp_path), tmp_path, "pilot"
    ).read_text()
    assert "| Co-Reward (I) | 0.0001: 0.750 / 1.000 | 1e-05: 0.750 / 1.000 | 3e-05: 0.750 / 1.000 |" in page
    assert "| start model |  |  |  | 0.500 |  | 0.400 | 0.500 | 0.800 |  |  |" in page
    assert "28 runs, 2.3 hours of runs; commit aaaaaaaaaaaa" in page


def test_a_pilot_that_is_not_done_has_a_page(example: SimpleNamespace, tmp_path: Path) -> None:
    results = [made_up(pilot_run(example))]
    page = example.summarize_arms.write_summary(results, tmp_path, "pilot").read_text()
    assert "need random rewards at every rate" in page


def test_no_results_is_one_line(example: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no results of the claims yet"):
        example.summarize_arms.write_summary([], tmp_path, "claims")
