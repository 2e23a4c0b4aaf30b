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

    A group is cut only when it is over a micro-batch or over an equal share of all tokens. Depends on the set
    of responses only, not on who holds them.
    """
    keys = sorted(sizes)
    of_key = [sizes[key] for key in keys]
    whole = parts_of_groups(of_key, sum(size.prompt_tokens + size.response_tokens for size in of_key), True)
    equal_share = -(-sum(cost(group, of_key) for group in whole) // ranks)
    parts = parts_of_groups(of_key, min(config.micro_batch_tokens, equal_share), config.share_prompts)
    load = [0] * ranks
    owners: dict[Key, int] = {}
    for part in sorted(parts, key=lambda part: (-cost(part, of_key), keys[part[0]])):
        owner = load.index(min(load))
        owners |= {keys[index]: owner for index in part}
        load[owner] += cost(part, of_key)
    return owners


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
