"""One row of packed tokens: what a layer has to know of it, prepared on the host once per micro-batch.

A row is a list of trunks followed by a list of branches. A trunk is a whole sequence, or the prompt of
several responses; a branch is a response that goes on where its trunk ends. So a prompt is computed once
for all its responses.

To Megatron the row is one sequence ("sbhd", batch 1) whose rotary table already has a row for each token:
its own way with packed sequences reads lengths back from the device in every layer, and knows no branches.

Shape suffixes: N tokens of the row, B branches, C keys that branches attend to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams


@dataclass(frozen=True)
class Sequences:
    """Packed sequences: the last query of each sees all its keys, the one before it all but the last, ...

    Lengths are on the host, `*_ends` on the device: 0 and the end of every sequence, int32.
    """

    queries: tuple[int, ...]
    keys: tuple[int, ...]
    query_ends: torch.Tensor
    key_ends: torch.Tensor

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int]) -> "Sequences":
        return cls(tuple(queries), tuple(keys), _ends(queries), _ends(keys))


@dataclass
class PackedRow(PackedSeqParams):
    """Trunks and branches of a row; see the module's docstring. `branches` is None where there are none."""

    positions_N: torch.Tensor = None  # type: ignore[assignment]  # int64: the place of each token in its own sequence
    trunks: Sequences = None  # type: ignore[assignment]
    branches: Sequences | None = None
    branch_keys_C: torch.Tensor = None  # type: ignore[assignment]  # int64: of each branch its trunk, itself

    def map(self, function: Any) -> "PackedRow":
        """The row with `function` applied to every tensor."""

        def of(sequences: Sequences) -> Sequences:
            ends = function(sequences.query_ends), function(sequences.key_ends)
            return replace(sequences, query_ends=ends[0], key_ends=ends[1])

        return replace(
            self,
            positions_N=function(self.positions_N),
            trunks=of(self.trunks),
            branches=of(self.branches) if self.branches is not None else None,
            branch_keys_C=function(self.branch_keys_C),
        )


def packed_row(trunks: Sequence[int], branches: Sequence[tuple[int, int]]) -> PackedRow:
    """From the lengths of the trunks, and for each branch the index of its trunk and its length."""
    starts = [0, *accumulate(trunks)]
    own = list(accumulate((length for _, length in branches), initial=sum(trunks)))
    keys = [
        piece
        for (trunk, length), start in zip(branches, own, strict=False)
        for piece in (
            torch.arange(starts[trunk], starts[trunk + 1]),
            torch.arange(start, start + length),
        )
    ]
    positions = [torch.arange(n) for n in trunks]
    positions += [torch.arange(trunks[trunk], trunks[trunk] + n) for trunk, n in branches]
    lengths = [n for _, n in branches]
    return PackedRow(
        qkv_format="sbhd",
        positions_N=torch.cat(positions),
        trunks=Sequences.of(trunks, trunks),
        branches=Sequences.of(lengths, [trunks[t] + n for t, n in branches]) if branches else None,
        branch_keys_C=torch.cat([*keys, torch.empty(0, dtype=torch.long)]),
    )


class TokenRotary(torch.nn.Module):
    """GPTModel.rotary_pos_emb that gives every token of a row the angles of its own position."""

    def __init__(self, inv_freq: torch.Tensor) -> None:
        super().__init__()
        self.inv_freq = inv_freq  # [head size / 2], float32; no buffer, as in Megatron: checkpoints lack it

    def get_rotary_seq_len(
        self, inference_context: None, transformer: Any, inputs: Any, config: Any, row: PackedRow
    ) -> torch.Tensor:
        """What GPTModel hands to `forward`: here the positions [N] instead of their number."""
        return row.positions_N

    def forward(self, positions_N: torch.Tensor, **unused: object) -> torch.Tensor:
        """Angles [N, 1, 1, head size], float32."""
        angles = torch.outer(positions_N.to(self.inv_freq.dtype), self.inv_freq)
        return torch.cat((angles, angles), dim=-1)[:, None, None, :]


def _ends(lengths: Sequence[int]) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
