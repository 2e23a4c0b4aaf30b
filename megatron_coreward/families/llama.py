"""LlamaForCausalLM: Llama 2 to 3.2, SmolLM2. The other dense families start from its table."""

from megatron_coreward.families.mapping import (
    Family,
    FusedQKV,
    GatedMLP,
    Mapping,
    Replicated,
    Split,
    Vocabulary,
)

_MEGATRON = "decoder.layers.{layer}."
_HF = "model.layers.{layer}."

MAPPINGS = (
    Mapping("embedding.word_embeddings.weight", ("model.embed_tokens.weight",), Vocabulary()),
    Mapping(_MEGATRON + "input_layernorm.weight", (_HF + "input_layernorm.weight",), Replicated()),
    Mapping(
        _MEGATRON + "self_attention.linear_qkv.weight",
        tuple(_HF + f"self_attn.{name}_proj.weight" for name in "qkv"),
        FusedQKV(),
    ),
    Mapping(
        _MEGATRON + "self_attention.linear_proj.weight", (_HF + "self_attn.o_proj.weight",), Split(dim=1)
    ),
    Mapping(_MEGATRON + "pre_mlp_layernorm.weight", (_HF + "post_attention_layernorm.weight",), Replicated()),
    Mapping(
        _MEGATRON + "mlp.linear_fc1.weight",
        (_HF + "mlp.gate_proj.weight", _HF + "mlp.up_proj.weight"),
        GatedMLP(),
    ),
    Mapping(_MEGATRON + "mlp.linear_fc2.weight", (_HF + "mlp.down_proj.weight",), Split(dim=1)),
    Mapping("decoder.final_layernorm.weight", ("model.norm.weight",), Replicated()),
    Mapping("output_layer.weight", ("lm_head.weight",), Vocabulary()),
)

LLAMA = Family("LlamaForCausalLM", MAPPINGS, max_positions=2048, kv_heads_are_heads=True)
