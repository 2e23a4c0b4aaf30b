"""Which data-parallel rank computes on which response, and the one move of their tensors there.

Token ids, log-probs, advantages and weights cross ranks here and nowhere else; texts stay behind.
"""

from collections.abc import Sequence
from dataclasses import replace

from megatron_coreward.actor.parallel import Layout
from megatron_coreward.roles import Communicator
from megatron_coreward.types import WeightedResponse

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


def move_to_dp_ranks(
    held: Sequence[WeightedResponse], layout: Layout, comm: Communicator
) -> list[WeightedResponse]:
    """This DP rank's share of what all ranks hold, in canonical order. A collective over all ranks.

    Every rank of a model-parallel group receives the same share.
    """
    sizes = {item.response.key: item.response.num_tokens for item in held}
    gathered = comm.all_gather((layout.dp_rank, sizes))
    owners = balanced_owners({k: n for _, sizes in gathered for k, n in sizes.items()}, layout.dp_size)
    outgoing: list[list[WeightedResponse]] = [[] for _ in range(layout.dp_size)]
    for item in held:
        textless = replace(item, response=replace(item.response, text=""))
        outgoing[owners[item.response.key]].append(textless)
    received = comm.all_to_all([outgoing[dp_rank] for dp_rank, _ in gathered])
    return sorted((item for items in received for item in items), key=lambda item: item.response.key)
