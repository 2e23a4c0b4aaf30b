"""Builds a Megatron-Core GPTModel of a given shape.

Differences between families are flags (families/). The modules that a layer is made of are in layers.py.
"""

import math
from typing import Any

import torch
from megatron.core.extensions import transformer_engine as te
from megatron.core.models.common.embeddings import rope_utils
from megatron.core.models.common.embeddings.rope_utils import fused_apply_rotary_pos_emb
from megatron.core.models.gpt import GPTModel
from megatron.core.tensor_parallel import layers as layers_module
from megatron.core.tensor_parallel.layers import (
    ColumnParallelLinear,
    RowParallelLinear,
    VocabParallelEmbedding,
    set_tensor_model_parallel_attributes,
)
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_coreward.actor.device import actor_device, compute_device
from megatron_coreward.actor.model.cpu_kernels import WeightGradients, rotary
from megatron_coreward.actor.model.layers import block_spec
from megatron_coreward.actor.model.packed_row import TokenRotary
from megatron_coreward.actor.model.precision import LOCAL
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.config.model_shape import ModelShape, layers_per_stage

APEX = layers_module._grad_accum_fusion_available
"""Whether Apex's sum of weight gradients is there."""
RECOMPUTE: dict[str, dict[str, Any]] = {
    "none": {},
    "selective": {"recompute_granularity": "selective", "recompute_modules": ["core_attn"]},
    "full": {"recompute_granularity": "full", "recompute_method": "uniform", "recompute_num_layers": 1},
}
"""`memory.recompute` in Megatron's words."""


def transformer_config(
    shape: ModelShape,
    layout: Layout,
    dtype: torch.dtype,
    recompute: str = "none",
    precision: dict[str, Any] = LOCAL,
) -> TransformerConfig:
    """Megatron's view of `shape`; `precision` is the result of precision.megatron_settings."""
    return TransformerConfig(
        num_layers=shape.layers,
        hidden_size=shape.hidden,
        num_attention_heads=shape.heads,
        num_query_groups=shape.kv_heads,
        kv_channels=shape.head_dim,
        ffn_hidden_size=shape.intermediate,
        normalization="RMSNorm",
        layernorm_epsilon=shape.norm_eps,
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        add_qkv_bias=shape.family.qkv_bias,
        qk_layernorm=shape.family.qk_norm,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bias_dropout_fusion=False,
        masked_softmax_fusion=False,
        persist_layer_norm=False,
        **fusions(precision),
        # The weights come from files; see mark_tensor_parallel for what this leaves undone.
        perform_initialization=False,
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        tensor_model_parallel_size=layout.tp_size,
        pipeline_model_parallel_size=layout.pp_size,
        sequence_parallel=layout.sequence_parallel,
        pipeline_model_parallel_layout=stages(shape.layers, layout.pp_size),
        # Packed micro-batches differ in length: pipeline stages send the shape first.
        variable_seq_lengths=True,
        batch_p2p_sync=False,  # a send and its receive wait for each other on the device, not on the host
        moe_token_dispatcher_type="alltoall",  # the other one is refused with varying lengths, MoE or not
        **(moe_settings(shape, layout, precision["transformer_impl"]) if shape.experts else {}),
        # The loss is a sum with global weights; see forward.py for what this setting undoes.
        calculate_per_token_loss=True,
        **RECOMPUTE[recompute],
        **precision,
    )


def fusions(precision: dict[str, Any]) -> dict[str, bool]:
    """What a GPU computes in one kernel: SwiGLU, with Transformer Engine the rotation of queries and keys,
    and with Apex a weight's gradient and its sum. On a CPU all three are those of cpu_kernels.py, which
    Megatron calls through the places that it has for Transformer Engine's and Apex's.

    Either SwiGLU keeps three values per token and MLP column for the backward pass instead of five.
    """
    on_gpu = torch.cuda.is_available()
    engine = precision["transformer_impl"] == "transformer_engine"
    if not on_gpu:
        rope_utils.fused_apply_rotary_pos_emb = rotary
        layers_module.fused_weight_gradient_mlp_cuda = WeightGradients
        layers_module._grad_accum_fusion_available = True
    return {
        "bias_activation_fusion": on_gpu,
        "use_te_activation_func": not on_gpu,
        "apply_rope_fusion": not on_gpu or (engine and fused_apply_rotary_pos_emb is not None),
        "gradient_accumulation_fusion": not on_gpu or APEX,
    }


