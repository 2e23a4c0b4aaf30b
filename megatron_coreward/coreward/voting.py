"""The majority vote of one group of responses (Eq. 8).

    y_v = argmax_a sum_i 1[ans(y_i) = a]

The paper leaves equality and ties open. Equality here is the grader's classes. The authors' code breaks a tie
by batch position after balancing by length, hence by world size; here the rule depends on the responses
alone.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
    assert ties in ("first", "abstain"), f"unknown rule for ties {ties!r}"
    counts = Counter(c for c in classes if c != NO_ANSWER)
    if not counts:
        return Vote()
    count = max(counts.values())
    top = [c for c in counts if counts[c] == count]  # a Counter keeps the order of first appearance
    tied = len(top) > 1
    # the slack absorbs the rounding of min_agreement: 0.7 of 10 responses is 7, not 7.000000000000001
    agreed = count >= min_agreement * len(classes) - 1e-9
    label = top[0] if agreed and not (tied and ties == "abstain") else None
    return Vote(label=label, count=count, share=count / len(classes), tied=tied)
