"""The checks, most valuable first.

Imports neither torch nor the package: one that is broken stops checks, not their runner.

A check is a function of one folder, its own and empty, that returns figures by name and raises if the machine
computes something wrong. It runs in a process of its own (child.py), or in several that torchrun starts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

Figures = dict[str, float | str]
Function = Callable[[Path], Figures]
ACTOR = ("megatron.core", "psutil")
"""Megatron's writer of checkpoints measures its memory by psutil."""
TRAINING = (*ACTOR, "vllm", "pyarrow", "math_verify")
ENGINE = (*ACTOR, "transformer_engine")
MODULES = (*TRAINING, "transformer_engine")
"""Whose presence decides what is possible."""


@dataclass(frozen=True)
class Check:
    """One row of the report."""

    name: str
    about: str
    function: str
    """module:function, of type Function."""
    seconds: float
    """What it takes on one recent GPU, estimated: its share of the budget is in proportion."""
    modules: tuple[str, ...] = ACTOR
    gpus: int = 0
    """How many it needs at least; 0 = it also runs on a CPU."""
    ranks: int = 1
    """Processes; 0 = one for each GPU."""

    def impossible(self, machine: Mapping[str, float | str]) -> str:
        """Why it cannot run on the machine that the figures of the check `machine` describe; "" if it can.

        Of a machine that could not be described nothing is known, and everything is tried.
        """
        if not machine:
            return ""
        missing = [name for name in self.modules if not machine[f"has {name}"]]
        gpus = int(machine["GPUs"])
        reasons = [f"not installed: {', '.join(missing)}"] if missing else []
        if self.gpus and not gpus:
            reasons.append("no GPU")
        elif max(self.gpus, self.ranks) > gpus > 0:
            reasons.append(f"needs {max(self.gpus, self.ranks)} GPUs, torch sees {gpus}")
        return "; ".join(reasons)


_PARTS = "tools.gpu_check.parts"
CHECKS = (
    Check(
        "machine",
        "Versions and driver; on every GPU a matrix product against the CPU's",
        f"{_PARTS}.machine:describe",
        100,  # the first start of CUDA, from cold files
        modules=(),
    ),
    Check(
        "float32",
        "Actor in float32: log-probs, loss, gradients, two updates, against autograd on the CPU",
        f"{_PARTS}.actor:float32",
        40,
    ),
    Check(
        "bfloat16",
        "Actor in bfloat16 with local modules against float32 on the CPU, two updates",
        f"{_PARTS}.actor:bfloat16",
        40,
    ),
    Check(
        "checkpoint",
        "Checkpoints written by a forked process during an update, from the device and from offloaded state, "
        "loaded; Hugging Face export, read back",
        f"{_PARTS}.weights:travel",
        50,
    ),
    Check(
        "attention",
        "Attention in bfloat16 of packed responses that share prompts against one by one on the CPU",
        f"{_PARTS}.pieces:attention",
        20,
    ),
    Check(
        "log_probs",
        "Log-probs in chunks in bfloat16, a vocabulary of 151,936, against whole logits on the CPU",
        f"{_PARTS}.pieces:log_probs",
        30,
    ),
    Check(
        "speed",
        "MFU of an update of 4,096 tokens, log-probs, optimizer to main memory and back",
        f"{_PARTS}.speed:local",
        60,
    ),
    Check(
        "transformer_engine",
        "Actor in bfloat16 with Transformer Engine against float32 on the CPU, two updates",
        f"{_PARTS}.actor:transformer_engine",
        50,
        modules=ENGINE,
        gpus=1,
    ),
    Check(
        "sync_eager",
        "Three steps with vLLM, eager; every weight sync verified",
        f"{_PARTS}.sync:eager",
        80,
        modules=TRAINING,
    ),
    Check(
        "dp2",
        "As float32, on two data-parallel ranks with the distributed optimizer",
        f"{_PARTS}.actor:dp2",
        40,
        ranks=2,
    ),
    Check(
        "tp2",
        "As float32, on two tensor-parallel ranks with sequence parallelism",
        f"{_PARTS}.actor:tp2",
        40,
        ranks=2,
    ),
    Check("pp2", "As float32, on two pipeline stages", f"{_PARTS}.actor:pp2", 40, ranks=2),
    Check(
        "sync_graphs",
        "Three steps with vLLM under CUDA graphs; every weight sync verified",
        f"{_PARTS}.sync:graphs",
        100,
        modules=TRAINING,
        gpus=1,
    ),
    Check(
        "speed_transformer_engine",
        "As speed, with Transformer Engine",
        f"{_PARTS}.speed:transformer_engine",
        60,
        modules=ENGINE,
        gpus=1,
    ),
    Check(
        "bandwidth",
        "NCCL all-reduce of 1 GiB over all GPUs",
        f"{_PARTS}.bandwidth:all_reduce",
        30,
        modules=(),
        gpus=2,
        ranks=0,
    ),
)
