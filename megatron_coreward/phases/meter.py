"""The useful work of a step, and the rates that it makes with the times of the phases.

Every rank counts the responses that it holds, so that the sum over all ranks is the work of the whole model,
whatever the layout. Nothing is exchanged for it beside what the step's figures travel in, no rank waits for
another, and nothing is read from the device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass

from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.phases.flops import useful_flops
from megatron_coreward.types import Response, WeightedResponse

SLOWEST, IDLE = "time/max/", "time/idle/"


@dataclass
class Work:
    """The work of a step: of one rank's responses, or of all. Each distinct token counts once a pass."""

    generated_tokens: int = 0
    trained_tokens: int = 0
    log_probs_flops: int = 0
    update_flops: int = 0
    gemm_flops_per_second: float = 0.0
    """The measured rate of the ranks' matrix products (actor/gemm_rate.py)."""


class Meter:
    """Counts the work of a step on this rank. `gemm_rate` is that of its device, in FLOP/s."""

    def __init__(self, shape: ModelShape, gemm_rate: float) -> None:
        self._shape, self._gemm_rate = shape, gemm_rate
        self.restart()

    def restart(self) -> None:
        """A step begins."""
        self.work = Work(gemm_flops_per_second=self._gemm_rate)

    def count_drawn(self, responses: Sequence[Response]) -> None:
        """The policy has drawn `responses`."""
        self.work.generated_tokens += sum(len(response.response_ids) for response in responses)

    def count_trained(self, held: Sequence[WeightedResponse], log_prob_passes: int) -> None:
        """`held` are trained on in one optimizer step, after passes for old and reference log-probs."""
        groups: dict[tuple[int, str], tuple[int, list[int]]] = {}
        for response in (item.response for item in held):
            _, lengths = groups.setdefault(response.group, (len(response.prompt_ids), []))
            lengths.append(len(response.response_ids))
        self.work.trained_tokens += sum(prompt + sum(lengths) for prompt, lengths in groups.values())
        forward = useful_flops(self._shape, groups.values())
        self.work.log_probs_flops += log_prob_passes * forward
        self.work.update_flops += 3 * forward


def with_rates(metrics: Mapping[str, float], shares: Sequence[Work]) -> dict[str, float]:
    """`metrics` of all ranks with idle shares and rates; `shares` are the ranks' work.

    A rate is by the seconds of the slowest rank. One rank has no others to compare it with: the slowest
    rank's times and the idle shares are left out.
    """
    work = Work(*(sum(values) for values in zip(*map(astuple, shares), strict=True)))
    slowest = {name.removeprefix(SLOWEST): s for name, s in metrics.items() if name.startswith(SLOWEST)}
    idle = {f"{IDLE}{phase}": 1 - metrics[f"time/{phase}"] / seconds for phase, seconds in slowest.items()}
    rates = {
        "throughput/generated_tokens_per_second": work.generated_tokens / slowest["rollout"],
        "throughput/trained_tokens_per_second": work.trained_tokens / slowest["update"],
        "throughput/gemm_tflops": work.gemm_flops_per_second / 1e12,
    }
    for phase, flops in (("log_probs", work.log_probs_flops), ("update", work.update_flops)):
        if flops:
            rate = flops / slowest[phase]
            rates[f"throughput/{phase}_tflops"] = rate / 1e12
            rates[f"throughput/{phase}_gemm_share"] = rate / work.gemm_flops_per_second
    if len(shares) > 1:
        return {**metrics, **idle, **rates}
    return {name: value for name, value in metrics.items() if not name.startswith(SLOWEST)} | rates
