"""The configuration of a run: a tree of dataclasses in which everything about a key stands at its field.

A field has the key's type, its allowed values and its default, and the string after it has its meaning and
unit. pydantic enforces them, at construction and at every assignment; keys.py reads them for error messages
and for docs/config.md. Checks of several keys together are in preflight/. Importable without torch.
"""

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from megatron_coreward.config.fields import (
    MAX_SEED,
    STRICT,
    SYSTEM_PROMPT,
    AtLeastOne,
    AtLeastZero,
    NotNegative,
    Positive,
    Temperature,
    Where,
)
from megatron_coreward.config.learning import AlgorithmConfig, OptimizerConfig, RewardConfig, TeacherConfig


@dataclass(config=STRICT)
class RunConfig:
    """Where a run lives and how long it is."""

    output_dir: str = "runs/default"
    """Run folder: config, metrics.jsonl, rollouts/, checkpoints/, tensorboard/, hf/ (final export)."""
    resume: bool = False
    """Continue from the newest checkpoint of `output_dir`. Without it an existing run folder is refused."""
    auto_resume: bool = False
    """Continue if `output_dir` has an intact checkpoint, else start anew: one command for the first start and
    for every restart, by torchrun --max-restarts or a requeued job."""
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = 1
    """Seeds sampling, data order and every random number of the run."""
    steps: AtLeastZero = 0
    """Rollout batches to train on; 0 means `epochs` full passes over the data."""
    epochs: AtLeastOne = 3
    """Passes over the pairs when `steps` is 0."""
    stall_timeout_s: NotNegative = 0.0
    """Longest that a phase of a step may take, evaluations included. A run that takes longer names the rank
    that is behind, ends with exit code 5 and can be resumed; 0 = no limit."""
    profile_steps: str = ""
    """Steps of which every rank writes a trace of torch's profiler to `output_dir`/profile: numbers and
    ranges, as in 2,10-12. Such a step is slower and computes the same; empty = none."""
    export_hf: bool = True
    """Write a Hugging Face folder (safetensors, tokenizer, config) to `output_dir`/hf at the end."""


@dataclass(config=STRICT)
class ModelConfig:
    """The start model."""

    path: str = "???"
    """Folder in Hugging Face format (config.json, *.safetensors, tokenizer) or hub id."""
    checkpoint: str = ""
    """Take the weights from this checkpoint (a run's, or one of `coreward convert`) instead of those
    in `path`; config and tokenizer still come from `path`."""
    chat_template: str = ""
    """Chat template in place of the folder's, for base models that have none: a Jinja file, or plain (one
    that ships: the system turn, "Question: ...", "Answer:"). Checkpoints and the final export hold it.
    Empty = the folder's own."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Compute type of actor and rollout; auto: float32 on CPU, bfloat16 on GPU."""
    trust_remote_code: bool = False
    """Allow a model folder to run its own Python code. Off: such a model is refused."""
    transformer_impl: Literal["auto", "transformer_engine", "local"] = "auto"
    """Modules of the actor's layers: transformer_engine (GPUs; the only one that computes in FP8), local
    (torch) or auto (transformer_engine if it and a GPU are available, else local). See docs/gpu/fp8.md."""
    deterministic: bool = False
    """The actor uses only algorithms that give the same bits every time. On GPUs it is slower and needs
    environment variables, which the error names; on a CPU a run is deterministic anyway."""


@dataclass(config=STRICT)
class ParallelConfig:
    """Layout of the Megatron-Core actor; data parallel = world size / (tensor x pipeline)."""

    tensor: AtLeastOne = 1
    """Tensor-parallel ranks (TP). Must divide the attention heads, and must divide the key/value heads or be
    a multiple of them."""
    pipeline: AtLeastOne = 1
    """Pipeline stages (PP), at most one per layer. Remaining layers go to the first stages, one each."""
    sequence: bool = False
    """Sequence parallelism in norms and residuals; needs tensor > 1."""
    expert: AtLeastOne = 1
    """Ranks that share the experts of a Mixture of Experts (EP); must divide the experts and tensor x data.
    With tensor > 1 such a model needs expert > 1 and `sequence`."""


