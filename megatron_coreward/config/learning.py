"""The sections of a configuration that say what is learned, and how: rewards, teacher, objective, optimizer.

Read through schema.py, which says how a key is described.
"""

from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from megatron_coreward.config.fields import (
    STRICT,
    AtLeastOne,
    AtLeastZero,
    Beta,
    NotNegative,
    Off,
    Options,
    OwnMethod,
    Positive,
    Share,
)


@dataclass(config=STRICT)
class RewardConfig:
    """The reward stage."""

    method: (
        Literal[
            "co_reward",
            "co_rewarding_2",
            "co_rewarding_3",
            "majority_voting",
            "pooled_vote",
            "split_vote",
            "harmonic",
            "agreement_gate",
            "consensus",
            "ground_truth",
            "self_certainty",
            "entropy",
            "random",
        ]
        | OwnMethod
    ) = "co_reward"
    """Where rewards come from: co_reward (Co-rewarding-I: the majority answer of one view is the label of the
    other, Eq. 6-8), co_rewarding_2 (the teacher's majority answer), co_rewarding_3 (that of the other view),
    majority_voting (the group's own), pooled_vote (that of both views together), split_vote (that of the
    group's other half), harmonic (Self-Harmony: by the harmonic mean of both views' shares), agreement_gate
    (that of both views, where they agree), consensus (how often an answer wins the vote of a few judges),
    ground_truth, self_certainty, entropy or random, or one of one's own in a module of Python's path or of
    the folder that the command is run from. docs/reward_methods.md has the formulas, and how to write one."""
    options: Options = Field(default_factory=dict)
    """The options of the method, also of one of one's own, where it has some (docs/reward_methods.md): a
    section of its own in a file, `reward.options.NAME=value` on the command line."""
    equality: Literal["math", "exact"] = "math"
    """math: answers are equivalence classes (normalise, then math-verify); exact: the string equality of
    the authors' code."""
    ties: Literal["first", "abstain"] = "first"
    """first: the tied class that holds the smallest sample index wins; abstain: no label."""
    min_agreement: Share = 0.0
    """Least share of a group's responses that the winning class needs; below it there is no label."""
    min_entropy: NotNegative = 0.0
    """A group gets rewards only if the entropy of its answers in nats is above this, each missing answer
    being a class of its own (EMPO's gate); ln(responses of the group) where all differ. 0 = no limit."""
    max_entropy: NotNegative = 0.0
    """The same, but below this. 0 = no limit."""
    weight_by_share: bool = False
    """Multiply advantages by the share of the vote that the label won, so that narrow votes count less."""
    no_answer_entropy: NotNegative = 0.0
    """entropy: a response without an answer counts as having this entropy in nats (RENT: 7); 0 = its own."""
    timeout_s: Positive = 5.0
    """Hard limit for reading an answer or comparing two, in CPU seconds; a time-out counts as unequal.
    All answers of a step that are left to math-verify share `timeout_s` + 0.02 s per answer."""
    workers: AtLeastOne = 1
    """Worker processes per rank for comparing answers."""


@dataclass(config=STRICT)
class TeacherConfig:
    """The teacher of co_rewarding_2 and co_rewarding_3: a moving average of the policy's weights, in float32.

    teacher <- alpha * teacher + (1 - alpha) * policy; 1 - alpha falls along half a cosine over the run.
    """

    samples: AtLeastZero = 0
    """Responses per question and view that the teacher draws and votes with; 0 = rollout.samples."""
    alpha_start: Share = 0.99
    """alpha at the first update."""
    alpha_end: Share = 0.9999
    """alpha at the last one (the paper; its released script: 0.99999)."""
    every: AtLeastZero = 1
    """Steps between updates; 0 = never, the teacher stays the start model (the paper's ablation)."""


