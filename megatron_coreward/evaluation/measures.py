"""The measures of an evaluation: outcomes of questions, and their means with uncertainty.

With n samples per question, c of them right, averaged over the questions:

    greedy_pass@1   the greedy response is right
    pass@1, avg@n   c / n; the two are one figure under its two usual names
    pass@k          1 - C(n - c, k) / C(n, k): one of k samples is right (Chen et al. 2021, Eq. 1)
    maj@k           the majority answer of k samples is right; ties go to the smallest sample index

pass@k and maj@k are means over all subsets of k of the n samples, so they are unbiased, and maj@n is the vote
of all samples. The interval is a 95% bootstrap over the questions, of values averaged over the seeds; the
spread is the standard deviation over the seeds of a seed's mean. One says what other questions would have
changed, the other what another draw would have. Two evaluations of the same questions are compared by a
paired bootstrap over the questions.

Sampled pass@1 also rises by mere sharpening, so greedy pass@1 and maj@n are always reported with it.

Shape suffixes: Q questions, S seeds, K samples.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from typing import Any

import numpy as np

from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.utils.bootstrap import Interval, mean_interval, paired_bootstrap, pass_at_k

GREEDY, SAMPLED = "greedy", "sampled"
"""How a row was decoded."""

Row = dict[str, Any]
"""A graded response (outcomes.py)."""


@dataclass(frozen=True)
class Scores:
    """Outcomes of one benchmark, questions in the order of the file. S is 0 where nothing was sampled."""

    question_ids_Q: np.ndarray  # int64
    greedy_Q: np.ndarray  # bool
    sampled_SQK: np.ndarray  # bool
    majorities: Mapping[int, np.ndarray]
    """maj@k by k, float64 [S, Q]: always that of all samples, which is the only one that files hold."""

    @classmethod
    def from_rows(
        cls,
        rows: Sequence[Row],
        ids: Sequence[int],
        seeds: Sequence[int],
        samples: int,
        ks: Sequence[int],
    ) -> "Scores":
        """Scores of the rows of all ranks, with maj@k for every k of `ks`."""
        greedy = [row for row in rows if row["decoding"] == GREEDY]
        sampled = [[r for r in rows if (r["decoding"], r["seed"]) == (SAMPLED, seed)] for seed in seeds]

        def array(group: list[Row], key: str, width: int) -> np.ndarray:
            return by_sample(((row["question_id"], row["sample"], row[key]) for row in group), ids, width)

        shape = (len(sampled), len(ids), samples)
        correct_SQK = np.array([array(g, "correct", samples) for g in sampled], dtype=bool).reshape(shape)
        classes_SQK = np.array([array(g, "answer_class", samples) for g in sampled]).reshape(shape)
        chosen = [k for k in ks if k > 1]  # one sample is its own majority
        return cls(
            np.asarray(ids, dtype=np.int64),
            array(greedy, "correct", 1)[:, 0].astype(bool),
            correct_SQK,
            majorities(chosen, classes_SQK, correct_SQK)
            | ({} if samples in chosen else majorities([samples], classes_SQK, correct_SQK)),
        )

    @classmethod
    def from_outcomes(cls, outcomes: Sequence[Mapping[str, Any]]) -> "Scores":
        """Scores of the entries that `outcomes` gave: those of a summary.json, or that of a training run."""
        samples = len(outcomes[0]["sampled"][0])
        return cls(
            np.asarray(outcomes[0]["question_id"], dtype=np.int64),
            np.asarray(outcomes[0]["greedy"], dtype=bool),
            np.asarray([entry["sampled"] for entry in outcomes], dtype=bool),
            {samples: np.asarray([entry["majority"] for entry in outcomes], dtype=float)},
        )

    def of(self, chosen_Q: np.ndarray) -> "Scores":
        """The scores of the questions that are chosen, bool [Q]."""
        return Scores(
            self.question_ids_Q[chosen_Q],
            self.greedy_Q[chosen_Q],
            self.sampled_SQK[:, chosen_Q],
            {k: values_SQ[:, chosen_Q] for k, values_SQ in self.majorities.items()},
        )

    @property
    def samples(self) -> int:
        """Sampled responses per question and seed."""
        return self.sampled_SQK.shape[2]

    def by_question(self, ks: Sequence[int]) -> dict[str, np.ndarray]:
        """Each measure's value for each seed and question, float64 [S, Q]; [1, Q] where greedy."""
        values = {"greedy_pass@1": self.greedy_Q.astype(float)[None]}
        if not len(self.sampled_SQK):
            return values
        values[f"avg@{self.samples}"] = self.sampled_SQK.mean(axis=2)
        values |= {f"pass@{k}": self._pass_at(k) for k in ks}
        return values | {f"maj@{k}": self.majorities[k] for k in ks if k > 1}

    def _pass_at(self, k: int) -> np.ndarray:
        return np.array([pass_at_k(correct_QK, k) for correct_QK in self.sampled_SQK])

    def logged(self) -> dict[str, np.ndarray]:
        """The measures of a training log under their metric names, as by_question; something was sampled."""
        greedy, average = self.by_question([]).values()
        return {
            "eval/greedy_pass@1": greedy,
            "eval/pass@1": average,
            f"eval/maj@{self.samples}": self.majorities[self.samples],
        }

    def metrics(self) -> dict[str, float]:
        """The figures of a training log."""
        return {name: float(values_SQ.mean()) for name, values_SQ in self.logged().items()}

    def summary(self, bootstrap_seed: int) -> dict[str, Any]:
        """A training run's evaluation as JSON: intervals, pass@k for k = 1, 2, 4, ..., outcomes. One seed."""
        sizes = [1 << i for i in range(self.samples.bit_length())]
        [outcomes] = self.outcomes()
        return {
            "questions": len(self.question_ids_Q),
            "samples": self.samples,
            "metrics": estimates(self.logged(), bootstrap_seed),
            "pass@k": {str(k): float(self._pass_at(k).mean()) for k in sizes},
            "outcomes": outcomes,
        }

    def outcomes(self) -> list[dict[str, Any]]:
        """The outcomes with the samples of each seed, as JSON; a single entry if nothing was sampled."""
        greedy = {
            "question_id": self.question_ids_Q.tolist(),
            "greedy": self.greedy_Q.astype(int).tolist(),
        }
        draws = zip(self.sampled_SQK, self.majorities[self.samples], strict=True)
        return [
            {**greedy, "sampled": sampled_QK.astype(int).tolist(), "majority": voted_Q.astype(int).tolist()}
            for sampled_QK, voted_Q in draws
        ] or [greedy]


