"""Modules of the local layer spec: what Megatron-Core offers only with Transformer Engine.

- `PackedAttention`: causal attention over packed (THD) sequences through torch's
  scaled_dot_product_attention, which never materialises the s x s scores.
- `RMSNorm`: marks its weight `sequence_parallel`, so that Megatron sums the weight's gradient over the
  TP ranks, each of which sees only a part of the sequence.

Shape suffixes: N packed tokens, H query heads of this rank, K key/value heads of this rank, D head size.
"""

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig


class PackedAttention(MegatronModule):
    """Core attention of the local spec; takes packed sequences only."""

    def __init__(
        self,
        config: TransformerConfig,
        layer_number: int,
        attn_mask_type: AttnMaskType,
        attention_type: str,
        **unused: object,
    ) -> None:
        super().__init__(config=config)
        assert attention_type == "self", f"only self-attention is built here, got {attention_type}"
        assert attn_mask_type == AttnMaskType.causal, (
            f"only causal masks are built here, got {attn_mask_type}"
        )
        self.scale = config.softmax_scale if config.softmax_scale is not None else config.kv_channels**-0.5

    def forward(
        self,
        query_NHD: torch.Tensor,
        key_NKD: torch.Tensor,
        value_NKD: torch.Tensor,
        attention_mask: None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Returns [N, H * D]."""
        assert packed_seq_params is not None, "the actor feeds packed sequences only"
        lengths = packed_seq_params.cu_seqlens_q.diff().tolist()
        repeat = query_NHD.shape[1] // key_NKD.shape[1]
        if repeat > 1:  # torch's CPU kernel for grouped heads is slower than repeating the heads
            key_NKD = key_NKD.repeat_interleave(repeat, dim=1)
            value_NKD = value_NKD.repeat_interleave(repeat, dim=1)
        outputs = [
            F.scaled_dot_product_attention(
                q.transpose(0, 1).unsqueeze(0),
                k.transpose(0, 1).unsqueeze(0),
                v.transpose(0, 1).unsqueeze(0),
                is_causal=True,
                scale=self.scale,
            )
            .squeeze(0)
            .transpose(0, 1)
            for q, k, v in zip(
                query_NHD.split(lengths), key_NKD.split(lengths), value_NKD.split(lengths), strict=True
            )
        ]
        return torch.cat(outputs).reshape(query_NHD.shape[0], -1)


class RMSNorm(torch.nn.RMSNorm):
    """Root mean square norm that works under sequence parallelism."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **unused: object
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]
