"""The training objective: clipped GRPO with a k3 KL penalty (Eq. 4-6), as a loss to minimise.

    loss = sum_t w_t * ( max(-A_t * c_t, -A_t * clip(c_t, 1 - eps, 1 + eps)) + beta * k3_t )

    c_t  = exp(log pi_theta - log pi_old)
    k3_t = exp(d_t) - d_t - 1      d_t = log pi_ref - log pi_theta

The weights w_t (loss_weights.py) hold all averaging, so losses and figures of micro-batches and ranks
simply add up.

Departures. The paper prints the estimator's first term as pi_theta / pi_ref, a slip: so written it is
negative wherever pi_theta < pi_ref and its gradient vanishes nowhere, not even at pi_ref. The paper's code
and Schulman's k3 have pi_ref / pi_theta, as here. That code also clamps k3 to +-10, which silences the
penalty where the policy is furthest from the reference, and bounds the loss by 3 |A| where A < 0 ("dual
clip"); the paper has neither, and neither have we: `optimizer.clip_grad` bounds the step.

With one optimizer step per rollout batch pi_old is pi_theta itself: the ratio is exactly 1, the clip is
inert and the loss's value says little (advantages sum to 0); its gradient is what counts.

Shape suffixes: T response tokens of the batch.
"""

from collections.abc import Callable

import torch

from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.config import AlgorithmConfig
from megatron_coreward.utils.metrics import Figures

Objective = Callable[[torch.Tensor, TrainBatch], tuple[torch.Tensor, Figures]]
"""Maps log-probs (float32 [T], with gradient) and their batch to the summed loss and its figures."""


class GrpoObjective:
    """Eq. 4-6 for one micro-batch. `batch.old_logps_T` None means pi_old = pi_theta."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self.clip = config.clip
        self.kl_coef = config.kl_coef

    def __call__(self, logps_T: torch.Tensor, batch: TrainBatch) -> tuple[torch.Tensor, Figures]:
        """Summed loss (scalar) and figures. An empty batch gives a loss of 0 that still has a graph."""
        assert logps_T.shape == batch.weights_T.shape, f"{logps_T.shape} log-probs, {batch.weights_T.shape}"
        if logps_T.numel() == 0:
            return logps_T.sum() * 0.0, Figures()
        old_T = logps_T.detach() if batch.old_logps_T is None else batch.old_logps_T
        advantages_T = batch.advantages_T
        ratio_T = torch.exp(logps_T - old_T)
        plain_T = -advantages_T * ratio_T
        clipped_T = -advantages_T * ratio_T.clamp(1 - self.clip, 1 + self.clip)
        loss_T = torch.maximum(plain_T, clipped_T)
        kl_T = self._kl(logps_T, batch.ref_logps_T)
        if kl_T is not None:
            loss_T = loss_T + self.kl_coef * kl_T
        loss = (batch.weights_T * loss_T).sum()

        figures = Figures()
        sums = [loss, (clipped_T > plain_T).sum()] + ([] if kl_T is None else [kl_T.sum()])
        loss_sum, clipped, *kl_sum = _to_host(sums)
        figures.add_sum("policy/loss", loss_sum)
        figures.add_mean("policy/clip_fraction", clipped, logps_T.numel())
        for total in kl_sum:
            figures.add_mean("policy/kl", total, logps_T.numel())
        figures.merge(rollout_mismatch(old_T, batch.rollout_logps_T))
        return loss, figures

    def _kl(self, logps_T: torch.Tensor, ref_T: torch.Tensor | None) -> torch.Tensor | None:
        if ref_T is None:
            assert self.kl_coef == 0, "the KL penalty needs the reference's log-probs"
            return None
        d_T = ref_T - logps_T
        return torch.exp(d_T) - d_T - 1


def nll_objective(logps_T: torch.Tensor, batch: TrainBatch) -> tuple[torch.Tensor, Figures]:
    """Weighted negative log-likelihood of the responses: supervised training of a start model."""
    loss = -(batch.weights_T * logps_T).sum()
    figures = Figures()
    figures.add_sum("policy/loss", loss.item())
    return loss, figures


def rollout_mismatch(policy_T: torch.Tensor, rollout_T: torch.Tensor) -> Figures:
    """How far the actor's log-probs of the sampled tokens are from vLLM's, for the same weights.

    mean and maximum of |policy - rollout| in nats, and the k3 estimate of KL(rollout || policy).
    """
    figures = Figures()
    if policy_T.numel() == 0:
        return figures
    gap_T = policy_T.detach().double() - rollout_T.double()
    distance, largest, kl = _to_host(
        [gap_T.abs().sum(), gap_T.abs().max(), (torch.exp(gap_T) - gap_T - 1).sum()]
    )
    figures.add_mean("mismatch/mean_abs", distance, gap_T.numel())
    figures.add_max("mismatch/max_abs", largest)
    figures.add_mean("mismatch/kl", kl, gap_T.numel())
    return figures


def _to_host(values: list[torch.Tensor]) -> list[float]:
    """Scalars as floats, with one copy from the device."""
    return torch.stack([value.detach().double() for value in values]).tolist()
