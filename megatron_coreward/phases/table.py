"""The table of what is on the device in which phase of a step; phases/memory.py carries it out.

    phase        vLLM                  optimizer state,      reference
                 weights   KV cache    gradient buffers      weights
    rollout      device    device      main memory           main memory
    teacher      device    device      main memory           device
    confidence   asleep    asleep      main memory           main memory
    reward       asleep    asleep      main memory           main memory
    log_probs    asleep    asleep      main memory           device
    update       asleep    asleep      device                main memory
    sync         device    asleep      main memory           main memory
    verify       device    device      main memory           main memory
    evaluate     device    device      main memory           main memory
    probe        asleep    asleep      main memory           device
    checkpoint   asleep    asleep      main memory           main memory

The reference is the start model or the teacher. The responses of a probe are drawn in evaluate; probe is its
KL to the start model. A checkpoint holds the optimizer's state and the teacher as
well, and reads them where they are. The policy's own weights stay.
Imports no torch: planning/ reads the table, too.
"""

from dataclasses import dataclass
from types import MappingProxyType

from megatron_coreward.roles import KV_CACHE, WEIGHTS


@dataclass(frozen=True)
class Needs:
    """Needs of a phase on the device, beside the policy's weights."""

    engine: tuple[str, ...] = ()
    """Tags of vLLM's memory."""
    optimizer: bool = False
    reference: bool = False
    keeps_engine: bool = False
    """The engine goes on afterwards with the weights that it had."""


PHASES = MappingProxyType(
    {
        "rollout": Needs(engine=(WEIGHTS, KV_CACHE)),
        "teacher": Needs(engine=(WEIGHTS, KV_CACHE), reference=True),
        "confidence": Needs(),
        "reward": Needs(),
        "log_probs": Needs(reference=True),
        "update": Needs(optimizer=True),
        "sync": Needs(engine=(WEIGHTS,)),
        "verify": Needs(engine=(WEIGHTS, KV_CACHE)),
        "evaluate": Needs(engine=(WEIGHTS, KV_CACHE)),
        "probe": Needs(reference=True, keeps_engine=True),
        "checkpoint": Needs(keeps_engine=True),
    }
)
