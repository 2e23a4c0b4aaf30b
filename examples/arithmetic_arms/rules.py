"""The label-free rules of README.md: which checkpoint, which learning rates, which new arm. Pure.

They read the figures of the probe only. `--freeze` applies them to the pilot and writes protocol.json, which
the claims need.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.evaluation import health

RATES = (1e-5, 3e-5, 1e-4)
COMMON_RATE = 3e-5
"""Of the arms with one rate, and of the comparison between new arms."""
NOISE_STEPS = 20
"""S3: a rate is above the noise floor if random rewards leave k below c after so many steps."""
PILOT_CHANCE = 0.6953
"""probe/kept_by_chance of the pilot's start model: the pilot was run before the program measured it."""
CLAIMED = ("co_reward", "majority_voting", "pooled_vote", "split_vote", "ground_truth", "random")
"""Arms of the claims, each of which needs a rate."""
NEW_ARMS = ("harmonic", "agreement_gate", "consensus")

Result = dict[str, Any]
"""What a finished run leaves: the content of its JSON file (results.py)."""


@dataclass(frozen=True)
class Protocol:
    """What the pilot has decided. `thresholds` are those of the alarms."""

    pilot_commit: str
    kept_rates: tuple[float, ...]
    rates: Mapping[str, float]
    best_new_arm: str
    thresholds: Mapping[str, float]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> "Protocol | None":
        if not path.exists():
            return None
        content = json.loads(path.read_text())
        return cls(**{**content, "kept_rates": tuple(content["kept_rates"])})


def thresholds() -> dict[str, float]:
    """Those that the program has now."""
    return {
        "SURE": health.SURE,
        "ENTROPY_LEFT": health.ENTROPY_LEFT,
        "TOP_ADDED": health.TOP_ADDED,
        "INFORMATION_LOST": health.INFORMATION_LOST,
        "FLIPS_LEFT": health.FLIPS_LEFT,
        "ENTROPY_OF_EXTINCT": health.ENTROPY_OF_EXTINCT,
        "AVERAGED": health.AVERAGED,
    }


def chosen_checkpoint(probes: health.Probes) -> tuple[int, float | None]:
    """S1: the step of the checkpoint and its rating; step 0, the start model, and None if none is rated."""
    best: tuple[int, float | None] = (0, None)
    for n in range(len(probes)):
        rated = health.rating(probes[: n + 1])
        if rated is not None and (best[1] is None or rated > best[1]):
            best = int(probes[n]["step"]), rated
    return best


def kept_rates(results: Iterable[Result]) -> tuple[float, ...]:
    """S3 (i): the rates at which random rewards leave k of the probe at what chance leaves or above.

    The lowest if none does: something has to be trained at.
    """
    kept = {r["rate"]: _keeps(r, NOISE_STEPS) for r in results if r["arm"] == "random"}
    return tuple(sorted(rate for rate, keeps in kept.items() if keeps)) or (min(RATES),)


def label_free_rate(results: Iterable[Result], arm: str, allowed: Sequence[float]) -> float:
    """S3 (ii): of the allowed rates the one with the largest S1 rating, the lower one of equals.

    A run without a rated checkpoint comes last. An arm of one rate keeps it if it is allowed, and else has
    the largest allowed one below it.
    """
    own = {r["rate"]: _rating(r) for r in results if r["arm"] == arm}
    tried = sorted(rate for rate in own if rate in allowed)
    if not tried:
        return max((rate for rate in allowed if rate <= max(own)), default=min(allowed))
    return max(tried, key=lambda rate: (own[rate], -rate))


def best_new_arm(results: Iterable[Result]) -> str:
    """The new arm with the largest S1 rating at the common rate, at which all of them have been run."""
    rated = {r["arm"]: _rating(r) for r in results if r["rate"] == COMMON_RATE}
    return max((arm for arm in NEW_ARMS if arm in rated), key=lambda arm: rated[arm])


def freeze(results: Sequence[Result]) -> Protocol:
    """What the rules make of the pilot.

    Raises:
        ValueError: runs are missing that the rules need.
    """
    there = {(r["arm"], r["rate"]) for r in results}
    needed = [(arm, rate) for arm in CLAIMED for rate in RATES]
    missing = [f"{arm} at {rate:g}" for arm, rate in needed if (arm, rate) not in there]
    if not any((arm, COMMON_RATE) in there for arm in NEW_ARMS):
        missing.append(f"one of {', '.join(NEW_ARMS)} at {COMMON_RATE:g}")
    if missing:
        raise ValueError(f"the protocol cannot be frozen, the pilot lacks {'; '.join(missing)}")
    allowed, new = kept_rates(results), best_new_arm(results)
    return Protocol(
        pilot_commit=results[0]["commit"],
        kept_rates=allowed,
        rates={arm: label_free_rate(results, arm, allowed) for arm in (*CLAIMED, new)},
        best_new_arm=new,
        thresholds=thresholds(),
    )


def check_protocol(protocol: Protocol, pilot: Sequence[Result]) -> None:
    """Raises ValueError if the protocol is not what the rules make of the committed pilot here."""
    expected = asdict(freeze(pilot))
    for name, value in asdict(protocol).items():
        if value != expected[name]:
            raise ValueError(
                f"protocol.json has {name}={value}, but the rules make {expected[name]} of results/pilot; "
                "make it anew with --freeze, and commit it before the claims"
            )


def _probes(result: Result) -> list[dict[str, float]]:
    """The probes of a result as health.py has them: what a probe did not have is not there."""
    columns = result["probe"]
    rows = zip(*columns.values(), strict=True)
    probes = [{name: v for name, v in zip(columns, row, strict=True) if v is not None} for row in rows]
    if result["stage"] == "pilot":
        probes[0].setdefault(health.BY_CHANCE, PILOT_CHANCE)
    return probes


def by_todays_alarms(result: Result) -> Result:
    """The result with the alarms and the S1 checkpoint that the thresholds of now make of its probes."""
    probes = _probes(result)
    step, _ = chosen_checkpoint(probes)
    return {**result, "chosen": step, "alarms": health.first_alarms(probes)}


def _rating(result: Result) -> float:
    """That of its S1 checkpoint by the thresholds of now; below all others without one."""
    _, rating = chosen_checkpoint(_probes(result))
    return -1.0 if rating is None else rating


def _keeps(result: Result, step: int) -> bool:
    """Whether k of the last probe up to a step is at least c; true if the start was sure of no prompt."""
    probes = [p for p in _probes(result) if p["step"] <= step]
    return probes[-1].get(health.KEPT, 1.0) >= probes[0].get(health.BY_CHANCE, 0.0)
