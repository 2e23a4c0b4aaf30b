"""One data-parallel rank's share of a step, as tensors.

Shape suffixes: R responses, N tokens (prompt + response), T response tokens. Responses lie one after
the other in every flat tensor, prompts before responses, without padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from megatron_coreward.types import WeightedResponse


@dataclass(frozen=True)
class TrainBatch:
    """Responses of one DP rank.

    `weights_T` are the fixed weights of every response token in the loss (algorithm/loss_weights.py),
    global over the whole optimizer step; `old_logps_T` and `ref_logps_T` are None until computed.
    """

    tokens_N: torch.Tensor  # int64
    prompts_R: torch.Tensor  # int64: equal numbers, equal prompts
    prompt_lengths_R: torch.Tensor  # int64
    response_lengths_R: torch.Tensor  # int64
    advantages_R: torch.Tensor  # float32
    weights_T: torch.Tensor  # float32
    rollout_logps_T: torch.Tensor  # float32
    old_logps_T: torch.Tensor | None = None  # float32
    ref_logps_T: torch.Tensor | None = None  # float32

    @property
    def lengths_R(self) -> torch.Tensor:
        return self.prompt_lengths_R + self.response_lengths_R

    @property
    def advantages_T(self) -> torch.Tensor:
        """A_i on every response token."""
        # With the size given, the host need not wait for the device to learn it.
        return torch.repeat_interleave(
            self.advantages_R, self.response_lengths_R, output_size=len(self.weights_T)
        )

    def with_log_probs(self, old: torch.Tensor | None, ref: torch.Tensor | None) -> "TrainBatch":
        return replace(self, old_logps_T=old, ref_logps_T=ref)

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "TrainBatch":
        """The batch with `function` applied to every tensor."""
        return self._map(lambda tensor, _: function(tensor))

    def select(self, indices: Sequence[int]) -> "TrainBatch":
        """The responses at `indices`, in that order."""

        def take(tensor: torch.Tensor, lengths_R: torch.Tensor) -> torch.Tensor:
            pieces = tensor.split(lengths_R.tolist())
            return torch.cat([pieces[i] for i in indices]) if indices else tensor[:0]

        return self._map(take)

    def _map(self, function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> "TrainBatch":
        """Applies `function(tensor, its elements per response [R])` to every tensor."""
        one_R = torch.ones_like(self.prompt_lengths_R)
        of_response = self.response_lengths_R

        def optional(tensor_T: torch.Tensor | None) -> torch.Tensor | None:
            return None if tensor_T is None else function(tensor_T, of_response)

        return TrainBatch(
            tokens_N=function(self.tokens_N, self.lengths_R),
            prompts_R=function(self.prompts_R, one_R),
            prompt_lengths_R=function(self.prompt_lengths_R, one_R),
            response_lengths_R=function(self.response_lengths_R, one_R),
            advantages_R=function(self.advantages_R, one_R),
            weights_T=function(self.weights_T, of_response),
            rollout_logps_T=function(self.rollout_logps_T, of_response),
            old_logps_T=optional(self.old_logps_T),
            ref_logps_T=optional(self.ref_logps_T),
        )


def make_batch(share: Sequence[WeightedResponse]) -> TrainBatch:
    """The tensors of `share`, in its order."""
    responses = [item.response for item in share]

    def flat(arrays: list[np.ndarray], dtype: type) -> torch.Tensor:
        joined = np.concatenate(arrays) if arrays else np.empty(0)
        return torch.from_numpy(joined.astype(dtype))

    response_lengths_R = torch.tensor([len(r.response_ids) for r in responses], dtype=torch.long)
    prompts: dict[tuple[int, ...], int] = {}
    return TrainBatch(
        tokens_N=flat(
            [part for r in responses for part in (np.asarray(r.prompt_ids), r.response_ids)], np.int64
        ),
        prompts_R=torch.tensor(
            [prompts.setdefault(tuple(r.prompt_ids), len(prompts)) for r in responses], dtype=torch.long
        ),
        prompt_lengths_R=torch.tensor([len(r.prompt_ids) for r in responses], dtype=torch.long),
        response_lengths_R=response_lengths_R,
        advantages_R=torch.tensor([item.advantage for item in share], dtype=torch.float32),
        weights_T=flat([_token_weights(item) for item in share], np.float32),
        rollout_logps_T=flat([r.rollout_logps for r in responses], np.float32),
    )


def _token_weights(item: WeightedResponse) -> np.ndarray:
    weights = np.full(len(item.response.response_ids), item.weight, dtype=np.float32)
    weights[list(item.masked)] = 0.0
    return weights
