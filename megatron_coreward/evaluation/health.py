"""The figures of a probe, the alarms that they raise, and the rating of a checkpoint. Pure, without labels.

A probe asks the same unlabelled questions, both wordings of a pair, again and again while a run goes on
(probe.py). A prompt is one wording of a pair; "" stands for no answer. Shares of answers count responses
without one, which form a class of their own in entropies but win no vote and agree with nothing.

    h   probe/answer_entropy       entropy of a prompt's sampled answers / ln(samples), mean over prompts
    g   probe/agreement            share of pairs whose two greedy answers are equal
    k   probe/kept_majorities      of the prompts whose majority had SURE or more at the start, the share that
                                   still has that majority
    c   probe/kept_by_chance       k of the start model itself, drawn a second time with other seeds
    f   probe/flipped_majorities   share of majorities that are others than at the probe before
    q   probe/top_answer_share     share of the one most frequent answer among the samples of all prompts
    I   probe/answer_information   entropy of the answers to all prompts less the mean entropy of a prompt's,
                                   in nats: what an answer says about its question

The alarms are those of the works named at each; their thresholds are first guesses, not tuned on a run.
Forgetting has none: a model whose k is above c has not lost more of its answers than two draws of the start
model differ in, however far below 1 that is (0.7 with four samples of a toy model).
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from megatron_coreward.coreward.voting import entropy

ENTROPY, AGREEMENT = "probe/answer_entropy", "probe/agreement"
KEPT, BY_CHANCE = "probe/kept_majorities", "probe/kept_by_chance"
FLIPPED, TOP, INFORMATION = (
    "probe/flipped_majorities",
    "probe/top_answer_share",
    "probe/answer_information",
)

SURE = 0.75
"""Least share of a majority at the start that k watches."""
ENTROPY_LEFT = 0.5
"""Coverage: of h at the start."""
TOP_ADDED, INFORMATION_LOST = 0.05, 0.2
"""Template: above q and below I (nats) at the start."""
FLIPS_LEFT, ENTROPY_OF_EXTINCT = 0.25, 0.6
"""Extinction: of the largest f so far, and of h at the start."""
AVERAGED = 3
"""Probes whose mean agreement rates a checkpoint."""

Probes = Sequence[Mapping[str, float]]
"""The figures of a run's probes, the first at its start; each with its `step`."""


class Majority(NamedTuple):
    """The most frequent answer to a prompt, of a tie the earlier one, and its share; "" for none."""

    answer: str
    share: float


@dataclass(frozen=True)
class Prompt:
    """The answers to one prompt; equal answers to a pair have one form."""

    greedy: str
    sampled: tuple[str, ...]

    @property
    def majority(self) -> Majority:
        answers = [answer for answer in self.sampled if answer]
        if not answers:
            return Majority("", 0.0)
        [(answer, count)] = Counter(answers).most_common(1)  # of equal counts the one that came first
        return Majority(answer, count / len(self.sampled))


def figures_of(pairs: Sequence[tuple[Prompt, Prompt]]) -> dict[str, float]:
    """h, g, q and I of one probe, from both wordings of every pair."""
    prompts = [prompt for pair in pairs for prompt in pair]
    pooled = [answer for prompt in prompts for answer in prompt.sampled]
    within = _mean([entropy(Counter(prompt.sampled).values()) for prompt in prompts])
    counts = Counter(answer for answer in pooled if answer)
    return {
        ENTROPY: within / math.log(len(prompts[0].sampled)),
        AGREEMENT: _mean([a.greedy == b.greedy != "" for a, b in pairs]),
        TOP: max(counts.values(), default=0) / len(pooled),
        INFORMATION: entropy(Counter(pooled).values()) - within,
    }


def changes_of(
    start: Sequence[Majority], kept: Sequence[bool], before: Sequence[Majority], same: Sequence[bool]
) -> dict[str, float]:
    """k and f, by prompt: whether each has still the majority of the `start` and of the probe `before`.

    k is left out where no prompt was sure enough, f where there was no majority before.
    """
    watched = [stays for (answer, share), stays in zip(start, kept, strict=True) if answer and share >= SURE]
    flips = [not stays for (answer, _), stays in zip(before, same, strict=True) if answer]
    return {name: _mean(found) for name, found in ((KEPT, watched), (FLIPPED, flips)) if found}


