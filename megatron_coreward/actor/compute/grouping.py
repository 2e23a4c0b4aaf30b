"""Which responses share one pass over their prompt, and which share a micro-batch.

The responses of a group differ from their first token on, so a pass over prompt and all responses computes
P + sum R tokens instead of G P + sum R. A part of a group is what one pass computes so; its cost is that sum.
Nothing of this can change the loss, because every token carries its own global weight.
"""

from collections.abc import Hashable, Sequence
from typing import NamedTuple


class Size(NamedTuple):
    """What decides where a response is computed: which prompt it answers, and the tokens of both."""

    prompt: Hashable
    prompt_tokens: int
    response_tokens: int


def cost(part: Sequence[int], sizes: Sequence[Size]) -> int:
    """Tokens of one pass over the responses `part` and the prompt that they share."""
    return sizes[part[0]].prompt_tokens + sum(sizes[i].response_tokens for i in part)


def parts_of_groups(sizes: Sequence[Size], limit: int, share: bool) -> list[list[int]]:
    """The indices of each part, in order. Without `share` every response is a part.

    A group whose cost is above `limit` tokens is cut into as few equal parts as are below it, each of which
    repeats the prompt; a part of one response may be above.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, size in enumerate(sizes):
        groups.setdefault(size.prompt if share else index, []).append(index)
    return [part for group in groups.values() for part in _cut(group, sizes, limit)]


def _cut(group: list[int], sizes: Sequence[Size], limit: int) -> list[list[int]]:
    longest_first = sorted(group, key=lambda i: (-sizes[i].response_tokens, i))
    for count in range(1, len(group) + 1):
        parts: list[list[int]] = [[] for _ in range(count)]
        loads = [sizes[group[0]].prompt_tokens] * count
        for index in longest_first:
            lightest = loads.index(min(loads))
            parts[lightest].append(index)
            loads[lightest] += sizes[index].response_tokens
        if max(loads) <= limit:
            break
    return [sorted(part) for part in parts if part]


def plan_micro_batches(sizes: Sequence[Size], budget: int, share: bool) -> list[list[list[int]]]:
    """The parts of each micro-batch; none is over `budget` tokens unless a single response is.

    The costliest part first, into the first micro-batch with room. Without responses there is one empty
    micro-batch, since every rank takes part in every collective.
    """
    parts = parts_of_groups(sizes, budget, share)
    bins: list[list[list[int]]] = []
    room: list[int] = []
    for part in sorted(parts, key=lambda part: (-cost(part, sizes), part[0])):
        tokens = cost(part, sizes)
        place = next((b for b, free in enumerate(room) if free >= tokens), None)
        if place is None:
            bins.append([part])
            room.append(budget - tokens)
        else:
            bins[place].append(part)
            room[place] -= tokens
    return bins or [[]]
