"""Which data-parallel rank trains on which response, and the one move of their tensors there.

Token ids, log-probs and advantages cross ranks here and nowhere else; texts stay behind.
"""

from collections.abc import Sequence
from dataclasses import replace

from megatron_coreward.actor.parallel import Layout
from megatron_coreward.algorithm.batch import TrainBatch, make_batch
from megatron_coreward.algorithm.loss_weights import Counts, contributes, local_counts, token_weights
from megatron_coreward.config import Config
from megatron_coreward.roles import Communicator
from megatron_coreward.types import ScoredResponse

Key = tuple[int, str, int]


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
    mine = {r.key: r.num_tokens for r, is_needed in zip(scored, needed, strict=True) if is_needed}
    gathered = comm.all_gather((layout.dp_rank, mine, local_counts(scored, algorithm)))
    dp_ranks = [dp_rank for dp_rank, _, _ in gathered]
    owners = balanced_owners({k: n for _, sizes, _ in gathered for k, n in sizes.items()}, layout.dp_size)
    counts = sum((part for _, _, part in gathered), Counts())
    # Weights are taken here, where groups are whole: afterwards they may be spread over DP ranks.
    weights = token_weights(scored, counts, algorithm, config.rollout.max_response_tokens)
    outgoing: list[list[tuple[ScoredResponse, float]]] = [[] for _ in range(layout.dp_size)]
    for response, weight in zip(scored, weights, strict=True):
        if response.key in mine:
            outgoing[owners[response.key]].append((replace(response, text=""), weight))
    received = comm.all_to_all([outgoing[dp_rank] for dp_rank in dp_ranks])
    share = sorted((item for part in received for item in part), key=lambda item: item[0].key)
    return make_batch([response for response, _ in share], [weight for _, weight in share])
