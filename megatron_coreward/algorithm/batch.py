"""One data-parallel rank's share of a step, as tensors.

Shape suffixes: R responses, N tokens (prompt + response), T response tokens. Responses lie one after
the other in every flat tensor, prompts before responses, without padding.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from megatron_coreward.types import ScoredResponse


@dataclass(frozen=True)
class TrainBatch:
    """Responses of one DP rank.

    `weights_T` are the fixed weights of every response token in the loss (algorithm/loss_weights.py),
    global over the whole optimizer step; `old_logps_T` and `ref_logps_T` are None until computed.
    """

    tokens_N: torch.Tensor  # int64
    prompt_lengths_R: torch.Tensor  # int64
    response_lengths_R: torch.Tensor  # int64
    advantages_R: torch.Tensor  # float32
    weights_T: torch.Tensor  # float32
    rollout_logps_T: torch.Tensor  # float32
    old_logps_T: torch.Tensor | None = None  # float32
    ref_logps_T: torch.Tensor | None = None  # float32

    @property
    def num_responses(self) -> int:
        return len(self.prompt_lengths_R)

    @property
    def lengths_R(self) -> torch.Tensor:
        return self.prompt_lengths_R + self.response_lengths_R

    @property
    def advantages_T(self) -> torch.Tensor:
        """A_i on every response token."""
        return torch.repeat_interleave(self.advantages_R, self.response_lengths_R)

    def with_log_probs(self, old: torch.Tensor | None, ref: torch.Tensor | None) -> "TrainBatch":
        return replace(self, old_logps_T=old, ref_logps_T=ref)

    def to(self, device: torch.device) -> "TrainBatch":
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return TrainBatch(**{name: None if t is None else t.to(device) for name, t in tensors.items()})

    def select(self, indices: Sequence[int]) -> "TrainBatch":
        """The responses at `indices`, in that order."""

        def take(flat: torch.Tensor | None, lengths_R: torch.Tensor) -> torch.Tensor | None:
            if flat is None:
                return None
            pieces = flat.split(lengths_R.tolist())
            return torch.cat([pieces[i] for i in indices]) if indices else flat[:0]

        index_R = torch.as_tensor(list(indices), dtype=torch.long)
        return TrainBatch(
            tokens_N=take(self.tokens_N, self.lengths_R),
            prompt_lengths_R=self.prompt_lengths_R[index_R],
            response_lengths_R=self.response_lengths_R[index_R],
            advantages_R=self.advantages_R[index_R],
            weights_T=take(self.weights_T, self.response_lengths_R),
            rollout_logps_T=take(self.rollout_logps_T, self.response_lengths_R),
            old_logps_T=take(self.old_logps_T, self.response_lengths_R),
            ref_logps_T=take(self.ref_logps_T, self.response_lengths_R),
        )


def make_batch(responses: Sequence[ScoredResponse], weights_R: Sequence[float]) -> TrainBatch:
    """Tensors of `responses`; `weights_R[i]` is the weight of each response token of response i."""

    def flat(arrays: list[np.ndarray], dtype: type) -> torch.Tensor:
        joined = np.concatenate(arrays) if arrays else np.empty(0)
        return torch.from_numpy(joined.astype(dtype))

    response_lengths_R = torch.tensor([len(r.response_ids) for r in responses], dtype=torch.long)
    weights = torch.tensor(list(weights_R), dtype=torch.float32)
    return TrainBatch(
        tokens_N=flat(
            [part for r in responses for part in (np.asarray(r.prompt_ids), r.response_ids)], np.int64
        ),
        prompt_lengths_R=torch.tensor([len(r.prompt_ids) for r in responses], dtype=torch.long),
        response_lengths_R=response_lengths_R,
        advantages_R=torch.tensor([r.advantage for r in responses], dtype=torch.float32),
        weights_T=torch.repeat_interleave(weights, response_lengths_R),
        rollout_logps_T=flat([r.rollout_logps for r in responses], np.float32),
    )
