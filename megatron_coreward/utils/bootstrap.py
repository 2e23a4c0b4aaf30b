"""Statistics of evaluations: pass@k and bootstrap intervals over questions.

Shape suffixes: Q questions, N samples.
"""

from math import comb
from typing import NamedTuple

import numpy as np

DRAWS_AT_ONCE = 1_000_000
"""Bounds the memory of a bootstrap."""


class Interval(NamedTuple):
    """An estimate and its 95% bootstrap interval."""

    value: float
    low: float
    high: float


def pass_at_k(correct_QN: np.ndarray, k: int) -> np.ndarray:
    """Unbiased chance that one of k samples is right, from n >= k samples; float64 [Q].

    1 - C(n - c, k) / C(n, k) with c right ones (Chen et al. 2021, arXiv 2107.03374, Eq. 1).
    """
    n = correct_QN.shape[1]
    assert 1 <= k <= n, f"pass@{k} needs at least {k} samples, got {n}"
    return np.array([1 - comb(n - int(c), k) / comb(n, k) for c in correct_QN.sum(axis=1)])


def mean_interval(values_Q: np.ndarray, seed: int, samples: int = 10_000) -> Interval:
    """Mean over questions and its 95% percentile bootstrap interval."""
    rng = np.random.default_rng(seed)
    size = len(values_Q)
    rows = max(1, DRAWS_AT_ONCE // size)
    means = np.concatenate(
        [
            values_Q[rng.integers(size, size=(min(rows, samples - done), size))].mean(axis=1)
            for done in range(0, samples, rows)
        ]
    )
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(float(values_Q.mean()), float(low), float(high))


def paired_bootstrap(before_Q: np.ndarray, after_Q: np.ndarray, seed: int, samples: int = 10_000) -> Interval:
    """Mean of after - before over the same questions, with its 95% interval: questions are resampled."""
    assert before_Q.shape == after_Q.shape, f"not the same questions: {before_Q.shape} and {after_Q.shape}"
    return mean_interval(after_Q.astype(float) - before_Q.astype(float), seed, samples)