@dataclass(config=STRICT)
class DataConfig:
    """Question pairs and prompts."""

    source: Literal["parquet", "synthetic"] = "parquet"
    """parquet (files below, of any kind) or synthetic (generated arithmetic, nothing to download)."""
    original: str = ""
    """File of original questions, or of both wordings (Parquet, JSONL, JSON, CSV; columns: docs/data.md), or
    a file of a data set on the Hugging Face Hub: hf://OWNER/NAME[@REVISION]/FILE."""
    rephrased: str = ""
    """File of rephrasings, aligned with `original` row by row on extra_info.index; empty when
    `original` holds both views, or when only originals are answered (rollout.views)."""
    question_column: str = ""
    """Column of the questions in `original`, and in other files that have it (`rephrased`, evaluation files);
    empty = question, prompt, problem or original_question."""
    rephrased_column: str = ""
    """Column of the rephrasings in `rephrased`, or in `original` if that holds both wordings; empty =
    rephrased or rephrased_question, and in a file of rephrasings also the names of questions."""
    answer_column: str = ""
    """Column of the ground truths in `original`, and in evaluation files that have it; empty = answer,
    solution, ground_truth or reward_model.ground_truth."""
    response_column: str = ""
    """Column of the responses in `original` that `coreward sft` trains on; empty = response, completion or
    solution."""
    batch_pairs: AtLeastOne = 128
    """Question pairs per rollout batch, over all ranks; examples per step of `coreward sft`."""
    shuffle: bool = True
    """Shuffle the pairs anew in every epoch, seeded."""
    max_prompt_tokens: AtLeastOne = 512
    """A pair is dropped when either prompt is longer; the number dropped is logged."""
    limit: AtLeastZero = 0
    """Use only the first n pairs; 0 = all."""
    system_prompt: str = SYSTEM_PROMPT
    """System turn of the chat template; empty = no system turn."""
    synthetic_task: Literal["arithmetic", "wordings"] = "arithmetic"
    """Problems of source=synthetic: arithmetic (both wordings of a kind) or wordings (the original plain, the
    rephrased one hard: number words, clauses in another order, a number that is not asked for)."""
    synthetic_pairs: AtLeastOne = 2000
    """Training pairs to generate when source=synthetic."""


@dataclass(config=STRICT)
class RolloutConfig:
    """vLLM rollout."""

    views: Literal["auto", "original", "rephrased", "both"] = "auto"
    """Wordings of a question that are answered and trained on: original, rephrased, both, or auto (both for
    methods that judge one by the other, else original)."""
    samples: AtLeastOne = 8
    """Responses per question and view that are trained on (G)."""
    vote_samples: AtLeastZero = 0
    """Responses per question and view that are drawn and vote, at least `samples`; 0 = `samples`. The first
    `samples` are trained on, and advantages are relative to these alone (TTRL: 64 vote, 32 train)."""
    temperature: Temperature = 1.0
    """Sampling temperature of training; the actor divides its logits by it too."""
    max_response_tokens: AtLeastOne = 3072
    """Generation limit; a longer response is truncated (finish_reason=length)."""
    tensor_parallel_size: AtLeastOne = 1
    """Consecutive ranks that form one vLLM replica. Must divide the world size."""
    memory_gb: Positive = 2.0
    """KV cache per rank on CPU, in GiB."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of GPU memory vLLM may use."""
    max_num_seqs: AtLeastOne | Literal["auto"] = "auto"
    """Sequences decoded at once per replica. auto: as many of full length as the KV cache holds, within 256
    (most are shorter; what no longer fits is put off) and 1024, and at most what is drawn in a step or an
    evaluation."""
    async_scheduling: Where = "auto"
    """vLLM prepares a step while the one before runs; auto: as vLLM chooses. If rollouts on a GPU misbehave,
    never and model_runner=v1 are the two switches to try."""
    model_runner: Literal["auto", "v1", "v2"] = "auto"
    """The part of vLLM that runs the model; auto: as vLLM chooses (v2 on GPUs, v1 on a CPU)."""
    enforce_eager: bool | Literal["auto"] = "auto"
    """Run vLLM operator by operator, which is slower, takes less memory and starts at once. auto: on a CPU;
    on GPUs compiled, with CUDA graphs. false on a CPU compiles, too: one to two minutes at the start, a C++
    compiler, for long runs."""

    @property
    def drawn(self) -> int:
        """Responses drawn per question and view."""
        return self.vote_samples or self.samples


@dataclass(config=STRICT)
class EvaluationConfig:
    """Evaluation on held-out questions: before training, every `every` steps and after."""

    file: str = ""
    """Questions with answers: Parquet, JSONL, JSON or CSV, or hf://OWNER/NAME[@REVISION]/FILE. Empty with
    source=synthetic means the held-out synthetic problems; empty otherwise means no evaluation."""
    synthetic_split: Literal["all", "probe", "validation", "test"] = "all"
    """Which of the held-out synthetic problems are asked when `file` is empty: all or one of three splits."""
    limit: AtLeastZero = 500
    """Use only the first n questions; 0 = all."""
    every: AtLeastZero = 10
    """Steps between evaluations; 0 = only before and after."""
    samples: AtLeastOne = 8
    """Sampled responses per question (pass@1, maj@k)."""
    temperature: Temperature = 0.8
    """Sampling temperature; greedy decoding is evaluated as well."""


@dataclass(config=STRICT)
class MonitorConfig:
    """A probe of unlabelled pairs that watches a run, and its alarms (docs/evidence/healthy.md)."""

    every: AtLeastZero = 0
    """Steps between probes, which come before training and after it as well; 0 = no probe."""
    original: str = ""
    """File of held-out questions, or of both wordings, as `data.original`; ground truths are not used. Empty
    with source=synthetic means the probe split of the synthetic problems (`evaluation.synthetic_split`)."""
    rephrased: str = ""
    """File of their rephrasings, as `data.rephrased`; empty when `original` holds both wordings."""
    pairs: AtLeastOne = 256
    """Pairs that are asked: the first whose prompts are not too long."""
    samples: Annotated[int, Field(ge=2)] = 8
    """Responses per question and wording that are sampled at temperature 1, beside the greedy one."""
    on_alarm: Literal["warn", "stop"] = "warn"
    """warn (a warning, once for each alarm) or stop (that, then a checkpoint and the end of the run, as by
    SIGTERM: exit code 3, and it can be resumed)."""