def moe_settings(shape: ModelShape, layout: Layout, impl: str) -> dict[str, Any]:
    """A Mixture of Experts in Megatron's words.

    Megatron takes the softmax over the chosen experts, which equals the softmax over all normalised anew over
    the chosen; `moe_router_pre_softmax` leaves that normalisation out. There is no auxiliary loss: the policy
    gradient alone moves the router. Transformer Engine computes all experts of a rank in one grouped product,
    and sorts the tokens by expert in one kernel where it has it (2.1 and later: all its functions or none).
    """
    grouped = impl == "transformer_engine"
    return {
        "num_moe_experts": shape.experts,
        "moe_ffn_hidden_size": shape.intermediate,
        "moe_router_topk": shape.active_experts,
        "moe_router_pre_softmax": not shape.norm_topk_prob,
        "moe_router_load_balancing_type": "none",
        # In bfloat16 the actor and vLLM would round scores differently and choose other experts.
        "moe_router_dtype": "fp32",
        "moe_grouped_gemm": grouped,
        "moe_permute_fusion": grouped and torch.cuda.is_available() and te.fused_permute is not None,
        "expert_model_parallel_size": layout.ep_size,
        "expert_tensor_parallel_size": 1,
    }


def stages(num_layers: int, pp_size: int) -> list[list[str]]:
    """The content of each pipeline stage, in Megatron's words."""
    layers = [["decoder"] * num for num in layers_per_stage(num_layers, pp_size)]
    layers[0].insert(0, "embedding")
    layers[-1].append("loss")
    return layers


def build_model(
    shape: ModelShape,
    layout: Layout,
    dtype: torch.dtype,
    *,
    recompute: str = "none",
    precision: dict[str, Any] = LOCAL,
    shapes_only: bool = False,
) -> GPTModel:
    """This rank's part of the model, with weights still undefined (weights/load.py fills them).

    `recompute` is `memory.recompute`, `precision` as in transformer_config. With `shapes_only` the model is
    on the meta device: it takes no memory and cannot compute.
    """
    config = transformer_config(shape, layout, dtype, recompute, precision)
    config.use_cpu_initialization = shapes_only  # then Megatron names no device, and the meta device holds
    # torch's norms and Megatron's routers name none either. Moving the model afterwards would be no mend: a
    # parameter that changes its device may lose the attributes by which Megatron knows what it is.
    device = torch.device("meta") if shapes_only else compute_device()
    # With gradients on, FP8 weights would remember what they were built with, which is undefined here, and
    # the optimizer would start from that (fp8_utils.get_fp8_context, preserve_high_precision_init_val).
    with actor_device(), device, torch.set_grad_enabled(not config.fp8_param):
        model = GPTModel(
            config=config,
            transformer_layer_spec=block_spec(config),
            vocab_size=shape.padded_vocab(layout.tp_size),
            max_sequence_length=shape.max_positions,
            pre_process=layout.is_first_stage,
            post_process=layout.is_last_stage,
            parallel_output=True,
            share_embeddings_and_output_weights=shape.tied,
            position_embedding_type="rope",
            rotary_base=shape.rope_theta,
        )
    model.rotary_pos_emb = TokenRotary(rope_inverse_frequencies(shape).to(device))
    mark_tensor_parallel(model)
    return model


def mark_tensor_parallel(model: GPTModel) -> None:
    """Sets the attributes that tell Megatron which weights are cut over TP.

    With `perform_initialization=False` Megatron leaves them unset, and the gradient norm would then
    skip these weights on every TP rank but the first. Transformer Engine's modules set them themselves.
    """
    for module in model.modules():
        if not isinstance(module, VocabParallelEmbedding | ColumnParallelLinear | RowParallelLinear):
            continue
        if module.weight is not None:  # the head of a tied model on one stage has none; biases are marked
            dim = 1 if isinstance(module, RowParallelLinear) else 0
            set_tensor_model_parallel_attributes(module.weight, is_parallel=True, dim=dim, stride=1)


def rope_inverse_frequencies(shape: ModelShape) -> torch.Tensor:
    """Inverse frequencies [head_dim / 2], float32, with llama3 scaling where the model has it.

    Megatron's own llama3 scaling fixes three of its four numbers, so the frequencies are set from here.
    Source: Llama 3.1 release; wavelengths beyond the original context are stretched by `factor`, short
    ones are kept, those between are interpolated.
    """
    exponents = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    inv_freq = 1.0 / shape.rope_theta**exponents
    scaling = shape.rope_scaling
    if scaling is None:
        return inv_freq
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    turns = scaling.original_max_position_embeddings * inv_freq / (2 * math.pi)
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return inv_freq * (keep + (1 - keep) / scaling.factor)
