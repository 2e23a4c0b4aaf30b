"""Runs that cannot learn, or have stopped to: what gives them away, and the key to look at.

Every rule looks at the figures so far and speaks once. `RunWarnings.summary` repeats in the run's last line
what was said, also about the data, so that a run which ends with "done" does not look sound when it is not.
A new rule is a new row of RULES.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from megatron_coreward.evaluation.health import ALARMS, Alarm, Probes
from megatron_coreward.types import ScoredResponse, View

logger = logging.getLogger(__name__)

FIRST_RESPONSES = 64
"""Responses after which it is known whether the model answers at all."""
FEW_ANSWERED = 0.05
STEPS_WITHOUT_SIGNAL = 5
KEPT_ACCURACY = 0.8
"""Share of its first accuracy that a run may fall to."""
_ENDING = 200

Metrics = Mapping[str, float]


@dataclass
class History:
    """What the rules look at. `responses` and `endings` (of two that hold no answer) are those of rank 0."""

    total_steps: int
    steps: list[Metrics] = field(default_factory=list)
    evaluations: list[Metrics] = field(default_factory=list)
    probes: Probes = ()
    responses: int = 0
    endings: list[str] = field(default_factory=list)

    def means(self, name: str) -> list[float]:
        """Each step's mean of a figure over the wordings that have it; steps without it are left out."""
        values = ([m[f"{v.value}/{name}"] for v in View if f"{v.value}/{name}" in m] for m in self.steps)
        return [sum(found) / len(found) for found in values if found]


def _no_answers(history: History) -> str:
    answered = history.means("answered")
    share = sum(answered) / max(len(answered), 1)
    if not answered or history.responses < FIRST_RESPONSES or share >= FEW_ANSWERED:
        return ""
    shown = "".join(f"\n    ...{ending!r}" for ending in history.endings)
    return (
        f"{share:.0%} of the first {history.responses} responses hold a boxed answer, so there is hardly "
        f"anything to vote on. Two that hold none end:{shown}"
    )


def _no_matches(history: History) -> str:
    truths = [m for m in history.steps if any(f"diagnostics/{view.value}/pass@1" in m for view in View)]
    right = [m[f"diagnostics/{v.value}/pass@1"] for m in truths for v in View if f"{v.value}/answered" in m]
    if history.responses < FIRST_RESPONSES or not right or any(right) or _no_answers(history):
        return ""
    return f"not one of the first {history.responses} responses matches a ground truth"


def _all_excluded(history: History) -> str:
    first = history.steps[0] if history.steps else {}
    if first.get("coreward/in_band") == 0:
        return "in the first step the entropy of every group's answers was outside of the band: no rewards"
    if first.get("coreward/labelled") != 0 or not any(history.means("answered")[:1]):
        return ""
    return "in the first step there were answers, but no group got a label"


def _no_signal(history: History) -> str:
    last = history.means("signal_groups")[-STEPS_WITHOUT_SIGNAL:]
    if len(last) < min(STEPS_WITHOUT_SIGNAL, history.total_steps) or any(last):
        return ""
    return (
        f"in {len(last)} steps no group had responses with different rewards, so nothing but the KL penalty "
        "moves the model"
    )


def _fallen(history: History) -> str:
    accuracy = [m["eval/greedy_pass@1"] for m in history.evaluations if "eval/greedy_pass@1" in m]
    if not accuracy or accuracy[-1] >= KEPT_ACCURACY * accuracy[0]:
        return ""
    return (
        f"held-out greedy_pass@1 fell from {accuracy[0]:.3f} to {accuracy[-1]:.3f}, which is how a collapse "
        "looks (docs/metrics.md); earlier checkpoints may be better"
    )


def _alarm(alarm: Alarm, history: History) -> str:
    found = alarm.first(history.probes)
    return f"at step {history.probes[found[0]]['step']:.0f} {found[1]}" if found else ""


@dataclass(frozen=True)
class Rule:
    """`finds` returns what is wrong, "" for nothing; `key` is the setting to look at first."""

    name: str
    finds: Callable[[History], str]
    key: str


RULES = (
    Rule("no answers", _no_answers, "data.system_prompt, rollout.max_response_tokens"),
    Rule("no ground truth matched", _no_matches, "data.original (its answers)"),
    Rule(
        "every group excluded",
        _all_excluded,
        "reward.min_entropy, reward.max_entropy, reward.min_agreement, reward.method",
    ),
    Rule("no signal", _no_signal, "rollout.samples, rollout.temperature, data.original"),
    Rule("accuracy fell", _fallen, "optimizer.lr"),
    *(Rule(alarm.name, partial(_alarm, alarm), "optimizer.lr, algorithm.kl_coef") for alarm in ALARMS),
)


class RunWarnings:
    """Says each warning once, on rank 0, and lists them all at the end.

    `records` are the figures of an earlier part of the run (utils/metrics.read_metrics), where there is one;
    `said` are the warnings about its data (utils/logging.repeated_warnings), names and keys.
    """

    def __init__(
        self, total_steps: int, records: Sequence[Metrics] = (), said: Mapping[str, str] | None = None
    ) -> None:
        self._history = History(total_steps)
        self._said = dict(said or {})
        for record in records:
            self._file(record)

    def on_step(self, metrics: Metrics, scored: Sequence[ScoredResponse]) -> None:
        """A step is done; `scored` are the responses that this rank holds."""
        self._history.responses += len(scored)
        missing = 2 - len(self._history.endings)
        self._history.endings += [r.text[-_ENDING:] for r in scored if not r.answer][:missing]
        self._file(metrics)
        self._look()

    def on_evaluation(self, metrics: Metrics) -> None:
        self._file(metrics)
        self._look()

    def on_probe(self, probes: Probes) -> None:
        self._history.probes = probes
        self._look()

    def summary(self) -> str:
        """The warnings of the run in one line; "" if there were none."""
        if not self._said:
            return ""
        said = "; ".join(f"{name} (look at {key})" for name, key in self._said.items())
        return f"with {len(self._said)} warning{'s' if len(self._said) > 1 else ''}: {said}"

    def _file(self, metrics: Metrics) -> None:
        if any(name.startswith("eval/") for name in metrics):
            self._history.evaluations.append(metrics)
        if "reward/mean" in metrics:
            self._history.steps.append(metrics)

    def _look(self) -> None:
        for rule in RULES:
            if rule.name not in self._said and (text := rule.finds(self._history)):
                self._said[rule.name] = rule.key
                logger.warning("%s: %s. Look at %s", rule.name, text, rule.key)
