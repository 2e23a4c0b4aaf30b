"""The plan of the experiment: its arms, its two stages, and the runs of each.

Every arm draws 512 responses per step, those of a teacher included. All but three answer the same 32 pairs of
questions in both wordings, so that arms differ in their reward only: majority voting on originals answers 64
originals, Co-rewarding-II 32 originals with policy and teacher, III 16 pairs with both. What is left
unmatched: II and III train on half of what is drawn, since the teacher's responses only vote.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rules import COMMON_RATE, RATES, Protocol

PILOT, CLAIMS, QUICK = "pilot", "claims", "quick"
STEPS = 60
PILOT_SEEDS = (1,)
CLAIMS_SEEDS = (11, 12, 13, 14, 15)
FEWER_SEEDS = CLAIMS_SEEDS[:3]
START_MODELS = {
    "arithmetic": "examples/arithmetic_arms/start_model",
    "wordings": "examples/wordings/start_model",
}
"""Task -> start model. All runs of a task begin with the same weights."""


@dataclass(frozen=True)
class Arm:
    """One method with its settings."""

    title: str
    method: str
    pairs: int = 32
    views: str = "both"
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def overrides(self) -> dict[str, Any]:
        return {
            "reward.method": self.method,
            "data.batch_pairs": self.pairs,
            "rollout.views": self.views,
            **self.settings,
        }


ARMS = {
    "random": Arm("Random", "random"),
    "co_reward": Arm("Co-Reward (I)", "co_reward"),
    "majority_voting": Arm("Majority voting, both wordings", "majority_voting"),
    "pooled_vote": Arm("Pooled vote", "pooled_vote"),
    "split_vote": Arm("Split vote", "split_vote"),
    "ground_truth": Arm("Ground truth", "ground_truth"),
    "harmonic": Arm("Harmonic", "harmonic"),
    "agreement_gate": Arm("Agreement gate", "agreement_gate"),
    "consensus": Arm(
        "Consensus, 4 of the other 8",
        "consensus",
        settings={
            "reward.options.judges": "other",
            "reward.options.subset": 4,
            "algorithm.advantage": "no-std",
        },
    ),
    "majority_original": Arm("Majority voting, originals", "majority_voting", 64, "original"),
    "co_rewarding_2": Arm("Co-rewarding-II", "co_rewarding_2", 32, "original"),
    "co_rewarding_3": Arm("Co-rewarding-III", "co_rewarding_3", 16),
    "self_certainty": Arm("Self-certainty", "self_certainty"),
    "entropy": Arm("Entropy", "entropy"),
}
"""In the order of the pilot's runs: if time is short, arms are dropped from the end."""
AT_ALL_RATES = (
    *("random", "co_reward", "majority_voting", "pooled_vote", "split_vote", "ground_truth", "harmonic"),
)
FIVE_SEEDS = ("co_reward", "majority_voting", "pooled_vote", "split_vote")
THREE_SEEDS = ("ground_truth", "random")
"""In the claims, before the best new arm."""
QUICK_ARMS = ("co_reward", "random")


@dataclass(frozen=True)
class Run:
    """One training run."""

    stage: str
    task: str
    arm: str
    seed: int
    rate: float

    @property
    def name(self) -> str:
        return f"{self.arm}_lr{self.rate:.0e}_seed{self.seed}"

    @property
    def overrides(self) -> dict[str, Any]:
        """Of config.yaml."""
        return {
            **ARMS[self.arm].overrides,
            "run.seed": self.seed,
            "run.steps": STEPS,
            "model.path": START_MODELS[self.task],
            "data.synthetic_task": self.task,
            "optimizer.lr": self.rate,
        }


def planned(stage: str, protocol: Protocol | None = None) -> list[Run]:
    """The runs of a stage, in the order in which they start.

    The claims go seed by seed: where they are spread over machines, which round differently, what a test
    pairs has been run on the same. Arms of five seeds that have another rate are also run at the common one.

    Raises:
        ValueError: the claims need a protocol, and there is none.
    """
    if stage == QUICK:
        return [Run(QUICK, "arithmetic", arm, 1, COMMON_RATE) for arm in QUICK_ARMS]
    if stage == PILOT:
        return [
            Run(PILOT, "arithmetic", arm, seed, rate)
            for arm in ARMS
            for rate in (RATES if arm in AT_ALL_RATES else (COMMON_RATE,))
            for seed in PILOT_SEEDS
        ]
    if protocol is None:
        raise ValueError(
            "the claims need a frozen protocol: make one with --freeze when the pilot is done, commit "
            "protocol.json with results/pilot, and tag that commit"
        )
    seeds: dict[str, Sequence[int]] = dict.fromkeys(FIVE_SEEDS, CLAIMS_SEEDS)
    seeds |= dict.fromkeys((*THREE_SEEDS, protocol.best_new_arm), FEWER_SEEDS)
    rates = {arm: {protocol.rates[arm]} for arm in seeds}
    for arm in FIVE_SEEDS:
        rates[arm].add(COMMON_RATE)
    return [
        Run(CLAIMS, "wordings", arm, seed, rate)
        for seed in CLAIMS_SEEDS
        for arm in seeds
        if seed in seeds[arm]
        for rate in sorted(rates[arm])
    ]
