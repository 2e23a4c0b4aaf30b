"""How sure the policy is of its responses: what the methods self_certainty and entropy reward."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.compute.sharding import Key, move_to_dp_ranks
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Confidence, Response, WeightedResponse


@torch.no_grad()
def with_confidence(
    responses: Sequence[Response],
    forward: PackedForward,
    layout: Layout,
    comm: Communicator,
    config: OptimizerConfig,
) -> list[Response]:
    """The same responses in the same order, measured by one forward pass over all of them. A collective.

    The passes are spread over the data-parallel ranks by tokens, as those of an update are.
    """
    share = move_to_dp_ranks([WeightedResponse(response) for response in responses], layout, comm, config)
    batch = make_batch(share)
    values_T2 = forward.confidence(batch).double()
    pieces = values_T2.split(batch.response_lengths_R.tolist())
    measured: dict[Key, Confidence] = {
        item.response.key: Confidence(*(piece.mean(0) if len(piece) else torch.zeros(2)).tolist())
        for item, piece in zip(share, pieces, strict=True)
    }
    reports = layout.tp_rank == 0 and layout.is_first_stage  # all of a model-parallel group know the same
    by_key = {
        key: value
        for of_rank in comm.all_gather(measured if reports else {})
        for key, value in of_rank.items()
    }
    return [replace(response, confidence=by_key[response.key]) for response in responses]
