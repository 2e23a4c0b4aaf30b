"""Self-certainty (Intuitor, arXiv 2505.19590): reward responses whose tokens the policy was sure of.

    r(y) = 1/|y| sum_t KL(U || p_t) = 1/|y| sum_t [ logsumexp(z_t) - mean_v(z_t) ] - log V

with U the uniform distribution over the V tokens and z the logits divided by the sampling temperature,
before the update and without gradient. Columns that only pad the vocabulary for tensor parallelism are left
out; Intuitor's code takes the mean over them as well. Its constant log V, which that code drops, cancels in
the advantage.
"""

from megatron_coreward.config.learning import RewardConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.coreward.rewards.judging import Groups, Judgement, by_signal
from megatron_coreward.types import Response, View


def signal(response: Response, config: Config) -> float:
    """Self-certainty in nats, at least 0."""
    assert response.confidence is not None, "the policy has not measured its confidence"
    return response.confidence.self_certainty


def judge(groups: Groups, config: RewardConfig) -> dict[View, Judgement]:
    """Looks at no answer."""
    return {view: by_signal(group) for view, group in groups.items()}
