"""Ground truth: r_i = 1[ans(y_i) = answer]. The supervised baseline, graded as all other methods are.

The authors' code grades this arm by another rule than the label-free ones; here there is one grader.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Every group must come with its truth."""
    return {
        view: Judgement(
            [float(c != NO_ANSWER and c in group.truth.classes) for c in group.answers.classes],
            group.truth.forms[0],
        )
        for view, group in groups.items()
    }
