"""Figures about a step's responses, for the log only: no reward depends on them.

Each function sees what one rank holds and returns sums that merge over ranks. Figures that need all responses
to a question at once come from the reward stage. Names are explained in docs/metrics.md; those that need the
ground truth begin with diagnostics/, and are the paper's Figures 4 and 5 for a batch.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby

import numpy as np

from megatron_coreward.coreward.rewards.judging import Method
from megatron_coreward.grading.grader import Grader
from megatron_coreward.roles import Communicator
from megatron_coreward.types import QuestionPair, ScoredResponse
from megatron_coreward.utils.metrics import Figures

NGRAM = 4
"""Tokens that must come again in the same order to count as repetition."""
_HASH = np.array([1_000_003**i for i in range(NGRAM)], dtype=np.uint64)

Right = dict[tuple[int, str], bool]
"""Whether the majority answer is right, by group."""


def label_free_figures(scored: Sequence[ScoredResponse]) -> Figures:
    """Rewards, answers, lengths and signs of collapse per view, with advantages set.

    A group must not be split over ranks.
    """
    figures = Figures()
    for r in scored:
        view, length = r.view.value, len(r.response_ids)
        figures.add_mean("reward/mean", r.reward, 1)
        figures.add_mean(f"{view}/answered", r.answer != "", 1)
        figures.add_mean(f"{view}/truncated", r.finish_reason == "length", 1)
        figures.add_mean(f"{view}/response_tokens", length, 1)
        figures.add_mean(f"{view}/entropy", -float(r.rollout_logps.sum(dtype=np.float64)), length)
        figures.add_mean(f"{view}/repetition", repetition(r.response_ids), 1)
        if r.confidence is not None:
            figures.add_mean(f"{view}/self_certainty", r.confidence.self_certainty, 1)
    for group in _groups(scored):
        has_signal = any(r.advantage != 0 for r in group)  # not by reward: some responses may only vote
        figures.add_mean(f"{group[0].view.value}/signal_groups", has_signal, 1)
    return figures


def repetition(token_ids: np.ndarray) -> float:
    """Share of a response's runs of NGRAM tokens that stood in it before; 0 for a shorter response."""
    if len(token_ids) < NGRAM:
        return 0.0
    runs = np.lib.stride_tricks.sliding_window_view(token_ids.astype(np.uint64), NGRAM) @ _HASH
    return 1.0 - len(np.unique(runs)) / len(runs)


def ground_truth_figures(
    scored: Sequence[ScoredResponse], pairs: Mapping[int, QuestionPair], grader: Grader, method: Method
) -> tuple[Figures, Right]:
    """How right answers, votes, labels and rewards are, per view and level.

    `<view>/vote_accuracy` is about the majority answer to that wording, whether or not it is a label.
    `<view>/label_accuracy` is about the label that was voted on that wording; with a method that judges one
    wording by the other it is the label of the *other* one. Groups without a label or vote are left out.

    Args:
        pairs: by pair_id; a pair whose ground truth is None or empty is left out.
    """
    figures, right = Figures(), Right()
    truths = {pair_id: grader.form(pair.answer or "") for pair_id, pair in pairs.items()}
    known = [r for r in scored if truths.get(r.pair_id)]
    forms = {(f, truths[r.pair_id]) for r in known for f in (r.answer, r.pseudo_label, r.majority)}
    questions = sorted(forms)
    equal = dict(zip(questions, grader.equal_many(questions), strict=True))
    for r in known:
        correct = equal[r.answer, truths[r.pair_id]]
        figures.add_mean(f"diagnostics/{r.view.value}/pass@1", correct, 1)
        if method.graded:
            figures.add_mean("diagnostics/reward_accuracy", correct == (r.reward > 0), 1)
    for group in _groups(known):
        first, pair = group[0], pairs[group[0].pair_id]
        if first.majority:
            correct = right[first.group] = equal[first.majority, truths[first.pair_id]]
            _add_by_level(figures, f"diagnostics/{first.view.value}/vote_accuracy", correct, pair.level)
        if first.pseudo_label and not method.truth:
            voted_on = first.view.other if method.both_views else first.view
            correct = equal[first.pseudo_label, truths[first.pair_id]]
            _add_by_level(figures, f"diagnostics/{voted_on.value}/label_accuracy", correct, pair.level)
    return figures, right


def _add_by_level(figures: Figures, name: str, correct: bool, level: str) -> None:
    figures.add_mean(name, correct, 1)
    number = re.search(r"\d+", level)  # MATH: "Level 5", and "Level ?" twice
    if number:
        figures.add_mean(f"{name}/level_{number[0]}", correct, 1)


def _groups(scored: Sequence[ScoredResponse]) -> list[list[ScoredResponse]]:
    return [list(group) for _, group in groupby(sorted(scored, key=lambda r: r.key), key=lambda r: r.group)]


def diagnose(
    scored: Sequence[ScoredResponse],
    stage_figures: Figures,
    pairs: Mapping[int, QuestionPair],
    grader: Grader,
    method: Method,
    comm: Communicator,
) -> Figures:
    """All of the above and the reward stage's figures, over all ranks. A collective."""
    local = label_free_figures(scored)
    with_truth, right = ground_truth_figures(scored, pairs, grader, method)
    local.merge(with_truth)
    local.merge(stage_figures)
    total = Figures()
    by_pair: dict[int, list[bool]] = {}
    for figures, right_of_rank in comm.all_gather((local, right)):
        total.merge(figures)
        for (pair_id, _), correct in right_of_rank.items():
            by_pair.setdefault(pair_id, []).append(correct)
    for outcomes in by_pair.values():
        if len(outcomes) == 2:  # the paper's curve "CoReward" in Figure 4
            total.add_mean("diagnostics/either_vote_accuracy", any(outcomes), 1)
    return total
