"""The objective with every option, written response by response and token by token.

It is plain Python and scalar autograd from the formulas of docs/algorithm.md and shares no code with the
package. It is slow, and written to be read.
"""

import statistics
from collections.abc import Mapping, Sequence

import torch

from megatron_coreward.config.learning import AlgorithmConfig
from megatron_coreward.config.schema import Config
from megatron_coreward.types import ScoredResponse, View

Key = tuple[int, str, int]


def advantage(i: int, rewards: Sequence[float], rule: str) -> float:
    """A_i of one group."""
    others = [reward for j, reward in enumerate(rewards) if j != i]
    if all(reward == rewards[i] for reward in others):
        return 0.0
    if rule == "rloo":
        return rewards[i] - statistics.fmean(others)
    centred = rewards[i] - statistics.fmean(rewards)
    return centred / (statistics.stdev(rewards) + 1e-6) if rule == "group-norm" else centred


def token_objective(
    logp: torch.Tensor,
    old: torch.Tensor,
    rollout: torch.Tensor,
    ref: torch.Tensor,
    advantage: float,
    algorithm: AlgorithmConfig,
) -> torch.Tensor:
    """What one token adds to J before averaging."""
    ratio = (logp - old).exp()
    upper = 1 + (algorithm.clip_high if algorithm.clip_high > 0 else algorithm.clip)
    lower = 1 - algorithm.clip
    clipped = torch.tensor(lower) if ratio < lower else torch.tensor(upper) if ratio > upper else ratio
    value = ratio * advantage if ratio * advantage <= clipped * advantage else clipped * advantage
    if algorithm.dual_clip > 0 and advantage < 0 and value < algorithm.dual_clip * advantage:
        value = torch.tensor(algorithm.dual_clip * advantage)
    if algorithm.tis_cap > 0:
        value = value * min(float((old - rollout).exp()), algorithm.tis_cap)
    log_ratio = logp - ref
    kl = {
        "k1": log_ratio,
        "k2": log_ratio * log_ratio / 2,
        "k3": (-log_ratio).exp() - 1 + log_ratio,
    }[algorithm.kl_estimator]
    return value - algorithm.kl_coef * kl


def loss_of(
    responses: Sequence[ScoredResponse],
    policy: Mapping[Key, torch.Tensor],
    old: Mapping[Key, torch.Tensor],
    ref: Mapping[Key, torch.Tensor],
    config: Config,
) -> torch.Tensor:
    """Minus J of all drawn responses, from their rewards; `policy` carries the gradient."""
    algorithm = config.algorithm
    trained = [r for r in responses if r.sample < config.rollout.samples]
    loss = torch.zeros([])
    for view in View:
        of_view = [r for r in trained if r.view is view]
        rewards = {r.key: [s.reward for s in of_view if s.pair_id == r.pair_id] for r in of_view}
        place = {r.key: [s for s in of_view if s.pair_id == r.pair_id].index(r) for r in of_view}

        def takes_part(r: ScoredResponse, rewards: dict[Key, list[float]] = rewards) -> bool:
            if algorithm.mask_truncated and r.finish_reason == "length":
                return False
            return algorithm.denominator == "all" or len(set(rewards[r.key])) > 1

        divisor = [r for r in of_view if algorithm.denominator == "all" or takes_part(r)]
        num_tokens = sum(len(r.response_ids) for r in divisor)
        for r in filter(takes_part, of_view):
            a = advantage(place[r.key], rewards[r.key], algorithm.advantage)
            if config.reward.weight_by_share:
                a *= r.label_share
            length = len(r.response_ids)
            for t in set(range(length)) - set(r.answer_tokens):
                value = token_objective(
                    policy[r.key][t],
                    old[r.key][t].detach(),
                    torch.tensor(r.rollout_logps[t]),
                    ref[r.key][t],
                    a,
                    algorithm,
                )
                match algorithm.aggregation:
                    case "seq-mean":
                        weight = 1 / length / len(divisor)
                    case "token-mean":
                        weight = 1 / num_tokens
                    case "dr-grpo":
                        weight = 1 / config.rollout.max_response_tokens / len(divisor)
                loss = loss - weight * value
    return loss
