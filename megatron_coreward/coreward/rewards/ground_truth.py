"""Ground truth: r_i = 1[ans(y_i) = answer]. The supervised baseline, graded as all other methods are.

The authors' code grades this arm by another rule than the label-free ones; here there is one grader.
"""

from megatron_coreward.config.schema import RewardConfig
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, rewards_for
from megatron_coreward.types import View


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Every group must come with its truth."""
    return {
        view: Judgement(rewards_for(group.answers, group.truth.classes[0]), group.truth.forms[0])
        for view, group in groups.items()
    }
