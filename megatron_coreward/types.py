"""The records that flow through one training step.

    QuestionPair -> GenerationRequest -> Response -> ScoredResponse -> WeightedResponse
                 -> TrainBatch (algorithm/batch.py)

There is one flat list of responses per step. Each response is tagged `(pair_id, view, sample)`; a
*group* is all samples of one `(pair_id, view)`. The canonical order is that of `Response.key`, and
nothing before the vote depends on rank, length or arrival order.
"""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np


class View(StrEnum):
    """Which wording of a question a response answers."""

    ORIGINAL = "original"
    REPHRASED = "rephrased"

    @property
    def other(self) -> "View":
        return View.REPHRASED if self is View.ORIGINAL else View.ORIGINAL


@dataclass(frozen=True)
class QuestionPair:
    """One question in two wordings, tokenised once. In a run of one wording the other may be empty.

    `answer` is the ground truth. It serves evaluation and diagnostics only and never reaches a
    label-free reward; it may be None.
    """

    pair_id: int
    original: str
    rephrased: str
    original_ids: tuple[int, ...]
    rephrased_ids: tuple[int, ...]
    answer: str | None = None
    level: str = ""
    subject: str = ""

    def prompt_ids(self, view: View) -> tuple[int, ...]:
        return self.original_ids if view is View.ORIGINAL else self.rephrased_ids

    def question(self, view: View) -> str:
        return self.original if view is View.ORIGINAL else self.rephrased


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn. `temperature` 0 is greedy.

    Training uses top_p = 1 and no top_k: truncating the distribution would break the policy ratio.
    """

    temperature: float = 1.0
    max_tokens: int = 1024
    top_p: float = 1.0
    top_k: int = 0


@dataclass(frozen=True)
class GenerationRequest:
    """One response to draw: one request per sample, with a seed of its own."""

    pair_id: int
    view: View
    sample: int
    prompt_ids: tuple[int, ...]
    seed: int
    expected_tokens: int = 0
    """Of the response, by which the work is ordered and divided; 0: unknown."""

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.pair_id, self.view.value, self.sample)


@dataclass(frozen=True)
class Confidence:
    """How sure the policy was of a response: means over its tokens, in nats, at the sampling temperature.

    0 for a response without tokens.
    """

    self_certainty: float
    entropy: float


@dataclass(frozen=True)
class Response:
    """One sampled response y.

    `response_ids` (int32, [n]) includes the sampled stop token; nothing is appended to a truncated
    response. `rollout_logps` (float32, [n]) are vLLM's log-probs of those tokens under the
    temperature-scaled distribution. `finish_reason` is "stop" or "length". `weights_version` is the
    optimizer step whose weights drew it. `confidence` is None until Policy.with_confidence has measured it.
    """

    pair_id: int
    view: View
    sample: int
    prompt_ids: tuple[int, ...]
    response_ids: np.ndarray
    rollout_logps: np.ndarray
    text: str
    finish_reason: str
    weights_version: int
    confidence: Confidence | None = None

    @property
    def key(self) -> tuple[int, str, int]:
        return (self.pair_id, self.view.value, self.sample)

    @property
    def group(self) -> tuple[int, str]:
        return (self.pair_id, self.view.value)

    @property
    def num_tokens(self) -> int:
        """Prompt plus response tokens."""
        return len(self.prompt_ids) + len(self.response_ids)


@dataclass(frozen=True)
class ScoredResponse(Response):
    """A response with what the reward stage decided.

    `answer` is the normal form of the extracted answer ("" = none), `pseudo_label` that of the
    label it was judged by ("" = no label), `reward` the scalar reward, `advantage` A_i of Eq. 7,
    `label_share` the share of the vote that the label won (0 = no label or no vote), `majority` that of the
    most frequent answer of its own group ("" = none), whatever the label. `answer_tokens` are the positions
    of the response's tokens in the boxes of its answer; empty without `algorithm.mask_answer`.
    """

    answer: str = ""
    pseudo_label: str = ""
    reward: float = 0.0
    advantage: float = 0.0
    label_share: float = 0.0
    majority: str = ""
    answer_tokens: tuple[int, ...] = ()


@dataclass(frozen=True)
class WeightedResponse:
    """A response with the advantage and the loss weight of each of its tokens (algorithm/loss_weights.py).

    The tokens at the positions `masked` have weight 0. With all weights at 0 it adds nothing to the loss; its
    log-probs can be taken all the same.
    """

    response: Response
    advantage: float = 0.0
    weight: float = 0.0
    masked: tuple[int, ...] = ()


@dataclass(frozen=True)
class Traffic:
    """Bytes of weights that a rank has sent to others and received from them.

    `minimum` is what it would have had to receive: what its part of the engine holds, less what it holds
    of the policy anyway.
    """

    sent: int = 0
    received: int = 0
    minimum: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent + other.sent, self.received + other.received, self.minimum + other.minimum)

    def __sub__(self, other: "Traffic") -> "Traffic":
        return Traffic(self.sent - other.sent, self.received - other.received, self.minimum - other.minimum)


@dataclass
class StepReport:
    """Figures of one step under the names of docs/metrics.md."""

    step: int
    metrics: dict[str, float] = field(default_factory=dict)
