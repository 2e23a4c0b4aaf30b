"""Which requests a step makes, with which seeds, and which vLLM replica draws them.

Pure functions of the request list and the number of replicas. A *group* is all samples of one
(pair_id, view); it stays on one replica, which computes the prompt once and shares its prefix.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import blake2b

from megatron_coreward.types import GenerationRequest, QuestionPair, View

TEACHER = "teacher"
"""The `stream` of the teacher's requests: at first it has the policy's weights and must not draw the same."""


def request_seed(run_seed: int, step: int, pair_id: int, view: View, sample: int, stream: str = "") -> int:
    """63 bits of a hash over all of them, so that no two requests of a run share a random stream.

    Neighbouring seeds (seed + index) would not do: engines derive streams from them that overlap.
    """
    identity = f"{run_seed}/{step}/{pair_id}/{view.value}/{sample}{stream}".encode()
    return int.from_bytes(blake2b(identity, digest_size=8).digest(), "big") >> 1


def make_requests(
    pairs: Iterable[QuestionPair],
    samples: int,
    run_seed: int,
    step: int,
    views: Iterable[View] = View,
    stream: str = "",
) -> list[GenerationRequest]:
    """`samples` requests for each of `views` of each pair, in canonical order."""
    requests = [
        GenerationRequest(
            pair_id=pair.pair_id,
            view=view,
            sample=sample,
            prompt_ids=pair.prompt_ids(view),
            seed=request_seed(run_seed, step, pair.pair_id, view, sample, stream),
        )
        for pair in pairs
        for view in views
        for sample in range(samples)
    ]
    return sorted(requests, key=lambda request: request.key)


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
    return [sorted(mine, key=lambda request: request.key) for mine in placed]