@dataclass(config=STRICT)
class AlgorithmConfig:
    """GRPO objective (Eq. 4-7) and its variants; formulas, sources and advice in docs/algorithm.md."""

    advantage: Literal["group-norm", "no-std", "rloo"] = "group-norm"
    """group-norm (the paper, Eq. 7), no-std (Dr. GRPO: without dividing by the standard deviation) or rloo
    (reward minus the mean reward of the group's other responses)."""
    aggregation: Literal["seq-mean", "token-mean", "dr-grpo"] = "seq-mean"
    """seq-mean (the paper: mean over tokens, then over responses), token-mean (over all tokens) or dr-grpo
    (sum over tokens / rollout.max_response_tokens, then mean over responses)."""
    denominator: Literal["all", "active"] = "all"
    """all: every response counts in the divisor; active: only groups with unequal rewards take part in loss
    and divisor, and masked truncated responses are in neither."""
    mask_truncated: bool = False
    """Truncated responses take no part in the loss, KL penalty included. Their rewards still count in the
    group's baseline, and with denominator=all they stay in the divisor."""
    mask_answer: bool = False
    """The tokens in the boxes of a response's answer take no part in the loss, KL penalty included, but stay
    in the divisor: what leads to the answer is learned, not the answer itself (OM-GRPO)."""
    skip_no_signal: bool = False
    """Leave out of forward and backward passes what adds exactly nothing to the loss: groups with equal
    rewards (if kl_coef=0 or denominator=active) and masked responses. Never changes the gradient."""
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """PPO clip range epsilon."""
    clip_high: NotNegative = 0.0
    """Upper clip range, if it differs from `clip` (DAPO's clip-higher: 0.28); 0 = `clip`."""
    dual_clip: Off | Annotated[float, Field(gt=1)] = 0.0
    """Bound of the ratio where the advantage is negative (Ye et al.: 3); 0 = none."""
    tis_cap: Off | Annotated[float, Field(ge=1)] = 0.0
    """Truncated importance sampling: each token's policy loss is weighted by min(pi_old / pi_vllm, cap);
    usually 2, 0 = off."""
    kl_coef: NotNegative = 0.005
    """Weight of the KL penalty to the reference: the start model, or the teacher where there is one. 0 = no
    penalty and no reference. The paper has 0.005 for Co-rewarding-I and 0.001 for II."""
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    """k3 (the paper's; its gradient is that of the forward KL), k2 (of the reverse KL) or k1 (of no KL: noise
    of mean 0, no penalty; for comparisons only)."""
    updates_per_batch: AtLeastOne = 1
    """Optimizer steps per rollout batch; above 1 the old log-probs are recomputed by the actor."""


@dataclass(config=STRICT)
class OptimizerConfig:
    """AdamW and learning rate; which rate to begin with: docs/paper_settings.md."""

    lr: Positive = 3e-6
    """Peak learning rate."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """cosine (to `min_lr`) or constant."""
    min_lr: NotNegative = 0.0
    """Floor of the cosine schedule."""
    warmup_ratio: Share = 0.1
    """Share of all optimizer steps that warm up linearly; the k-th of n such steps has k/n of `lr`."""
    weight_decay: NotNegative = 0.01
    """Decoupled weight decay; norms and biases are excluded."""
    beta1: Beta = 0.9
    """Adam beta 1."""
    beta2: Beta = 0.999
    """Adam beta 2."""
    eps: Positive = 1e-8
    """Adam epsilon."""
    clip_grad: NotNegative = 1.0
    """Global gradient norm limit; 0 = no clipping."""
    micro_batch_tokens: AtLeastOne = 4096
    """Token budget of one packed micro-batch. A longer single response gets one of its own. On a CPU 1024 is
    as fast as 4096 and takes about half the memory (docs/evidence/speed.md)."""
    share_prompts: bool = True
    """Compute a prompt once for all its responses in a micro-batch, in old, reference and current log-probs
    alike. Exact to rounding; false computes it once for every response."""
    distributed: bool = False
    """Megatron's distributed optimizer: data-parallel ranks share Adam's state, where memory is short."""
    overlap: bool = False
    """Reduce gradients over data-parallel ranks during the backward pass, and with `distributed` gather
    parameters during the next forward pass. For many data-parallel ranks, which wait for each other."""
    nonfinite: Literal["stop", "skip"] = "stop"
    """If a loss or gradient is NaN or infinite: stop (the last checkpoint is intact) or skip
    (that optimizer step is left out). The batch is saved in `output_dir`/nonfinite either way."""
