"""Actor weights into vLLM, and the proof that they arrived.

`sync_weights` streams the policy's whole tensors, bucket by bucket, into the engine's in-place loader.
`verify_sync` draws a few responses and compares vLLM's log-probs of the sampled tokens with the actor's: a
checksum would only prove what was sent, while engines repack what they receive.
"""

from collections.abc import Sequence

from megatron_coreward.roles import Communicator, Policy, RolloutEngine
from megatron_coreward.rollout.placement import make_requests
from megatron_coreward.types import QuestionPair, Sampling, ScoredResponse

VERIFY_TOKENS = 16


def sync_weights(policy: Policy, rollout: RolloutEngine, version: int) -> None:
    """Loads the policy's weights into the engine as `version`. A collective over all ranks."""
    weights = policy.export_weights()
    rollout.load_weights(weights, version)
    for _ in weights:  # an engine that stops early must not leave other ranks waiting in a collective
        pass


def verify_sync(
    policy: Policy,
    rollout: RolloutEngine,
    comm: Communicator,
    pairs: Sequence[QuestionPair],
    temperature: float,
    tolerance: float,
) -> float:
    """Largest |log-prob of vLLM - log-prob of the actor| over a few sampled tokens, in nats.

    Raises:
        RuntimeError: it is above `tolerance`; the same on every rank.
    """
    requests = make_requests(pairs, samples=1, run_seed=0, step=0)
    responses = rollout.generate(requests, Sampling(temperature, max_tokens=VERIFY_TOKENS))
    batch = policy.shard([ScoredResponse(**vars(response)) for response in responses])
    gaps = (policy.log_probs(batch) - batch.rollout_logps_T).abs()
    gap = max(comm.all_gather(float(gaps.max()) if len(gaps) else 0.0))
    if not gap <= tolerance:
        raise RuntimeError(
            f"after the weight sync vLLM's log-probs are up to {gap:.2e} nats from the actor's, over the "
            f"weight_sync.tolerance of {tolerance:.0e}: the engine does not hold the actor's weights"
        )
    return gap
