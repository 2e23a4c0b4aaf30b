"""Attention over a packed row (packed_row.py), and the norm of the local layer spec.

Attention is called twice: trunks attend to themselves, then branches to their trunk and themselves. What
computes a call is a kernel:

- `sdpa`: a loop over torch's scaled_dot_product_attention, on a CPU, and in float32;
- `varlen`: torch.nn.attention.varlen, one kernel for all sequences, on a GPU in half precision;
- Transformer Engine's, where its modules are used (`over_packed_rows`).

None materialises the scores of all tokens with all others, and none makes the host wait.

`RMSNorm` marks its weight `sequence_parallel`, so that Megatron sums the weight's gradient over the TP ranks,
each of which sees only a part of the sequence.

Shape suffixes: N tokens of the row, Q queries, C keys, H query heads of this rank, K key/value heads of this
rank, D head size.
"""

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_coreward.actor.model.cpu_kernels import rms_norm
from megatron_coreward.actor.model.packed_row import PackedRow, Sequences

Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Sequences], torch.Tensor]
"""(queries [Q, H, D], keys [C, K, D], values [C, K, D], their sequences) -> [Q, H, D] or [Q, H * D]."""

HALF = (torch.bfloat16, torch.float16)

BOTTOM_RIGHT = SimpleNamespace(name="padding_causal_bottom_right")
"""Transformer Engine's mask of branches, by the name that Megatron's enum lacks."""


def attend(
    kernel: Kernel, query_N1HD: torch.Tensor, key_N1KD: torch.Tensor, value_N1KD: torch.Tensor, row: PackedRow
) -> torch.Tensor:
    """Attention of every token to the tokens before it in its own sequence, [N, 1, H * D]."""
    query_NHD, key_NKD, value_NKD = (x.squeeze(1) for x in (query_N1HD, key_N1KD, value_N1KD))
    tokens = len(query_NHD)
    end = sum(row.trunks.queries)
    output = kernel(query_NHD[:end], key_NKD[:end], value_NKD[:end], row.trunks).reshape(end, 1, -1)
    if row.branches is None:
        return output
    keys_CKD = key_NKD.index_select(0, row.branch_keys_C)
    values_CKD = value_NKD.index_select(0, row.branch_keys_C)
    branches = kernel(query_NHD[end:], keys_CKD, values_CKD, row.branches)
    return torch.cat([output, branches.reshape(tokens - end, 1, -1)])


def sdpa(
    query_QHD: torch.Tensor,
    key_CKD: torch.Tensor,
    value_CKD: torch.Tensor,
    sequences: Sequences,
    scale: float,
) -> torch.Tensor:
    """The kernel for a CPU, and for float32 anywhere."""
    on_gpu = query_QHD.is_cuda
    if on_gpu:  # its kernels for float32 know no grouped heads, and torch would materialise the scores
        repeat = query_QHD.shape[1] // key_CKD.shape[1]
        key_CKD, value_CKD = (x.repeat_interleave(repeat, dim=1) for x in (key_CKD, value_CKD))
    outputs = []
    for q, k, v in zip(
        query_QHD.split(sequences.queries),
        key_CKD.split(sequences.keys),
        value_CKD.split(sequences.keys),
        strict=True,
    ):
        mask = None
        if len(q) != len(k):  # is_causal would align the first query with the first key
            mask = torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
        output = F.scaled_dot_product_attention(
            q.transpose(0, 1).unsqueeze(0),
            k.transpose(0, 1).unsqueeze(0),
            v.transpose(0, 1).unsqueeze(0),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scale,
            enable_gqa=not on_gpu,
        )
        outputs.append(output.squeeze(0).transpose(0, 1))
    return torch.cat(outputs)


def varlen(
    query_QHD: torch.Tensor,
    key_CKD: torch.Tensor,
    value_CKD: torch.Tensor,
    sequences: Sequences,
    scale: float,
) -> torch.Tensor:
    """The kernel for a GPU without Transformer Engine; torch aligns the last query with the last key."""
    from torch.nn.attention.varlen import varlen_attn

    known = inspect.signature(varlen_attn).parameters
    # torch 2.10 said is_causal, later ones say window_size; grouped heads and the scale came with the latter.
    options: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if "scale" in known:
        options["scale"] = scale
    else:
        query_QHD = query_QHD * (scale * query_QHD.shape[-1] ** 0.5)
    if "enable_gqa" in known:
        options["enable_gqa"] = True
    else:
        repeat = query_QHD.shape[1] // key_CKD.shape[1]
        key_CKD, value_CKD = (x.repeat_interleave(repeat, dim=1) for x in (key_CKD, value_CKD))
    output = varlen_attn(
        query_QHD,
        key_CKD,
        value_CKD,
        sequences.query_ends,
        sequences.key_ends,
        max(sequences.queries),
        max(sequences.keys),
        **options,
    )
    assert isinstance(output, torch.Tensor), "without return_aux there is one result"
    return output


class PackedAttention(MegatronModule):
    """Core attention of the local spec; takes packed rows only."""

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
        query_N1HD: torch.Tensor,
        key_N1KD: torch.Tensor,
        value_N1KD: torch.Tensor,
        attention_mask: None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: None = None,
        packed_seq_params: PackedSeqParams | None = None,
    ) -> torch.Tensor:
        """Returns [N, 1, H * D]."""
        assert isinstance(packed_seq_params, PackedRow), "the actor feeds packed rows only"
        chosen = varlen if query_N1HD.is_cuda and query_N1HD.dtype in HALF else sdpa

        def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Sequences) -> torch.Tensor:
            return chosen(q, k, v, of, self.scale)

        return attend(kernel, query_N1HD, key_N1KD, value_N1KD, packed_seq_params)


def over_packed_rows(engine: type) -> type:
    """Transformer Engine's attention (`TEDotProductAttention`) for packed rows."""

    class PackedEngineAttention(engine):
        """Gives each of the two calls to the engine as packed sequences ("thd")."""

        def forward(
            self,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            attention_mask: None,
            attn_mask_type: AttnMaskType,
            attention_bias: None = None,
            packed_seq_params: PackedSeqParams | None = None,
        ) -> torch.Tensor:
            assert isinstance(packed_seq_params, PackedRow), "the actor feeds packed rows only"
            whole = super().forward

            def kernel(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, of: Sequences) -> torch.Tensor:
                mask = attn_mask_type if of.queries == of.keys else BOTTOM_RIGHT
                return whole(q, k, v, None, mask, packed_seq_params=engine_sequences(of))

            return attend(kernel, query, key, value, packed_seq_params)

    return PackedEngineAttention


def engine_sequences(sequences: Sequences) -> PackedSeqParams:
    """`sequences` as Transformer Engine takes them."""
    return PackedSeqParams(
        qkv_format="thd",
        cu_seqlens_q=sequences.query_ends,
        cu_seqlens_kv=sequences.key_ends,
        max_seqlen_q=max(sequences.queries),
        max_seqlen_kv=max(sequences.keys),
    )


class RMSNorm(torch.nn.RMSNorm):
    """Root mean square norm that works under sequence parallelism; on a CPU with a kernel of our own."""

    def __init__(
        self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **unused: object
    ) -> None:
        super().__init__(hidden_size, eps=eps, dtype=config.params_dtype)
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.weight is not None and self.eps is not None, "built with both"
        return super().forward(x) if x.is_cuda else rms_norm(x, self.weight, self.eps)