def by_sample(values: Iterable[tuple[int, int, int]], ids: Sequence[int], width: int) -> np.ndarray:
    """(question id, sample, value) as an array, int64 [Q, width], in the order of `ids`.

    Values are at least NO_ANSWER; none may be missing.
    """
    index = {question_id: i for i, question_id in enumerate(ids)}
    missing = NO_ANSWER - 1
    array = np.full((len(index), width), missing)
    for question_id, sample, value in values:
        array[index[question_id], sample] = value
    assert (array != missing).all(), "a question has no outcome on any rank"
    return array


def majorities(ks: Sequence[int], classes_SQK: np.ndarray, correct_SQK: np.ndarray) -> dict[int, np.ndarray]:
    """maj@k by k, float64 [S, Q]. Equal answers to a question share a class, NO_ANSWER for none."""
    values_SQN = np.array(
        [
            [majority_at(ks, classes_K, correct_K) for classes_K, correct_K in zip(*draw, strict=True)]
            for draw in zip(classes_SQK, correct_SQK, strict=True)
        ]
    ).reshape(*classes_SQK.shape[:2], len(ks))
    return {k: values_SQN[:, :, i] for i, k in enumerate(ks)}


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
    for right, own in places.items():
        if not correct_K[own[0]]:
            continue
        for votes in range(1, min(len(own), most) + 1):
            rivals = [where for c, where in places.items() if c != right and len(where) >= votes]
            unconstrained = size - len(own) - sum(map(len, rivals))  # these samples may come in or not
            for later, first in enumerate(reversed(own[: len(own) - votes + 1]), start=votes - 1):
                ways = _choices(unconstrained, most) * float(comb(later, votes - 1))
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
    summaries = {}
    for group, count in sorted(counts.items()):
        chosen = np.array([other == group for other in groups])
        values_of_group = {name: values_SQ[:, chosen] for name, values_SQ in values.items()}
        summaries[group] = {"questions": count, "metrics": estimates(values_of_group, bootstrap_seed)}
    return summaries


def compare(before: Scores, after: Scores, bootstrap_seed: int) -> dict[str, Interval]:
    """Paired differences after - before of every measure of a training log, by metric name.

    Raises:
        ValueError: the scores are of different questions or numbers of samples.
    """
    shapes = [(len(scores.question_ids_Q), scores.samples) for scores in (before, after)]
    if not np.array_equal(before.question_ids_Q, after.question_ids_Q) or shapes[0] != shapes[1]:
        raise ValueError(
            f"cannot compare evaluations of different questions or samples: {shapes[0]} and {shapes[1]}; "
            f"use the same evaluation.file, .limit and .samples"
        )
    old, new = before.logged(), after.logged()
    return {
        name: paired_bootstrap(old[name].mean(axis=0), new[name].mean(axis=0), bootstrap_seed) for name in old
    }
