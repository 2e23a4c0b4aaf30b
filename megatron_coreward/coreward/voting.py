"""The majority vote of one group of responses (Eq. 8).

    y_v = argmax_a sum_i 1[ans(y_i) = a]

The paper leaves equality and ties open. Equality here is the grader's classes. The authors' code breaks a tie
by batch position after balancing by length, hence by world size; here the rule depends on the responses
alone.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from megatron_coreward.grading.grader import NO_ANSWER


@dataclass(frozen=True)
class Vote:
    """Outcome of a vote: the winning class or None, and how the top class fared."""

    label: int | None = None
    count: int = 0
    share: float = 0.0
    tied: bool = False


def vote(classes: Sequence[int], ties: str, min_agreement: float) -> Vote:
    """The label of a group.

    Args:
        classes: class of each response, in the order of samples. NO_ANSWER does not vote.
        ties: "first" (of the tied classes, the one that holds the smallest sample index) or "abstain".
        min_agreement: least share of *all* responses of the group, those without an answer included, that
            the top class needs; below it there is no label.

    Returns:
        The vote; `count`, `share` and `tied` describe the top class even where there is no label.
    """
    counts = Counter(c for c in classes if c != NO_ANSWER)  # keeps the order of first appearance
    return elected(counts, lambda c: (counts[c], counts[c] / len(classes)), ties, min_agreement)


def elected(
    scores: Mapping[int, int | Fraction],
    support: Callable[[int], tuple[int, float]],
    ties: str,
    min_agreement: float,
) -> Vote:
    """The class with the largest score wins.

    Args:
        scores: by class, in the order that decides ties; exact numbers, so that equal ones are equal.
        support: count and share of a class.
    """
    assert ties in ("first", "abstain"), f"unknown rule for ties {ties!r}"
    if not scores:
        return Vote()
    most = max(scores.values())
    top = [c for c, score in scores.items() if score == most]
    tied = len(top) > 1
    count, share = support(top[0])
    # the slack absorbs rounding: 0.7 of 10 responses is 7, not 7.000000000000001
    agreed = share >= min_agreement - 1e-9
    label = top[0] if agreed and not (tied and ties == "abstain") else None
    return Vote(label=label, count=count, share=share, tied=tied)


def entropy(counts: Collection[int]) -> float:
    """Of classes with these counts, in nats."""
    total = sum(counts)
    return sum(count / total * math.log(total / count) for count in counts)


def answer_entropy(classes: Sequence[int]) -> float:
    """Entropy in nats of a group's answers; each missing answer is a class of its own (EMPO's verl code)."""
    counts = Counter(c for c in classes if c != NO_ANSWER)
    return entropy([*counts.values(), *[1] * (len(classes) - counts.total())])


def in_band(classes: Sequence[int], low: float, high: float) -> bool:
    """EMPO's gate (arXiv 2504.05812): whether low < entropy < high; a limit of 0 is none."""
    entropy = answer_entropy(classes)
    return (low == 0 or entropy > low) and (high == 0 or entropy < high)
