"""The modules of the actor's layers: Megatron's local ones with our packed attention and norm, or Transformer
Engine's.

Transformer Engine's norms are modules of their own here, not fused with the product that follows as in
Megatron's own spec: so parameters have the same names in both, and family tables, checkpoints and the weight
sync know nothing of it. It costs one kernel and one more write and read of the normed activations per norm.

Experts are the exception: local ones are computed one after the other, Transformer Engine's in one grouped
product per layer. Each expert keeps a weight of its own in both, under another name (families/mapping.py),
and Megatron writes both under the same keys of a checkpoint.
"""

from dataclasses import dataclass

from megatron.core.extensions import transformer_engine as te
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.identity_op import IdentityOp
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe import moe_utils
from megatron.core.transformer.moe.experts import SequentialMLP, TEGroupedMLP
from megatron.core.transformer.moe.moe_layer import MoELayer, MoESubmodules
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules

from megatron_coreward.actor.model.attention import PackedAttention, RMSNorm, over_packed_rows
from megatron_coreward.actor.model.cpu_kernels import swiglu


@dataclass(frozen=True)
class Modules:
    """The module classes of a layer outside its experts.

    A parameter has the same name with the local classes as with Transformer Engine's.
    """

    norm: type
    column_linear: type
    row_linear: type
    attention: type


def modules_of(config: TransformerConfig) -> Modules:
    """The modules that `config.transformer_impl` names."""
    if config.transformer_impl == "local":
        return Modules(RMSNorm, ColumnParallelLinear, RowParallelLinear, PackedAttention)
    assert te.HAVE_TE, "check_machine and choose_modules ask for it only where it is"
    return Modules(
        te.TENorm,
        te.TEColumnParallelLinear,
        te.TERowParallelLinear,
        over_packed_rows(te.TEDotProductAttention),
    )


def _mlp_spec(config: TransformerConfig, modules: Modules) -> ModuleSpec:
    if not config.num_moe_experts:
        linear = MLPSubmodules(modules.column_linear, swiglu, modules.row_linear)
        return ModuleSpec(module=MLP, submodules=linear)
    if config.moe_grouped_gemm:
        linear = MLPSubmodules(te.TEColumnParallelGroupedLinear, swiglu, te.TERowParallelGroupedLinear)
        experts = ModuleSpec(module=TEGroupedMLP, submodules=linear)
    else:
        linear = MLPSubmodules(ColumnParallelLinear, swiglu, RowParallelLinear)
        experts = ModuleSpec(module=SequentialMLP, submodules=linear)
    if not moe_utils.HAVE_TE:
        moe_utils.te_general_gemm = None  # the router asks for it by a name that 0.16 then leaves undefined
    return ModuleSpec(module=MoELayer, submodules=MoESubmodules(experts=experts))


def block_spec(config: TransformerConfig) -> TransformerBlockSubmodules:
    """This stage's layers."""
    modules = modules_of(config)
    qk_norm = modules.norm if config.qk_layernorm else IdentityOp
    layer = ModuleSpec(
        module=TransformerLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=modules.norm,
            self_attention=ModuleSpec(
                module=SelfAttention,
                params={"attn_mask_type": AttnMaskType.causal},
                submodules=SelfAttentionSubmodules(
                    linear_qkv=modules.column_linear,
                    core_attention=modules.attention,
                    linear_proj=modules.row_linear,
                    q_layernorm=qk_norm,
                    k_layernorm=qk_norm,
                ),
            ),
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=modules.norm,
            mlp=_mlp_spec(config, modules),
            mlp_bda=get_bias_dropout_add,
        ),
    )
    return TransformerBlockSubmodules(
        layer_specs=[layer] * get_num_layers_to_build(config), layer_norm=modules.norm
    )
