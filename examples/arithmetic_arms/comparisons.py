"""The statistics of README.md: paired bootstrap over seeds and questions, Holm, collapse, alarms and regret.

Shape suffixes: S seeds, P problems.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from results import CHOSEN, GREEDY, START, outcomes_of
from rules import Result

from megatron_coreward.evaluation.health import AGREEMENT

DRAWS, BOOTSTRAP_SEED = 10_000, 1
FALLEN = 0.05
"""A run has lost accuracy when greedy pass@1 on the validation split is this far below its start."""
COLLAPSED_PASS, IN_A_ROW = 0.8, 3
"""Greedy pass@1 below this share of its start, three evaluations in a row, is a collapse ..."""
COLLAPSED_SHARE = 0.3
"""... and so is one answer above this share of all responses to originals of a step."""


class Difference(NamedTuple):
    """A mean difference, its 95% interval, and the two-sided p-value of "there is none"."""

    value: float
    low: float
    high: float
    p: float


def paired_difference(before_SP: np.ndarray, after_SP: np.ndarray, draws: int = DRAWS) -> Difference:
    """after - before, paired by seed and problem: both are drawn anew, the same for both arms.

    Few seeds make two corrections necessary. Of S seeds S - 1 are drawn, or the variance of a mean over them
    would be too small by the factor (S - 1) / S; and deviations are stretched as Student's t stretches normal
    ones, for that variance is itself an estimate. With one seed only problems are drawn.
    """
    assert before_SP.shape == after_SP.shape, f"not the same runs: {before_SP.shape}, {after_SP.shape}"
    change_SP = after_SP - before_SP
    seeds, problems = change_SP.shape
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    degrees = max(1, seeds - 1)
    means = np.empty(draws)
    for draw in range(draws):
        chosen = change_SP[rng.integers(seeds, size=degrees)]
        means[draw] = chosen[:, rng.integers(problems, size=problems)].mean()
    value = change_SP.mean()
    if seeds > 1:
        means = value + (means - value) * np.sqrt(degrees / rng.chisquare(degrees, size=draws))
    low, high = np.percentile(means, [2.5, 97.5])
    tail = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return Difference(float(value), float(low), float(high), min(1.0, 2 * (tail + 1) / (draws + 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given (Holm 1979): below 0.05 a difference is found."""
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


@dataclass(frozen=True)
class Comparison:
    """`after` - `before`, names of arms, where "" is the start model; `asks` is what it separates."""

    after: str
    before: str
    asks: str


PRIMARY = (
    Comparison("majority_voting", "", "is anything gained by voting?"),
    Comparison("split_vote", "majority_voting", "by not being judged by oneself?"),
    Comparison("co_reward", "split_vote", "by judges of the other wording?"),
)
"""The tests: the three effects in a gain of Co-Reward, in greedy pass@1 of the chosen checkpoint on the test
split. Holm over these."""
SECONDARY = (
    Comparison("co_reward", "", "what does Co-Reward gain?"),
    Comparison("co_reward", "majority_voting", "more than voting within a wording?"),
    Comparison("co_reward", "pooled_vote", "more than with the same voters pooled?"),
    Comparison("ground_truth", "co_reward", "what do labels add?"),
    Comparison("random", "", "do steps without a signal gain?"),
)
"""With intervals, without a claim. The best new arm less Co-Reward is added."""


def compare(by_arm: Mapping[str, Sequence[Result]], comparison: Comparison, model: str) -> Difference | None:
    """The difference over the seeds that both arms have; None if there are none."""
    after = {r["seed"]: r for r in by_arm.get(comparison.after, [])}
    before = {r["seed"]: r for r in by_arm.get(comparison.before, [])} if comparison.before else after
    seeds = sorted(after.keys() & before.keys())
    if not seeds:
        return None
    old = model if comparison.before else START
    return paired_difference(
        np.array([outcomes_of(before[seed], old) for seed in seeds]),
        np.array([outcomes_of(after[seed], model) for seed in seeds]),
    )


def moves(results: Sequence[Result], model: str = CHOSEN) -> tuple[float, float]:
    """Questions of the test split that went from wrong to right and from right to wrong, mean over runs."""
    pairs = [(r["test"][START]["greedy"], r["test"][model]["greedy"]) for r in results]
    return (
        _mean([sum(a < b for a, b in zip(old, new, strict=True)) for old, new in pairs]),
        _mean([sum(a > b for a, b in zip(old, new, strict=True)) for old, new in pairs]),
    )


def fall_step(result: Result) -> int | None:
    """The first evaluation at which accuracy is FALLEN below its start; None if there is none."""
    values = result["validation"][GREEDY]
    steps = zip(result["validation"]["step"], values, strict=True)
    return next((step for step, value in steps if value <= values[0] - FALLEN), None)


def collapse_step(result: Result) -> int | None:
    """The first step at which a run has collapsed, by the definition above; None if it has not: censored."""
    values, steps = result["validation"][GREEDY], result["validation"]["step"]
    low = [value < COLLAPSED_PASS * values[0] for value in values]
    found = [steps[i] for i in range(len(low) - IN_A_ROW + 1) if all(low[i : i + IN_A_ROW])][:1]
    shares = enumerate(result["steps"]["top_answer_share"], start=1)
    found += [step for step, share in shares if share > COLLAPSED_SHARE][:1]
    return min(found, default=None)


def warned(result: Result) -> str:
    """How the alarms stand to the loss of accuracy: "in time", "late", "missed", "false" or "quiet"."""
    rung, fallen = min(result["alarms"].values(), default=None), fall_step(result)
    if fallen is None:
        return "quiet" if rung is None else "false"
    if rung is None:
        return "missed"
    return "in time" if rung <= fallen else "late"


def regret(result: Result) -> float:
    """Greedy pass@1 on the validation split that the checkpoint of S1 has less than the best of the run.

    The best is the highest of several noisy values, so this is an upper bound of what labels would gain.
    """
    validation = dict(zip(result["validation"]["step"], result["validation"][GREEDY], strict=True))
    return max(validation.values()) - validation[result["chosen"]]


def rank_agreement(result: Result) -> float | None:
    """Kendall's tau (a) of the probe's agreement with greedy pass@1 on the validation split, over steps."""
    validation = dict(zip(result["validation"]["step"], result["validation"][GREEDY], strict=True))
    probe = zip(result["probe"]["step"], result["probe"][AGREEMENT], strict=True)
    points = [(g, validation[step]) for step, g in probe if step in validation]
    signs = [np.sign((g - h) * (a - b)) for i, (g, a) in enumerate(points) for h, b in points[:i]]
    return float(np.mean(signs)) if signs else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
