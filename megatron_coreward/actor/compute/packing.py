"""Packs responses into the rows of micro-batches (one row of tokens, no padding).

Which responses share a row and a prompt is decided in grouping.py.

Shape suffixes: N packed tokens, T response tokens.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from megatron_coreward.actor.model.packed_row import PackedRow, packed_row
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
    packed: PackedRow
    rows_T: torch.Tensor  # int64
    targets_T: torch.Tensor  # int64

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        """The micro-batch with `function` applied to every tensor."""
        return replace(
            self,
            batch=self.batch.map(function),
            tokens_1N=function(self.tokens_1N),
            packed=self.packed.map(function),
            rows_T=function(self.rows_T),
            targets_T=function(self.targets_T),
        )


def pack(batch: TrainBatch, parts: Sequence[Sequence[int]], multiple: int) -> MicroBatch:
    """One micro-batch on the host, filled up to a multiple of `multiple` tokens (forward.token_multiple).

    The responses of a part share their prompt. The filling is a trunk of its own, which no response attends
    to and no row reads.
    """
    indices = [index for part in parts for index in part]
    chosen = batch.select(indices)
    prompts, lengths = chosen.prompt_lengths_R.tolist(), chosen.lengths_R.tolist()
    sequences = chosen.tokens_N.split(lengths)
    trunks: list[torch.Tensor] = []
    branches: list[torch.Tensor] = []
    trunk_of: list[int] = []
    firsts = accumulate((len(part) for part in parts), initial=0)
    for first, part in zip(firsts, parts, strict=False):
        alone = len(part) == 1
        if not alone:
            going_on = [sequences[i][prompts[i] :] for i in range(first, first + len(part))]
            branches += [response for response in going_on if len(response)]
            trunk_of += [len(trunks)] * (len(branches) - len(trunk_of))
        trunks.append(sequences[first] if alone else sequences[first][: prompts[first]])
    tokens = sum(map(len, trunks)) + sum(map(len, branches))
    filling = -tokens % multiple if tokens else multiple
    if filling:
        trunks.append(chosen.tokens_N.new_zeros(filling))
    responses = [sequence[prompt:] for sequence, prompt in zip(sequences, prompts, strict=True)]
    none = torch.empty(0, dtype=torch.long)
    return MicroBatch(
        indices=indices,
        batch=chosen,
        tokens_1N=torch.cat([*trunks, *branches])[None],
        packed=packed_row([len(t) for t in trunks], list(zip(trunk_of, map(len, branches), strict=True))),
        rows_T=torch.cat([*_rows(parts, prompts, lengths, sum(map(len, trunks))), none]),
        targets_T=torch.cat([*responses, none]),
    )


def _rows(
    parts: Sequence[Sequence[int]], prompts: list[int], lengths: list[int], end_of_trunks: int
) -> Iterator[torch.Tensor]:
    """For each response the rows whose logits predict its tokens: the prompt's last, then its own but one."""
    response, trunk, branch = 0, 0, end_of_trunks
    for part in parts:
        alone = len(part) == 1
        last_of_prompt = trunk + prompts[response] - 1
        for _ in part:
            tokens = lengths[response] - prompts[response]
            own = last_of_prompt + 1 if alone else branch
            yield torch.cat([torch.tensor([last_of_prompt]), torch.arange(own, own + tokens)])[:tokens]
            branch += 0 if alone else tokens
            response += 1
        trunk += lengths[response - 1] if alone else prompts[response - 1]


def upload(micro_batches: Sequence[MicroBatch], device: torch.device) -> list[MicroBatch]:
    """All micro-batches on the device, by one copy of locked memory for each type of number."""
    if device.type == "cpu":
        return list(micro_batches)
    on_host: list[torch.Tensor] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        on_host.append(tensor)
        return tensor

    for micro_batch in micro_batches:
        micro_batch.map(note)
    pieces: dict[torch.dtype, Iterator[torch.Tensor]] = {}
    for dtype in {tensor.dtype for tensor in on_host}:
        flat = [tensor.flatten() for tensor in on_host if tensor.dtype == dtype]
        locked = torch.empty(sum(map(len, flat)), dtype=dtype, pin_memory=True)
        torch.cat(flat, out=locked)
        pieces[dtype] = iter(locked.to(device, non_blocking=True).split([len(piece) for piece in flat]))
    return [
        micro_batch.map(lambda tensor: next(pieces[tensor.dtype]).view(tensor.shape))
        for micro_batch in micro_batches
    ]
