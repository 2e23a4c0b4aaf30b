"""The training objective: clipped GRPO with a KL penalty (Eq. 4-6), as a loss to minimise.

    loss = sum_t w_t * ( v_t * max(-A_t * c_t, -A_t * clip(c_t, 1 - eps, 1 + eps_high)) + beta * kl_t )

    c_t  = exp(log pi_theta - log pi_old)
    kl_t = exp(d_t) - d_t - 1      d_t = log pi_ref - log pi_theta

The weights w_t (loss_weights.py) hold all averaging, so losses and figures of micro-batches and ranks
simply add up. v_t is 1 and eps_high is eps unless an option says otherwise. Each option is one function
below with its source; docs/algorithm.md says when to use which.

Departures. The paper prints the estimator's first term as pi_theta / pi_ref, a slip: so written it is
negative wherever pi_theta < pi_ref and its gradient vanishes nowhere, not even at pi_ref. The authors' code
and Schulman's k3 have pi_ref / pi_theta, as here. That code also clamps k3 to +-10, which silences the
penalty where the policy is furthest from the reference; we never do. It bounds the loss by 3 |A| where
A < 0, which the paper does not mention: `algorithm.dual_clip=3`, off by default.

With one optimizer step per rollout batch pi_old is pi_theta itself: the ratio is exactly 1, every clip is
inert and the loss's value says little (advantages sum to 0); its gradient is what counts.

Shape suffixes: T response tokens of the batch.
"""

from collections.abc import Callable

import torch

from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.token_figures import TokenFigures
from megatron_coreward.config.learning import AlgorithmConfig

Objective = Callable[[torch.Tensor, TrainBatch], tuple[torch.Tensor, TokenFigures]]
"""Maps log-probs (float32 [T], with gradient) and their batch to the summed loss and its figures."""


class GrpoObjective:
    """Eq. 4-6 for one micro-batch. `batch.old_logps_T` None means pi_old = pi_theta."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self.config = config

    def __call__(self, logps_T: torch.Tensor, batch: TrainBatch) -> tuple[torch.Tensor, TokenFigures]:
        """Summed loss (scalar) and figures. An empty batch gives a loss of 0 that still has a graph."""
        assert logps_T.shape == batch.weights_T.shape, f"{logps_T.shape} log-probs, {batch.weights_T.shape}"
        config, ref_T, num_tokens = self.config, batch.ref_logps_T, logps_T.numel()
        assert ref_T is not None or config.kl_coef == 0, "the KL penalty needs the reference's log-probs"
        old_T = logps_T.detach() if batch.old_logps_T is None else batch.old_logps_T

        loss_T, cut_T = clipped_policy_loss(torch.exp(logps_T - old_T), batch.advantages_T, config)
        if config.tis_cap:
            loss_T = loss_T * importance_weights(old_T, batch.rollout_logps_T, config.tis_cap)
        if ref_T is not None:
            loss_T = loss_T + config.kl_coef * kl_penalty(logps_T, ref_T, config.kl_estimator)
        loss = (batch.weights_T * loss_T).sum()

        figures = TokenFigures()
        figures.add_sum("policy/loss", loss)
        figures.add_mean("policy/clip_fraction", cut_T.sum(), num_tokens)
        if ref_T is not None:  # always k3, so that runs with different estimators can be compared
            figures.add_mean("policy/kl", kl_penalty(logps_T, ref_T, "k3").sum(), num_tokens)
        add_mismatch(figures, old_T, batch.rollout_logps_T, config.tis_cap)
        return loss, figures


def clipped_policy_loss(
    ratio_T: torch.Tensor, advantages_T: torch.Tensor, config: AlgorithmConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's clipped loss (Eq. 5) of every token, and whether a clip has cut the token's gradient.

    `clip_high` is DAPO's clip-higher (Yu et al., arXiv 2503.14476, section 3.1): a larger range upwards lets
    unlikely tokens with A > 0 grow further. `dual_clip` is the second clip of Ye et al. (arXiv 1912.09729):
    where A < 0 Eq. 5 bounds the loss from below only, and a ratio that has grown makes a step of any size; it
    is bounded by dual_clip * |A|.
    """
    plain_T = -advantages_T * ratio_T
    highest = 1 + (config.clip_high or config.clip)
    loss_T = torch.maximum(plain_T, -advantages_T * ratio_T.clamp(1 - config.clip, highest))
    if config.dual_clip:
        bounded_T = torch.minimum(loss_T, -advantages_T * config.dual_clip)
        loss_T = torch.where(advantages_T < 0, bounded_T, loss_T)
    return loss_T, loss_T != plain_T


