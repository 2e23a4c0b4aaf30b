"""Label-free rewards from their formulas, by counting and enumeration.

Answers are numbers, equal for equal answers; a negative one is no answer. Every function takes the answers to
one wording, and where the method needs them those of others, and returns the rewards of the first. Ties go to
the answer that comes first. Shares no code with megatron_coreward.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from itertools import combinations

Answers = Sequence[int]


def first_best(scores: dict[int, Fraction | int]) -> int | None:
    """The first key with the largest score above 0."""
    label, best = None, Fraction(0)
    for answer, score in scores.items():
        if score > best:
            label, best = answer, Fraction(score)
    return label


def majority(answers: Answers) -> int | None:
    return first_best({a: answers.count(a) for a in answers if a >= 0})


def paid(answers: Answers, label: int | None) -> list[float]:
    return [1.0 if label is not None and a == label else 0.0 for a in answers]


def majority_voting(answers: Answers) -> list[float]:
    return paid(answers, majority(answers))


def pooled_vote(answers: Answers, original: Answers, rephrased: Answers) -> list[float]:
    return paid(answers, majority([*original, *rephrased]))


def split_vote(answers: Answers) -> list[float]:
    halves = [[a for i, a in enumerate(answers) if i % 2 == half] for half in (0, 1)]
    return [float(a >= 0 and a == majority(halves[1 - i % 2])) for i, a in enumerate(answers)]


def harmonic(answers: Answers, original: Answers, rephrased: Answers) -> list[float]:
    scores: dict[int, Fraction | int] = {}
    for a in original:
        if a >= 0 and a in rephrased:
            p = Fraction(original.count(a), len(original))
            q = Fraction(rephrased.count(a), len(rephrased))
            scores[a] = 2 / (1 / p + 1 / q)
    return paid(answers, first_best(scores))


def agreement_gate(answers: Answers, other: Answers, reszero: bool = False) -> list[float]:
    label = majority(answers)
    if label is not None and label == majority(other):
        return paid(answers, label)
    return residual(answers, label) if reszero and label is not None else [0.0] * len(answers)


def residual(answers: Answers, label: int) -> list[float]:
    """JURY-RL's ResZero with c = 0.01."""
    supporters = [i for i, a in enumerate(answers) if a == label]
    rest = [i for i, a in enumerate(answers) if a != label]
    alpha, z = len(supporters) / len(answers), {}
    for i in rest:
        others = [j for j in rest if j != i]
        same = [j for j in others if answers[j] == answers[i] >= 0]
        z[i] = len(same) / len(others) if others else 0.0
    mean = sum(z.values()) / len(z) if z else 0.0
    raw = {i: alpha * (z[i] - mean) for i in rest} | dict.fromkeys(supporters, -0.01 * alpha)
    return [raw[i] + 0.01 * alpha * alpha for i in range(len(answers))]


def consensus(answers: Answers, judges: Answers, size: int, own: bool) -> list[float]:
    """All votes of `size` judges are held. With `own` the answers are the judges', each in its own votes."""
    won = [0.0] * len(answers)
    held = [0] * len(answers)
    for seats in combinations(range(len(judges)), size):
        ballots = [judges[j] for j in seats if judges[j] >= 0]
        most = max((ballots.count(a) for a in ballots), default=0)
        winners = {a for a in ballots if ballots.count(a) == most}
        for i, a in enumerate(answers):
            if not own or size == 1 or i in seats:
                held[i] += 1
                won[i] += 1 / len(winners) if a in winners else 0.0
    return [w / h for w, h in zip(won, held, strict=True)]


def entropy(answers: Answers) -> float:
    """In nats; each missing answer is a class of its own."""
    named = [f"none {i}" if a < 0 else str(a) for i, a in enumerate(answers)]
    shares = [named.count(name) / len(named) for name in set(named)]
    return -math.fsum(p * math.log(p) for p in shares)
