"""Supervised steps on the policy: the mean negative log-likelihood of given responses.

A token weighs 1 / N, N the response tokens of the whole step over all ranks, so micro-batches and layouts
change the loss by rounding only. Prompts have no loss.
"""

from collections.abc import Sequence

import numpy as np

from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.algorithm.objective import nll_objective
from megatron_coreward.types import Response, View, WeightedResponse
from megatron_coreward.utils.metrics import Figures

Tokens = tuple[Sequence[int], Sequence[int]]
"""Prompt and response."""


def supervised_update(policy: MegatronPolicy, examples: Sequence[Tokens]) -> Figures:
    """One optimizer step on `examples`, the same on every rank; `policy/loss` is in nats per response token.

    Raises:
        FloatingPointError: as MegatronPolicy.update.
    """
    weight = 1.0 / sum(len(response_ids) for _, response_ids in examples)
    layout = policy.layout
    share = [
        WeightedResponse(_as_response(row, *examples[row]), weight=weight)
        for row in range(layout.dp_rank, len(examples), layout.dp_size)
    ]
    return policy.update(make_batch(share), nll_objective)


def _as_response(row: int, prompt_ids: Sequence[int], response_ids: Sequence[int]) -> Response:
    """A response that nobody has sampled; this objective reads no log-probs of a rollout."""
    ids = np.asarray(response_ids, dtype=np.int64)
    return Response(row, View.ORIGINAL, 0, tuple(prompt_ids), ids, ids.astype("float32"), "", "stop", 0)