@dataclass(config=STRICT)
class CheckpointConfig:
    """Checkpoints of everything a run needs to go on."""

    every: AtLeastZero = 10
    """Steps between checkpoints; 0 = only at the end and when interrupted."""
    keep_last: AtLeastZero = 2
    """Newest checkpoints to keep; 0 = all."""
    keep_every: AtLeastZero = 0
    """Keep those whose step is a multiple of this as well; 0 = none for this reason."""
    keep_best: AtLeastZero = 0
    """Keep this many of the best as well, by `keep_best_by`."""
    keep_best_by: Literal["agreement", "evaluation", "probe"] = "agreement"
    """agreement: of the votes of the two views, mean since the checkpoint before. It needs both views and no
    labels, and cannot see a collapse: a model that gives one answer to everything agrees with itself.
    evaluation: greedy pass@1 on the held-out questions after the same step (evaluation.every), which uses
    their labels. probe: agreement of the greedy answers to the probe's pairs, mean of three probes, before
    the first alarm; no labels (monitor.every). See docs/checkpoints.md."""
    async_save: bool = True
    """Write in the background while the next step runs; false = wait until it is written."""


@dataclass(config=STRICT)
class WeightSyncConfig:
    """Actor weights into vLLM."""

    bucket_mb: AtLeastOne = 64
    """Size of one collective bucket, in MiB."""
    verify: bool = False
    """After every sync draw a few responses and compare vLLM's log-probs with the actor's."""
    tolerance: NotNegative = 0.0
    """Largest difference in nats that `verify` lets pass for a token; the mean may be a fifth of it. 0 = by
    model.dtype: 1e-3 in float32, 0.5 in bfloat16."""


@dataclass(config=STRICT)
class MemoryConfig:
    """What leaves the device while a phase of the step does not need it (phases/table.py), and activations.

    auto means: if there is a GPU. On a CPU, always costs time and saves nothing. Not run on a GPU yet.
    """

    offload_optimizer: Where = "auto"
    """Optimizer state and gradient buffers are in main memory except in updates."""
    offload_reference: Where = "auto"
    """Reference or teacher weights are in main memory except while they are used."""
    rollout_sleep: Where = "auto"
    """vLLM gives its memory up while it is not used; always is refused without a GPU."""
    recompute: Literal["none", "selective", "full"] = "none"
    """Activations that the backward pass computes again instead of keeping them: none, selective (attention:
    little time, some memory) or full (all but each layer's input: a third more time; for long responses)."""


@dataclass(config=STRICT)
class Fp8Config:
    """Matrix products of the actor's layers in FP8, on GPUs with Transformer Engine (docs/gpu/fp8.md).

    Not run yet. vLLM, the head, norms, attention scores and Adam stay as they are.
    """

    format: Literal["none", "hybrid", "e4m3"] = "none"
    """none (off), hybrid (E4M3 forward, E5M2 for gradients) or e4m3 (both)."""
    recipe: Literal["delayed", "tensorwise", "blockwise", "mxfp8"] = "tensorwise"
    """How numbers are scaled into FP8: tensorwise (by the tensor's maximum), delayed (by maxima of earlier
    passes), blockwise (each block by its own; CUDA 12.9) or mxfp8 (blocks of 32; Blackwell)."""
    params: bool = False
    """Keep the weights of these products in FP8, too: less memory. Needs optimizer.distributed; not with
    mxfp8. The start weights are rounded to FP8."""
    first_last_bf16: AtLeastZero = 0
    """This many of the first and of the last layers stay in bfloat16; not with delayed."""
    amax_history: AtLeastOne = 1024
    """Number of maxima that delayed remembers; it scales by the largest."""


@dataclass(config=STRICT)
class LoggingConfig:
    """Where metrics are written besides metrics.jsonl, which always is."""

    tensorboard: bool = True
    """Write TensorBoard events."""
    wandb: bool = False
    """Log to Weights & Biases; offline unless logged in."""
    wandb_project: str = "megatron_coreward"
    """W&B project."""
    wandb_name: str = ""
    """The run's name in W&B; empty = that of `output_dir`."""
    wandb_entity: str = ""
    """User or team in W&B; empty = the default of the account."""
    wandb_group: str = ""
    """Group of runs in W&B, such as the seeds of one setting; empty = none."""
    rollouts: bool = True
    """Write every step's rollouts to `output_dir`/rollouts/step_*.parquet."""


@dataclass(config=STRICT)
class Config:
    """Everything about one run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    reward: RewardConfig = field(default_factory=RewardConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    fp8: Fp8Config = field(default_factory=Fp8Config)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
