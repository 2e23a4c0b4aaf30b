"""Packs responses into micro-batches by token budget (THD: one row of tokens, no padding).

Longest first into the first micro-batch with room. Which responses share a micro-batch cannot change the
loss, because every token carries its own global weight.

Shape suffixes: N packed tokens, T response tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from megatron.core.packed_seq_params import PackedSeqParams

from megatron_coreward.algorithm.batch import TrainBatch


@dataclass(frozen=True)
class MicroBatch:
    """The inputs of one forward pass.

    `rows_T` are the positions in the packed row whose logits predict the response tokens `targets_T`;
    `indices` are the places of its responses in the DP rank's batch.
    """

    indices: list[int]
    batch: TrainBatch
    tokens_1N: torch.Tensor  # int64
    positions_1N: torch.Tensor  # int64
    packed: PackedSeqParams
    rows_T: torch.Tensor  # int64
    targets_T: torch.Tensor  # int64


def plan_micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of each micro-batch; none over `budget` tokens unless a single response is.

    Without responses there is one empty micro-batch, since every rank takes part in every collective.
    """
    bins: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        place = next((b for b, free in enumerate(room) if free >= lengths[index]), None)
        if place is None:
            bins.append([index])
            room.append(budget - lengths[index])
        else:
            bins[place].append(index)
            room[place] -= lengths[index]
    return bins or [[]]


def pack(batch: TrainBatch, indices: list[int], multiple: int, device: torch.device) -> MicroBatch:
    """Tensors of one micro-batch, filled up to a multiple of `multiple` tokens (forward.token_multiple).

    The filling is a sequence of its own, which no response attends to and no row reads.
    """
    part = batch.select(indices)
    lengths = part.lengths_R.tolist()
    filling = -sum(lengths) % multiple if lengths else multiple
    pieces = [*lengths, filling] if filling else lengths
    starts_R = torch.tensor([0, *lengths], dtype=torch.long).cumsum(0)[: len(lengths)]
    first_row_R = starts_R + part.prompt_lengths_R - 1
    rows_T = torch.cat(
        [
            torch.arange(int(n)) + int(first)
            for first, n in zip(first_row_R, part.response_lengths_R, strict=True)
        ]
        or [torch.empty(0, dtype=torch.long)]
    )
    tokens_N = torch.cat([part.tokens_N, part.tokens_N.new_zeros(filling)])
    boundaries = torch.tensor([0, *pieces], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
    longest = max(pieces)
    return MicroBatch(
        indices=indices,
        batch=part,
        tokens_1N=tokens_N[None].to(device),
        positions_1N=torch.cat([torch.arange(n) for n in pieces])[None].to(device),
        packed=PackedSeqParams(
            qkv_format="thd",
            cu_seqlens_q=boundaries,
            cu_seqlens_kv=boundaries,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        ),
        rows_T=rows_T.to(device),
        targets_T=tokens_N[rows_T + 1].to(device),
    )
