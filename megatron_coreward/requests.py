"""The requests to draw responses: their seeds, and the vLLM replica that draws each.

Pure functions of the request list and the number of replicas. A *group* is all samples of one
(pair_id, view); it stays on one replica, which computes the prompt once and shares its prefix.

A request's seed is a hash of run seed, step, pair, view and sample. Each purpose draws from a stream of its
own, which the hash tells apart by the number in the step's place and by a suffix:

    stream          in the step's place     suffix
    TRAINING        step
    TEACHER         step                    teacher     at first it has the policy's weights
    EVALUATION      -1                                  every evaluation of a run draws the same noise
    PROBE           -1                      probe       every probe of a run draws the same noise
    REPHRASING      -2                                  the sample is the attempt
    ANSWERS         -3 - step                           to both wordings; the step is the attempt
    VERIFICATION    0                                   of a weight sync; always with run seed 0

Whoever changes this table changes the figures of every run.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from types import MappingProxyType
from typing import NamedTuple

from megatron_coreward.types import GenerationRequest, QuestionPair, Response, View


class Stream(NamedTuple):
    """A row of the table above: `first` + `slope` * step stands in the step's place."""

    first: int
    slope: int
    suffix: str = ""


TRAINING = Stream(0, 1)
TEACHER = Stream(0, 1, "teacher")
EVALUATION = Stream(-1, 0)
PROBE = Stream(-1, 0, "probe")
REPHRASING = Stream(-2, 0)
ANSWERS = Stream(-3, -1)
VERIFICATION = Stream(0, 0)

Prompt = tuple[int, View, tuple[int, ...]]
"""Question or pair, wording, token ids."""


def request_seed(
    run_seed: int, step: int, pair_id: int, view: View, sample: int, stream: Stream = TRAINING
) -> int:
    """63 bits of a hash over all arguments, so that no two requests of a run share random numbers.

    Neighbouring seeds (seed + index) would not do: engines derive streams from them that overlap.
    """
    place = stream.first + stream.slope * step
    identity = f"{run_seed}/{place}/{pair_id}/{view.value}/{sample}{stream.suffix}".encode()
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big") >> 1


def requests_for(
    prompts: Iterable[Prompt], samples: Sequence[int], run_seed: int, stream: Stream, step: int = 0
) -> list[GenerationRequest]:
    """A request for each of `samples` of every prompt, in canonical order."""
    requests = [
        GenerationRequest(
            pair_id=pair_id,
            view=view,
            sample=sample,
            prompt_ids=prompt_ids,
            seed=request_seed(run_seed, step, pair_id, view, sample, stream),
        )
        for pair_id, view, prompt_ids in prompts
        for sample in samples
    ]
    return sorted(requests, key=lambda request: request.key)


def make_requests(
    pairs: Iterable[QuestionPair],
    samples: int,
    run_seed: int,
    step: int,
    views: Iterable[View] = View,
    stream: Stream = TRAINING,
    expected: Mapping[str, int] = MappingProxyType({}),
) -> list[GenerationRequest]:
    """`samples` requests for each of `views` of each pair, in canonical order.

    `expected` are response lengths as mean_lengths gives them; a group without one has 0, for unknown.
    """
    prompts = ((pair.pair_id, view, pair.prompt_ids(view)) for pair in pairs for view in views)
    requests = requests_for(prompts, range(samples), run_seed, stream, step)
    return [replace(request, expected_tokens=expected.get(_group(request), 0)) for request in requests]


def _group(item: GenerationRequest | Response) -> str:
    """The group's name in a checkpoint, whose JSON has texts for keys."""
    return f"{item.pair_id}/{item.view.value}"


def mean_lengths(responses: Iterable[Response]) -> dict[str, int]:
    """Tokens of a response by group: the mean, rounded up. A group's responses are all given."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for response in responses:
        lengths[_group(response)].append(len(response.response_ids))
    return {group: -(-sum(tokens) // len(tokens)) for group, tokens in lengths.items()}


def replica_of_rank(rank: int, tensor_parallel_size: int) -> int:
    """A replica is `tensor_parallel_size` consecutive ranks."""
    return rank // tensor_parallel_size


def place(requests: Sequence[GenerationRequest], num_replicas: int) -> list[list[GenerationRequest]]:
    """The requests of every replica, each list with whole groups, the longest expected first.

    Groups go, the one with the most expected response tokens first, to the replica with the fewest (decoding
    is what takes time); among equals, to the one with the fewest prompt tokens x samples. A group of unknown
    length counts as the mean of the known ones, so that without any the replicas draw equally many.
    """
    groups: dict[tuple[int, str], list[GenerationRequest]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: request.key):
        groups[(request.pair_id, request.view.value)].append(request)
    assert len({request.key for request in requests}) == len(requests), "a request is listed twice"
    known = [request.expected_tokens for request in requests if request.expected_tokens]
    usual = -(-sum(known) // len(known)) if known else 1
    loads = {
        group: (
            sum(request.expected_tokens or usual for request in members),
            sum(len(request.prompt_ids) for request in members),
        )
        for group, members in groups.items()
    }
    placed: list[list[GenerationRequest]] = [[] for _ in range(num_replicas)]
    given = [(0, 0)] * num_replicas
    for group in sorted(groups, key=lambda group: (-loads[group][0], -loads[group][1], group)):
        replica = min(range(num_replicas), key=lambda r: (given[r], r))
        placed[replica] += groups[group]
        given[replica] = (given[replica][0] + loads[group][0], given[replica][1] + loads[group][1])
    return placed
