"""Which data-parallel rank computes on which response, and the one move of their tensors there.

Token ids, log-probs, advantages and weights cross ranks here and nowhere else; texts stay behind.
"""

from collections.abc import Sequence
from dataclasses import replace

from megatron_coreward.actor.compute.grouping import Size, cost, parts_of_groups
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Response, WeightedResponse

Key = tuple[int, str, int]


def size_of(response: Response) -> Size:
    """The responses of a group have one prompt."""
    return Size(response.group, len(response.prompt_ids), len(response.response_ids))


def balanced_owners(sizes: dict[Key, Size], ranks: int, config: OptimizerConfig) -> dict[Key, int]:
    """Response key -> DP rank; the costliest part of a group first, to the rank with the fewest tokens.

    Groups are cut where they are over a micro-batch, and where that lowers the tokens of the busiest rank.
    Depends on the set of responses only, not on who holds them.
    """
    keys = sorted(sizes)
    of_key = [sizes[key] for key in keys]
    equal_share = -(-sum(size.prompt_tokens + size.response_tokens for size in of_key) // ranks)
    limits = [min(config.micro_batch_tokens, max(1, equal_share // cuts)) for cuts in (1, 2, 4, 8, 16)]
    plans = [
        _balance(parts_of_groups(of_key, limit, config.share_prompts), of_key, ranks) for limit in limits
    ]
    parts_of_rank = min(plans, key=lambda plan: max(load for load, _ in plan))
    return {keys[i]: rank for rank, (_, parts) in enumerate(parts_of_rank) for part in parts for i in part}


def _balance(parts: list[list[int]], sizes: Sequence[Size], ranks: int) -> list[tuple[int, list[list[int]]]]:
    """The tokens and the parts of each rank."""
    loads: list[int] = [0] * ranks
    shares: list[list[list[int]]] = [[] for _ in range(ranks)]
    for part in sorted(parts, key=lambda part: (-cost(part, sizes), part[0])):
        rank = loads.index(min(loads))
        shares[rank].append(part)
        loads[rank] += cost(part, sizes)
    return list(zip(loads, shares, strict=True))


def move_to_dp_ranks(
    held: Sequence[WeightedResponse], layout: Layout, comm: Communicator, config: OptimizerConfig
) -> list[WeightedResponse]:
    """This DP rank's share of what all ranks hold, in canonical order. A collective over all ranks.

    Every rank of a model-parallel group receives the same share.
    """
    sizes = {item.response.key: size_of(item.response) for item in held}
    gathered = comm.all_gather((layout.dp_rank, sizes))
    everything = {key: size for _, sizes in gathered for key, size in sizes.items()}
    owners = balanced_owners(everything, layout.dp_size, config)
    outgoing: list[list[WeightedResponse]] = [[] for _ in range(layout.dp_size)]
    for item in held:
        textless = replace(item, response=replace(item.response, text=""))
        outgoing[owners[item.response.key]].append(textless)
    received = comm.all_to_all([outgoing[dp_rank] for dp_rank, _ in gathered])
    return sorted((item for items in received for item in items), key=lambda item: item.response.key)
