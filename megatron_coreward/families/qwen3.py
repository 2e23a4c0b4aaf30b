"""Qwen3ForCausalLM (dense): Llama's table with a norm on every query and key head.

Megatron sums the gradients of these norms over TP ranks, each of which sees only its own heads, by
looking for `q_layernorm` and `k_layernorm` in the parameter's name and for `config.qk_layernorm`.
"""

from megatron_coreward.families.llama import MAPPINGS
from megatron_coreward.families.mapping import Family, Mapping, Replicated

QWEN3 = Family(
    "Qwen3ForCausalLM",
    (
        *MAPPINGS,
        *(
            Mapping(
                f"decoder.layers.{{layer}}.self_attention.{name}_layernorm.weight",
                (f"model.layers.{{layer}}.self_attn.{name}_norm.weight",),
                Replicated(),
            )
            for name in "qk"
        ),
    ),
    max_positions=32768,
    head_dim=128,
    qk_norm=True,
)
