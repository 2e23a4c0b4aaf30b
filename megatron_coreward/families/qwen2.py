"""Qwen2ForCausalLM (Qwen2, Qwen2.5): Llama's table with a bias on q, k and v."""

from megatron_coreward.families.llama import MAPPINGS
from megatron_coreward.families.mapping import Family, FusedQKV, Mapping

QWEN2 = Family(
    "Qwen2ForCausalLM",
    (
        *MAPPINGS,
        Mapping(
            "decoder.layers.{layer}.self_attention.linear_qkv.bias",
            tuple(f"model.layers.{{layer}}.self_attn.{name}_proj.bias" for name in "qkv"),
            FusedQKV(),
        ),
    ),
    max_positions=32768,
    qkv_bias=True,
)
