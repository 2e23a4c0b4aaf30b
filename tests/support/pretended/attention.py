"""torch's attention over packed sequences, which has no kernel for a CPU, for the pretended device."""

import functools
from typing import Any

import torch
from torch.nn.attention import varlen

from megatron_coreward.actor.model.attention import sdpa
from megatron_coreward.actor.model.packed_row import Sequences
from tests.support.pretended.tensor import content_of


@functools.wraps(varlen.varlen_attn)
def varlen_attn(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    max_query: int,
    max_key: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
    **unused: Any,
) -> torch.Tensor:
    """Refuses what the real one refuses: types, devices and lengths."""
    assert not unused, f"not asked for here: {unused}"
    assert window_size == (-1, 0), "causal"
    assert query.dtype in (torch.bfloat16, torch.float16), f"the kernel has no {query.dtype}"
    lengths = []
    for ends, rows, longest in ((query_ends, query, max_query), (key_ends, key, max_key)):
        assert ends.dtype == torch.int32, "lengths are int32"
        assert ends.device == rows.device, f"lengths on {ends.device}, rows on {rows.device}"
        lengths.append(tuple(content_of(ends).diff().tolist()))
        assert max(lengths[-1]) <= longest, "the longest is longer than said"
        assert sum(lengths[-1]) == len(rows), "every row is of a sequence"
    assert enable_gqa or query.shape[1] == key.shape[1], "grouped heads"
    return sdpa(query, key, value, Sequences(*lengths, query_ends, key_ends), scale)