def importance_weights(old_T: torch.Tensor, rollout_T: torch.Tensor, cap: float) -> torch.Tensor:
    """Truncated importance sampling: min(pi_old / pi_rollout, cap) of every token, without a gradient.

    Tokens are drawn by vLLM, whose probabilities differ from the actor's by its kernels and precision; the
    weight makes the expectation that of the actor, and the cap bounds its variance (Yao et al., "Your
    Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025; truncation after Ionides, 2008).
    It is for the policy loss only, and for pi_old, not pi_theta: what the optimizer steps since the rollout
    have changed is the ratio's part.
    """
    return torch.exp(old_T.detach() - rollout_T).clamp(max=cap)


def kl_penalty(logps_T: torch.Tensor, ref_T: torch.Tensor, estimator: str) -> torch.Tensor:
    """Schulman's estimates of KL(pi_theta || pi_ref) from samples of pi_theta ("Approximating KL Divergence",
    2020), differentiated as they stand; d = log pi_ref - log pi_theta.

        estimate              its gradient: that of log pi_theta times    in expectation the gradient of
        k1 = -d               1                                           nothing (0): it penalises nothing
        k2 = d^2 / 2          -d = log(pi_theta / pi_ref)                 KL(pi_theta || pi_ref)
        k3 = exp(d) - d - 1   1 - exp(d) = 1 - pi_ref / pi_theta          KL(pi_ref || pi_theta)

    As values k1 and k3 are unbiased, but the gradient of an unbiased estimate need not be that of what it
    estimates (Tang and Munos, arXiv 2506.09477). The expectations are those of one token given the tokens
    before it; what the token does to later ones has no part in any of the three.
    """
    d_T = ref_T - logps_T
    match estimator:
        case "k1":
            return -d_T
        case "k2":
            return d_T.square() / 2
        case "k3":
            return torch.exp(d_T) - d_T - 1
    raise AssertionError(f"KL estimator {estimator!r} passed validation")


def nll_objective(logps_T: torch.Tensor, batch: TrainBatch) -> tuple[torch.Tensor, TokenFigures]:
    """Weighted negative log-likelihood of the responses: supervised training of a start model."""
    loss = -(batch.weights_T * logps_T).sum()
    figures = TokenFigures()
    figures.add_sum("policy/loss", loss)
    return loss, figures


def add_mismatch(
    figures: TokenFigures, policy_T: torch.Tensor, rollout_T: torch.Tensor, tis_cap: float = 0.0
) -> None:
    """How far the actor's log-probs of the sampled tokens are from vLLM's, for the same weights.

    mean and maximum of |policy - rollout| in nats, the k3 estimate of KL(rollout || policy), and with a
    `tis_cap` the share of tokens whose importance weight it cuts.
    """
    tokens = policy_T.numel()
    if not tokens:
        return
    gap_T = policy_T.detach().double() - rollout_T.double()
    weight_T = torch.exp(gap_T)
    figures.add_mean("mismatch/mean_abs", gap_T.abs().sum(), tokens)
    figures.add_max("mismatch/max_abs", gap_T.abs().max())
    figures.add_mean("mismatch/kl", (weight_T - gap_T - 1).sum(), tokens)
    if tis_cap:
        figures.add_mean("mismatch/clipped", (weight_T > tis_cap).sum(), tokens)
