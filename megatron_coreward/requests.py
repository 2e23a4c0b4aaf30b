"""The requests to draw responses: their seeds, and the vLLM replica that draws each.

Pure functions of the request list and the number of replicas. A *group* is all samples of one
(pair_id, view); it stays on one replica, which computes the prompt once and shares its prefix.

A request's seed is a hash of run seed, step, pair, view and sample. Each purpose draws from a stream of its
own, which the hash tells apart by the number in the step's place and by a suffix:

    stream          in the step's place     suffix
    TRAINING        step
    TEACHER         step                    teacher     at first it has the policy's weights
    EVALUATION      -1                                  every evaluation of a run draws the same noise
    REPHRASING      -2                                  the sample is the attempt
    ANSWERS         -3 - step                           to both wordings; the step is the attempt
    VERIFICATION    0                                   of a weight sync; always with run seed 0

Whoever changes this table changes the figures of every run.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

from megatron_coreward.types import GenerationRequest, QuestionPair, View


class Stream(NamedTuple):
    """A row of the table above: `first` + `slope` * step stands in the step's place."""

    first: int
    slope: int
    suffix: str = ""


TRAINING = Stream(0, 1)
TEACHER = Stream(0, 1, "teacher")
EVALUATION = Stream(-1, 0)
REPHRASING = Stream(-2, 0)
ANSWERS = Stream(-3, -1)
VERIFICATION = Stream(0, 0)

Prompt = tuple[int, View, tuple[int, ...]]
"""Question or pair, wording, token ids."""


def request_seed(
    run_seed: int, step: int, pair_id: int, view: View, sample: int, stream: Stream = TRAINING
) -> int:
    """63 bits of a hash over all of them, so that no two requests of a run share a random stream.

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
) -> list[GenerationRequest]:
    """`samples` requests for each of `views` of each pair, in canonical order."""
    prompts = ((pair.pair_id, view, pair.prompt_ids(view)) for pair in pairs for view in views)
    return requests_for(prompts, range(samples), run_seed, stream, step)


def replica_of_rank(rank: int, tensor_parallel_size: int) -> int:
    """A replica is `tensor_parallel_size` consecutive ranks."""
    return rank // tensor_parallel_size


def place(requests: Sequence[GenerationRequest], num_replicas: int) -> list[list[GenerationRequest]]:
    """The requests of every replica, each list in canonical order.

    Groups go, largest first, to the replica with the fewest responses to draw (decoding is what takes
    time); among equals, to the one with the fewest prompt tokens x samples.
    """
    groups: dict[tuple[int, str], list[GenerationRequest]] = defaultdict(list)
    for request in requests:
        groups[(request.pair_id, request.view.value)].append(request)
    assert len({request.key for request in requests}) == len(requests), "a request is listed twice"

    def prompt_tokens(group: tuple[int, str]) -> int:
        return sum(len(request.prompt_ids) for request in groups[group])

    placed: list[list[GenerationRequest]] = [[] for _ in range(num_replicas)]
    tokens = [0] * num_replicas
    for group in sorted(groups, key=lambda group: (-len(groups[group]), -prompt_tokens(group), group)):
        replica = min(range(num_replicas), key=lambda r: (len(placed[r]), tokens[r], r))
        placed[replica] += groups[group]
        tokens[replica] += prompt_tokens(group)
    return [sorted(share, key=lambda request: request.key) for share in placed]
