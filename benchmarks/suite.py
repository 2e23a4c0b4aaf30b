"""The rows of the suite: which program measures each of them, and in which of the two runs it belongs."""

from dataclasses import dataclass

PYTHON = ("python", "-m")
TWO_RANKS = ("torchrun", "--nproc-per-node", "2", "-m")


@dataclass(frozen=True)
class Row:
    """A row. Its program takes what stands in `command`, --repeats N, --output FILE and --tiny.

    `short`: the row is part of `make bench`.
    """

    name: str
    title: str
    command: tuple[str, ...]
    short: bool = False
    repeats: int = 5


SYNC, REWARD, UPDATE = "benchmarks.weight_sync", "benchmarks.coreward_stage", "benchmarks.update"
TRL = (*PYTHON, "benchmarks.trl_line")
GENERATE = "benchmarks.generate"
SHARED = (*PYTHON, "benchmarks.shared_prompts")

ROWS = (
    Row("trl", "step: 4 questions, G 8, 48 tokens", TRL, short=True, repeats=3),
    Row("update", "update, 4,096 tokens, SmolLM2 shape", (*PYTHON, UPDATE), short=True),
    Row(
        "log_probs",
        "log-probs, 4,096 tokens x 151,936 x 1,024",
        (*PYTHON, "benchmarks.log_probs"),
        short=True,
        repeats=3,
    ),
    Row("sync", "sync, TP1", (*PYTHON, SYNC), short=True),
    Row(
        "reward",
        "reward stage, 2,048 x 900 tokens",
        (*PYTHON, REWARD, "--tokens", "900"),
        short=True,
    ),
    Row("sync_tp2", "sync, TP2 on two ranks", (*TWO_RANKS, SYNC, "--tensor", "2")),
    Row(
        "trl_views",
        "step: both wordings of 2 questions",
        (*TRL, "--questions", "2", "--views", "both"),
        repeats=2,
    ),
    Row("trl_24", "step: 24 new tokens", (*TRL, "--new-tokens", "24"), repeats=2),
    Row("trl_200", "step: 200 new tokens", (*TRL, "--new-tokens", "200"), repeats=2),
    Row("trl_g4", "step: G 4", (*TRL, "--samples", "4"), repeats=2),
    Row("trl_g16", "step: G 16", (*TRL, "--samples", "16"), repeats=2),
    Row("floor", "step against its own floor", (*PYTHON, "benchmarks.step_floor")),
    Row("memory", "memory per rank, SmolLM2 example", (*PYTHON, "benchmarks.memory"), repeats=3),
    Row("ablation", "step: each lever off", (*PYTHON, "benchmarks.ablation"), repeats=3),
    Row("shared_120_48", "shared prompts: P 120, R 48, G 8", SHARED, repeats=3),
    Row(
        "shared_150_800",
        "shared prompts: P 150, R 800, G 8",
        (*SHARED, "--prompt", "150", "--response", "800", "--groups", "1"),
        repeats=3,
    ),
    Row(
        "shared_500_200",
        "shared prompts: P 500, R 200, G 8",
        (*SHARED, "--prompt", "500", "--response", "200", "--groups", "1"),
        repeats=3,
    ),
    Row(
        "head",
        "log-probs, 16,384 tokens x 152,000 x 1,024",
        (*PYTHON, "benchmarks.head"),
        repeats=3,
    ),
    Row("generate", "generate against bare vLLM", (*PYTHON, GENERATE)),
    Row(
        "replicas",
        "generate: two replicas against one, 128 requests",
        (*TWO_RANKS, GENERATE, "--prompts", "16"),
        repeats=3,
    ),
    Row(
        "growth",
        "update by response length, P 120, G 8",
        (*PYTHON, "benchmarks.growth"),
        repeats=3,
    ),
    Row(
        "pipeline",
        "update with PP2 and 1 to 8 micro-batches",
        (*TWO_RANKS, "benchmarks.pipeline"),
        repeats=3,
    ),
    Row("update_512", "update, 512 tokens", (*PYTHON, UPDATE, "--tokens", "512")),
)
