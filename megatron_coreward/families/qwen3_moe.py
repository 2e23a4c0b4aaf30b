"""Qwen3MoeForCausalLM: Qwen3's table with a router and experts in place of the MLP.

Every expert is whole on one expert-parallel rank (parallel.expert): tensor parallelism divides attention and
vocabulary only, so that small experts keep matrices worth multiplying.
"""

from megatron_coreward.families.mapping import (
    ExpertDown,
    ExpertGatedMLP,
    Family,
    Mapping,
    Replicated,
)
from megatron_coreward.families.qwen3 import QWEN3

_MEGATRON = "decoder.layers.{layer}.mlp."
_HF = "model.layers.{layer}.mlp."
_MEGATRON_EXPERT = _MEGATRON + "experts.local_experts.{expert}."
_GROUPED_EXPERTS = _MEGATRON + "experts."
_HF_EXPERT = _HF + "experts.{expert}."

QWEN3_MOE = Family(
    "Qwen3MoeForCausalLM",
    (
        *(mapping for mapping in QWEN3.mappings if _MEGATRON not in mapping.megatron),
        Mapping(_MEGATRON + "router.weight", (_HF + "gate.weight",), Replicated()),
        Mapping(
            _MEGATRON_EXPERT + "linear_fc1.weight",
            (_HF_EXPERT + "gate_proj.weight", _HF_EXPERT + "up_proj.weight"),
            ExpertGatedMLP(),
            _GROUPED_EXPERTS + "linear_fc1.weight{expert}",
        ),
        Mapping(
            _MEGATRON_EXPERT + "linear_fc2.weight",
            (_HF_EXPERT + "down_proj.weight",),
            ExpertDown(),
            _GROUPED_EXPERTS + "linear_fc2.weight{expert}",
        ),
    ),
    max_positions=32768,
    qk_norm=True,
    experts=True,
)
