"""The figures of a benchmark from its outcomes: measures per question, and their means with uncertainty.

With n samples per question, c of them right, averaged over the questions:

    greedy_pass@1   the greedy response is right
    pass@1, avg@n   c / n; the two are one figure under its two usual names
    pass@k          1 - C(n - c, k) / C(n, k): one of k samples is right (Chen et al. 2021, Eq. 1)
    maj@k           the majority answer of k samples is right; ties go to the smallest sample index

pass@k and maj@k are means over all subsets of k of the n samples, so they are unbiased, and maj@n is the vote
that training evaluations report. The interval is a 95% bootstrap over the questions, of values averaged over
the seeds; the spread is the standard deviation over the seeds of a seed's mean. One says what other questions
would have changed, the other what another draw would have.

Shape suffixes: Q questions, S seeds, K samples.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any

import numpy as np

from megatron_coreward.evaluation.outcomes import GREEDY, SAMPLED, Row, by_sample
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.utils.bootstrap import mean_interval, pass_at_k


@dataclass(frozen=True)
class Scores:
    """Outcomes of one benchmark, questions in the order of the file. S is 0 where nothing was sampled."""

    question_ids_Q: np.ndarray  # int64
    greedy_Q: np.ndarray  # bool
    sampled_SQK: np.ndarray  # bool
    classes_SQK: np.ndarray  # int64: equal answers to a question share a number, NO_ANSWER for none

    @classmethod
    def from_rows(
        cls, rows: Iterable[Row], ids: Sequence[int], seeds: Sequence[int], samples: int
    ) -> "Scores":
        """From the rows of all ranks."""
        drawn: dict[tuple[str, int], list[Row]] = {}
        for row in rows:
            drawn.setdefault((row["decoding"], row["seed"]), []).append(row)

        def array(group: list[Row], key: str, width: int) -> np.ndarray:
            return by_sample(((row["question_id"], row["sample"], row[key]) for row in group), ids, width)

        [greedy] = [group for (decoding, _), group in drawn.items() if decoding == GREEDY]
        sampled = [drawn[SAMPLED, seed] for seed in seeds]
        shape = (len(sampled), len(ids), samples)
        return cls(
            np.asarray(ids, dtype=np.int64),
            array(greedy, "correct", 1)[:, 0].astype(bool),
            np.array([array(g, "correct", samples) for g in sampled], dtype=bool).reshape(shape),
            np.array([array(g, "answer_class", samples) for g in sampled], dtype=np.int64).reshape(shape),
        )

    def by_question(self, ks: Sequence[int]) -> dict[str, np.ndarray]:
        """Each measure's value for each seed and question, float64 [S, Q]; [1, Q] where greedy."""
        values = {"greedy_pass@1": self.greedy_Q.astype(float)[None]}
        if not len(self.sampled_SQK):
            return values
        values[f"avg@{self.sampled_SQK.shape[2]}"] = self.sampled_SQK.mean(axis=2)
        for k in ks:
            values[f"pass@{k}"] = np.array([pass_at_k(correct_QK, k) for correct_QK in self.sampled_SQK])
        voted = [k for k in ks if k > 1]  # one sample is its own majority
        maj_SQN = np.array(
            [
                [majority_at(voted, classes_K, correct_K) for classes_K, correct_K in zip(*pair, strict=True)]
                for pair in zip(self.classes_SQK, self.sampled_SQK, strict=True)
            ]
        )
        return values | {f"maj@{k}": maj_SQN[:, :, i] for i, k in enumerate(voted)}


def majority_at(ks: Sequence[int], classes_K: np.ndarray, correct_K: np.ndarray) -> list[float]:
    """Chance that the majority of k of the K samples is right, over all subsets, for each k.

    As voting.vote with ties="first", and a class is right when its first answer is. Counts the subsets that a
    right class wins with m votes, of which the first is sample i: the class gives m - 1 later samples, every
    other class fewer than m votes, or m of which the first comes after i. Generating functions count the
    choices of the others by their number.
    """
    size, most = len(classes_K), max(ks, default=0)
    places = {c: np.flatnonzero(classes_K == c) for c in set(classes_K.tolist()) - {NO_ANSWER}}
    wins = np.zeros(most + 1)  # by size of the subset
    for right, mine in places.items():
        if not correct_K[mine[0]]:
            continue
        for votes in range(1, min(len(mine), most) + 1):
            rivals = [where for c, where in places.items() if c != right and len(where) >= votes]
            free = size - len(mine) - sum(map(len, rivals))  # can be chosen as one likes
            for later, first in enumerate(reversed(mine[: len(mine) - votes + 1]), start=votes - 1):
                ways = _choices(free, most) * float(comb(later, votes - 1))
                for where in rivals:
                    tied = float(comb(int((where > first).sum()), votes))
                    ways = np.convolve(ways, [*_choices(len(where), votes - 1), tied])[: most + 1]
                wins[votes:] += ways[: most + 1 - votes]
    return [float(wins[k] / comb(size, k)) for k in ks]


@cache
def _choices(size: int, most: int) -> np.ndarray:
    """C(size, j) for j = 0, ..., most; float64."""
    return np.array([float(comb(size, j)) for j in range(most + 1)])


def estimate(values_SQ: np.ndarray, bootstrap_seed: int) -> dict[str, Any]:
    """Mean, interval, and with several seeds each one's mean and their spread; JSON-able."""
    interval = mean_interval(values_SQ.mean(axis=0), bootstrap_seed)
    by_seed = values_SQ.mean(axis=1)
    several = {"by_seed": by_seed.tolist(), "spread": float(by_seed.std(ddof=1))} if len(by_seed) > 1 else {}
    return interval._asdict() | several


def estimates(values: Mapping[str, np.ndarray], bootstrap_seed: int) -> dict[str, dict[str, Any]]:
    """`estimate` of every measure."""
    return {name: estimate(values_SQ, bootstrap_seed) for name, values_SQ in values.items()}


def by_group(
    values: Mapping[str, np.ndarray], groups: Sequence[str], bootstrap_seed: int
) -> dict[str, dict[str, Any]]:
    """Number of questions and estimates of each group; `groups` names that of each question, "" for none."""
    counts = Counter(group for group in groups if group)
    found = {}
    for group, count in sorted(counts.items()):
        chosen = np.array([other == group for other in groups])
        parts = {name: values_SQ[:, chosen] for name, values_SQ in values.items()}
        found[group] = {"questions": count, "metrics": estimates(parts, bootstrap_seed)}
    return found