def chance_of(start: Sequence[Majority], kept: Sequence[bool]) -> dict[str, float]:
    """c: k of a second draw of the start model; left out where k is."""
    changes = changes_of(start, kept, [], [])
    return {BY_CHANCE: changes[KEPT]} if changes else {}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _twice(holds: Callable[[Probes], bool], probes: Probes) -> bool:
    """Whether it holds at the last of `probes`, and held at the one before."""
    return len(probes) > 1 and holds(probes[:-1]) and holds(probes)


def _coverage(probes: Probes) -> str:
    first, now = probes[0], probes[-1]

    def narrow(seen: Probes) -> bool:
        return (
            seen[-1][ENTROPY] < ENTROPY_LEFT * first[ENTROPY]
            and seen[-1][AGREEMENT] <= max(probe[AGREEMENT] for probe in seen[:-1])  # first cannot be narrow
        )

    return (
        f"the answers to a question vary less ({ENTROPY} {now[ENTROPY]:.3f} after {first[ENTROPY]:.3f}) and "
        f"the two wordings agree no more often than they have done"
        if _twice(narrow, probes)
        else ""
    )


def _template(probes: Probes) -> str:
    first, now = probes[0], probes[-1]
    if _twice(lambda seen: seen[-1][TOP] > first[TOP] + TOP_ADDED, probes):
        return f"one answer is given to ever more questions ({TOP} {now[TOP]:.3f} after {first[TOP]:.3f})"
    if now[INFORMATION] < first[INFORMATION] - INFORMATION_LOST:
        return (
            "answers depend less on their questions "
            f"({INFORMATION} {now[INFORMATION]:.3f} after {first[INFORMATION]:.3f})"
        )
    return ""


def _forgetting(probes: Probes) -> str:
    chance = probes[0].get(BY_CHANCE, 0.0)  # 0 where no prompt was sure
    if not _twice(lambda seen: seen[-1].get(KEPT, 1.0) < chance, probes):
        return ""
    return (
        f"of the answers that the start model was sure of {1 - probes[-1][KEPT]:.0%} are others now, "
        f"where drawing anew changed {1 - chance:.0%}"
    )


def _extinction(probes: Probes) -> str:
    first, now = probes[0], probes[-1]
    flips = [probe[FLIPPED] for probe in probes if FLIPPED in probe]
    still = FLIPPED in now and now[FLIPPED] < FLIPS_LEFT * max(flips)
    if not still or now[ENTROPY] >= ENTROPY_OF_EXTINCT * first[ENTROPY]:
        return ""
    return (
        f"majorities hardly change any more ({FLIPPED} {now[FLIPPED]:.3f} after up to {max(flips):.3f}) and "
        f"answers are less varied ({ENTROPY} {now[ENTROPY]:.3f} after {first[ENTROPY]:.3f})"
    )


@dataclass(frozen=True)
class Alarm:
    """`finds` says what is wrong at the last of some probes, "" for nothing."""

    name: str
    finds: Callable[[Probes], str]

    def first(self, probes: Probes) -> tuple[int, str] | None:
        """Where in `probes` it rings first, and what it says there."""
        texts = ((n, self.finds(probes[: n + 1])) for n in range(len(probes)))
        return next(((n, text) for n, text in texts if text), None)


ALARMS = (
    Alarm("coverage alarm", _coverage),  # LoopHealth: diversity within a prompt falls first
    Alarm("template alarm", _template),  # SRT: one answer to everything
    Alarm("forgetting alarm", _forgetting),  # ours; after the alignment of confidence and correctness
    Alarm("extinction alarm", _extinction),  # TTRL-Guard; the threshold is ours
)


def first_alarms(probes: Probes) -> dict[str, int]:
    """The step at which each alarm rings first; alarms that never do are not there."""
    rung = {alarm.name: alarm.first(probes) for alarm in ALARMS}
    return {name: int(probes[found[0]]["step"]) for name, found in rung.items() if found}


def new_alarms(probes: Probes) -> list[str]:
    """What the alarms say that ring at the last probe for the first time, with their names."""
    rung = [(alarm.name, alarm.first(probes)) for alarm in ALARMS]
    return [f"{name}: {found[1]}" for name, found in rung if found and found[0] == len(probes) - 1]


def rating(probes: Probes) -> float | None:
    """The mean agreement of the last three probes; None before the third and from the first alarm on."""
    if len(probes) < AVERAGED or any(alarm.first(probes) for alarm in ALARMS):
        return None
    return _mean([probe[AGREEMENT] for probe in probes[-AVERAGED:]])
