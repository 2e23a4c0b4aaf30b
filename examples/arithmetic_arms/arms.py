"""The plan of the experiment: which runs there are, what a finished one leaves behind, what collapse is.

Every arm draws 512 responses per step, those of a teacher included: a method of one view answers 64
questions, Co-Reward 32 in two wordings, Co-rewarding-II 32 with policy and teacher, III 16 in two wordings
with both. What is left unmatched: II and III train on half of them, since the teacher's only vote.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SEEDS = (1, 2, 3)
RATES = (1e-5, 3e-5, 1e-4)
"""Learning rates tried on ground truth, with the first seed."""
HIGH = 10
"""Times the chosen rate: where methods that can collapse do."""
TUNED_ON = "ground_truth"
LAST = 3
"""Evaluations whose mean decides between learning rates, and that must be low for a collapse."""
COLLAPSED_PASS = 0.8
"""Greedy pass@1 below this share of its start, three evaluations in a row, is a collapse ..."""
COLLAPSED_SHARE = 0.3
"""... and so is one answer above this share of all responses of a step."""


@dataclass(frozen=True)
class Arm:
    """One method with its settings; `seeds` of them at the chosen learning rate, one at HIGH times that."""

    title: str
    settings: dict[str, Any]
    seeds: tuple[int, ...] = SEEDS

    @property
    def view(self) -> str:
        """The wording whose figures stand for the arm."""
        return "rephrased" if self.settings.get("rollout.views") == "rephrased" else "original"


def _one_view(method: str, **settings: Any) -> dict[str, Any]:
    return {"reward.method": method, "data.batch_pairs": 64, **settings}


ARMS = {
    "ground_truth": Arm("Ground truth", _one_view("ground_truth")),
    "co_reward": Arm("Co-Reward (I)", {"reward.method": "co_reward", "data.batch_pairs": 32}),
    "majority_voting": Arm("Majority voting", _one_view("majority_voting")),
    "self_certainty": Arm("Self-certainty", _one_view("self_certainty")),
    "entropy": Arm("Entropy", _one_view("entropy")),
    "random": Arm("Random", _one_view("random")),
    "co_rewarding_2": Arm(
        "Co-rewarding-II", {"reward.method": "co_rewarding_2", "data.batch_pairs": 32}, SEEDS[:1]
    ),
    "co_rewarding_3": Arm(
        "Co-rewarding-III", {"reward.method": "co_rewarding_3", "data.batch_pairs": 16}, SEEDS[:1]
    ),
    "majority_rephrased": Arm(
        "Majority voting, rephrased",
        _one_view("majority_voting", **{"rollout.views": "rephrased"}),
        SEEDS[:1],
    ),
}


@dataclass(frozen=True)
class Run:
    """One training run."""

    arm: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.arm}_lr{self.rate:.0e}_seed{self.seed}"

    @property
    def overrides(self) -> dict[str, Any]:
        return {**ARMS[self.arm].settings, "optimizer.lr": self.rate, "run.seed": self.seed}


Result = dict[str, Any]
"""What a finished run leaves: the content of its JSON file (run_arms.collect)."""


def sweep() -> list[Run]:
    """The runs that choose the learning rate."""
    return [Run(TUNED_ON, SEEDS[0], rate) for rate in RATES]


def chosen_rate(results: Iterable[Result]) -> float | None:
    """The rate with the best greedy pass@1 on ground truth; None until all of the sweep is there."""
    by_name = {result["name"]: result for result in results}
    runs = sweep()
    if not all(run.name in by_name for run in runs):
        return None
    return max(runs, key=lambda run: _last_mean(by_name[run.name], "greedy_pass@1")).rate


def planned(rate: float) -> list[Run]:
    """All other runs, those with three seeds in turn, so that a table of one seed is there early."""
    most = max(len(arm.seeds) for arm in ARMS.values())
    runs = [
        Run(name, arm.seeds[i], rate) for i in range(most) for name, arm in ARMS.items() if i < len(arm.seeds)
    ]
    high = [Run(name, arm.seeds[0], HIGH * rate) for name, arm in ARMS.items()]
    return [*runs[: len(ARMS)], *high, *runs[len(ARMS) :]]


def collapse_step(greedy: Sequence[tuple[int, float]], top_shares: Sequence[tuple[int, float]]) -> int | None:
    """The first step at which a run has collapsed, by the definition above; None if it has not.

    Args:
        greedy: (step, greedy pass@1) of every evaluation, the first one before training.
        top_shares: (step, share of the most frequent answer) of every training step.
    """
    found = [step for step, share in top_shares if share > COLLAPSED_SHARE][:1]
    low = [value < COLLAPSED_PASS * greedy[0][1] for _, value in greedy]
    for i in range(len(greedy) - LAST + 1):
        if all(low[i : i + LAST]):
            found.append(greedy[i][0])
            break
    return min(found, default=None)


def read_results(folder: Path) -> list[Result]:
    """The results in `folder`, by name.

    Raises:
        ValueError: they started from different models, and cannot be compared.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    models = {result["start_model"]: result["name"] for result in results}
    if len(models) > 1:
        raise ValueError(
            f"{folder} holds results of different start models ({', '.join(models.values())}); "
            "move one kind away"
        )
    return results


def _last_mean(result: Result, measure: str) -> float:
    values = result["evaluations"][measure][-LAST:]
    return sum(values) / len(values)
