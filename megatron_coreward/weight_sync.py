"""Actor weights into vLLM, and the proof that they arrived.

`sync_weights` streams the policy's whole tensors, bucket by bucket, into the engine's in-place loader.
`verify_sync` draws a few responses and compares vLLM's log-probs of the sampled tokens with the actor's: a
checksum would only prove what was sent, while engines repack what they receive. What the device's memory
holds meanwhile is decided in phases/memory.py.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from megatron_coreward.requests import VERIFICATION, make_requests
from megatron_coreward.roles import Communicator, Policy, RolloutEngine, WeightSource
from megatron_coreward.types import QuestionPair, Sampling, View, WeightedResponse
from megatron_coreward.utils.metrics import Figures

if TYPE_CHECKING:
    import torch

VERIFIED_PAIRS = 2
VERIFY_TOKENS = 16
MEAN_SHARE = 0.2
"""Of the tolerance of a single token, for the mean."""
LONG_PROMPT = 160
"""Tokens; more than a block of vLLM's KV cache (128 on a CPU, 16 on a GPU)."""


def sync_weights(model: WeightSource, rollout: RolloutEngine, version: int) -> Figures:
    """Loads the model's weights into the engine as `version`; figures of this rank. A collective."""
    before, started, loaded = model.traffic, time.perf_counter(), 0

    def counted() -> Iterator[tuple[str, "torch.Tensor"]]:
        nonlocal loaded
        for name, tensor in model.export_weights():
            loaded += tensor.nbytes
            yield name, tensor

    weights = counted()
    rollout.load_weights(weights, version)
    for _ in weights:  # an engine that stops early must not leave other ranks waiting in a collective
        pass
    moved = model.traffic - before
    figures = Figures()
    figures.add_sum("sync/bytes_sent", moved.sent)
    figures.add_sum("sync/bytes_received", moved.received)
    figures.add_sum("sync/bytes_minimum", moved.minimum)
    figures.add_mean("sync/gb_per_second", loaded / 1e9, time.perf_counter() - started)
    return figures


def prompts_to_verify(pairs: Sequence[QuestionPair], context: int) -> list[QuestionPair]:
    """The first pairs plus one long prompt, so that a stale prefix cache is detected.

    vLLM caches whole blocks of a prompt only, so after a sync that left a stale cache a short prompt would
    look right. The long prompt repeats the first pair's tokens, as far as the engine's `context` lets it;
    where that is less than a block, no prompt of the run is cached either. It must be the same at every
    sync, so that its blocks were computed with older weights.
    """
    first = pairs[0]
    length = min(LONG_PROMPT, context - VERIFY_TOKENS)
    long = replace(
        first,
        pair_id=1 + max(pair.pair_id for pair in pairs),
        original_ids=_repeated(first.original_ids, length),
        rephrased_ids=_repeated(first.rephrased_ids, length),
    )
    return [*pairs[:VERIFIED_PAIRS], long]


def verify_sync(
    policy: Policy,
    rollout: RolloutEngine,
    comm: Communicator,
    pairs: Sequence[QuestionPair],
    temperature: float,
    tolerance: float,
    *,
    views: Iterable[View] = View,
    model: WeightSource | None = None,
) -> float:
    """Largest |log-prob of vLLM - log-prob of the actor| over a few sampled tokens, in nats.

    On average it may be a fifth of `tolerance`: one token may be an accident of rounding, many are not.

    `model` is the one whose weights the engine should hold, the policy by default.

    Raises:
        RuntimeError: it is above `tolerance`, or its mean too high; the same on every rank.
    """
    requests = make_requests(pairs, 1, run_seed=0, step=0, views=views, stream=VERIFICATION)
    responses = rollout.generate(requests, Sampling(temperature, max_tokens=VERIFY_TOKENS))
    batch = policy.shard([WeightedResponse(response) for response in responses])
    gaps = ((model or policy).log_probs(batch) - batch.rollout_logps_T).abs()
    found = comm.all_gather((float(gaps.max()), float(gaps.sum()), len(gaps)) if len(gaps) else (0.0, 0.0, 0))
    largest, total, count = max(f[0] for f in found), sum(f[1] for f in found), sum(f[2] for f in found)
    mean = total / max(count, 1)
    if not (largest <= tolerance and mean <= MEAN_SHARE * tolerance):
        raise RuntimeError(
            f"after the weight sync vLLM's log-probs are up to {largest:.2e} nats from the actor's and "
            f"{mean:.1e} on average, but weight_sync.tolerance allows {tolerance:.0e} and a fifth of it on "
            "average: the engine does not hold the actor's weights"
        )
    return largest


def _repeated(ids: tuple[int, ...], length: int) -> tuple[int, ...]:
    times = -(-length // max(len(ids), 1))  # a wording that the run does not use is empty
    return (ids * times)[:length]
