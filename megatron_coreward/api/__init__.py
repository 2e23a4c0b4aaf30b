"""The Python interface, for scripts and notebooks: docs/python.md. Imports no torch.

The names of api/ are about runs and answers; the others are what a reward method of one's own is made of
(docs/reward_methods.md). They stay; what is not listed here may change with any version.
"""

from megatron_coreward.api.answers import Grader, VoteResult, vote
from megatron_coreward.api.programs import NotFinite, RunError, Stalled, Stopped, evaluate, train
from megatron_coreward.api.runs import Evaluation, Run, load_run
from megatron_coreward.api.settings import Config
from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.coreward.rewards.judging import (
    Answers,
    Group,
    Groups,
    Judgement,
    Method,
    by_signal,
    by_vote,
    rewards_for,
)
from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.grading.grader import NO_ANSWER
from megatron_coreward.types import Response, View
from megatron_coreward.utils.bootstrap import Interval

__all__ = [
    "Answers",
    "Config",
    "Evaluation",
    "Grader",
    "Group",
    "Groups",
    "Interval",
    "Judgement",
    "METHODS",
    "Method",
    "NO_ANSWER",
    "NotFinite",
    "Response",
    "RewardConfig",
    "Run",
    "RunError",
    "Stalled",
    "Stopped",
    "View",
    "VoteResult",
    "by_signal",
    "by_vote",
    "evaluate",
    "load_run",
    "rewards_for",
    "train",
    "vote",
]
