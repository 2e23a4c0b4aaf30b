"""Which data-parallel rank computes on which response, and the one move of their tensors there.

Token ids, log-probs and advantages cross ranks here and nowhere else; texts stay behind.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

from megatron_coreward.actor.parallel import Layout
from megatron_coreward.algorithm.batch import TrainBatch, make_batch
from megatron_coreward.algorithm.loss_weights import Counts, contributes, local_counts, token_weights
from megatron_coreward.config.schema import Config
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, ScoredResponse

Key = tuple[int, str, int]
R = TypeVar("R", bound=Response)


def balanced_owners(sizes: dict[Key, int], ranks: int) -> dict[Key, int]:
    """Response key -> DP rank; the longest first to the rank with the fewest tokens.

    Depends on the set of responses only, not on who holds them.
    """
    load = [0] * ranks
    owners = {}
    for key in sorted(sizes, key=lambda k: (-sizes[k], k)):
        owner = load.index(min(load))
        owners[key] = owner
        load[owner] += sizes[key]
    return owners


def shard(
    scored: Sequence[ScoredResponse],
    config: Config,
    layout: Layout,
    comm: Communicator,
    *,
    skip_idle: bool = False,
) -> TrainBatch:
    """This DP rank's share of all responses, in canonical order, with global token weights.

    With `skip_idle` responses that add nothing to the loss count in the weights but are in no share. Every
    rank of a model-parallel group receives the same share. A collective over all ranks.
    """
    algorithm = config.algorithm
    needed = contributes(scored, algorithm) if skip_idle else [True] * len(scored)
    counts = sum(comm.all_gather(local_counts(scored, algorithm)), Counts())
    # Weights are taken here, where groups are whole: afterwards they may be spread over DP ranks.
    weights = token_weights(scored, counts, algorithm, config.rollout.max_response_tokens)
    items = [(r, w) for r, w, is_needed in zip(scored, weights, needed, strict=True) if is_needed]
    share = move_to_dp_ranks(items, layout, comm)
    return make_batch([response for response, _ in share], [weight for _, weight in share])


def move_to_dp_ranks(
    items: Sequence[tuple[R, Any]], layout: Layout, comm: Communicator
) -> list[tuple[R, Any]]:
    """This DP rank's share of all (response, what goes with it), in canonical order. A collective."""
    gathered = comm.all_gather((layout.dp_rank, {response.key: response.num_tokens for response, _ in items}))
    owners = balanced_owners({k: n for _, sizes in gathered for k, n in sizes.items()}, layout.dp_size)
    outgoing: list[list[tuple[R, Any]]] = [[] for _ in range(layout.dp_size)]
    for response, extra in items:
        outgoing[owners[response.key]].append((replace(response, text=""), extra))
    received = comm.all_to_all([outgoing[dp_rank] for dp_rank, _ in gathered])
    return sorted((item for part in received for item in part), key=lambda item: item[0].key)
