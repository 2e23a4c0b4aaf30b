"""Figures about a step's responses, for the log only: nothing here reaches a reward.

Each function sees what one rank holds and returns sums that merge over ranks. What needs both views of a
pair (agreement, labels, majorities) is in CoRewardStage.figures. Names are explained in docs/metrics.md.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from megatron_coreward.coreward.alignment import CoRewardStage
from megatron_coreward.coreward.grader import Grader
from megatron_coreward.roles import Communicator
from megatron_coreward.types import ScoredResponse
from megatron_coreward.utils.metrics import Figures


def label_free_figures(scored: Sequence[ScoredResponse]) -> Figures:
    """Rewards, answers and lengths per view, with advantages set. A group must not be split over ranks."""
    figures = Figures()
    for r in scored:
        view = r.view.value
        figures.add_mean("reward/mean", r.reward, 1)
        figures.add_mean(f"{view}/answered", r.answer != "", 1)
        figures.add_mean(f"{view}/truncated", r.finish_reason == "length", 1)
        figures.add_mean(f"{view}/response_tokens", len(r.response_ids), 1)
    for group in _groups(scored):
        has_signal = any(r.advantage != 0 for r in group)  # not by reward: some responses may only vote
        figures.add_mean(f"{group[0].view.value}/signal_groups", has_signal, 1)
    return figures


def ground_truth_figures(
    scored: Sequence[ScoredResponse], answers: Mapping[int, str | None], grader: Grader
) -> Figures:
    """How right answers, labels and rewards are, per view.

    `<view>/label_accuracy` is about the label that the responses to that view voted for, which is the one
    the *other* view was judged by; groups without a label are left out.

    Args:
        answers: ground truth by pair_id; None or "" leaves a pair out.
    """
    figures = Figures()
    truths = {pair_id: grader.form(answer or "") for pair_id, answer in answers.items()}
    known = [r for r in scored if truths.get(r.pair_id)]
    questions = sorted({(form, truths[r.pair_id]) for r in known for form in (r.answer, r.pseudo_label)})
    right = dict(zip(questions, grader.equal_many(questions), strict=True))
    for r in known:
        correct = right[r.answer, truths[r.pair_id]]
        figures.add_mean(f"diagnostics/{r.view.value}/pass@1", correct, 1)
        figures.add_mean("diagnostics/reward_accuracy", correct == (r.reward > 0), 1)
    for group in _groups(known):
        if label := group[0].pseudo_label:
            correct = right[label, truths[group[0].pair_id]]
            figures.add_mean(f"diagnostics/{group[0].view.other.value}/label_accuracy", correct, 1)
    return figures


def _groups(scored: Sequence[ScoredResponse]) -> list[list[ScoredResponse]]:
    return [list(group) for _, group in groupby(sorted(scored, key=lambda r: r.key), key=lambda r: r.group)]


def diagnose(
    scored: Sequence[ScoredResponse],
    answers: Mapping[int, str | None],
    stage: CoRewardStage,
    grader: Grader,
    comm: Communicator,
) -> Figures:
    """All of the above and the stage's own figures, over all ranks. A collective."""
    local = label_free_figures(scored)
    local.merge(ground_truth_figures(scored, answers, grader))
    local.merge(stage.figures)
    total = Figures()
    for part in comm.all_gather(local):
        total.merge(part)
    return total
