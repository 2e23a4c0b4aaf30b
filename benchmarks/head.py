"""Log-probs of many tokens under a large vocabulary: token_stats against whole logits, memory and time.

    python -m benchmarks.head [--tokens 16384] [--vocabulary 152000] [--hidden 1024] [--repeats 1] [--tiny]
        [--output FILE.json]

Forward and backward from hidden states and the head's weight, one rank with all cores. Memory is counted, not
sampled: the most bytes alive at once among the outputs of torch operators (LiveBytes of plan.py), less the
gradients of hidden states and weight. That is done at --tokens, whatever the machine has. "Whole logits" are
torch's linear and log_softmax; both are timed in turns at the most tokens, halved from --tokens, whose logits
fit four times into three quarters of the available memory.
"""

from collections.abc import Callable

import psutil
import torch
import torch.distributed as dist

from benchmarks.options import leave, row_parser
from benchmarks.plan import LiveBytes
from benchmarks.record import Record, paired
from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.token_stats import VocabularyShard, token_stats
from megatron_coreward.config.schema import ParallelConfig
from megatron_coreward.utils.distributed import initialize

COPIES, SHARE = 4, 0.75
GIB = 1 << 30


class Head:
    """Hidden states [tokens, hidden] and weight [vocabulary, hidden], random."""

    def __init__(self, tokens: int, vocabulary: int, hidden: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.hidden_Th = torch.randn(tokens, hidden, generator=draw)
        self.weight_vh = torch.randn(vocabulary, hidden, generator=draw) / hidden**0.5
        self.targets_T = torch.randint(vocabulary, (tokens,), generator=draw)
        group = parallel.parallel_state.get_tensor_model_parallel_group()
        self.shard = VocabularyShard(0, vocabulary, vocabulary, group)

    def chunked(self, tokens: int) -> None:
        self._backward(
            tokens,
            lambda hidden_Th, weight_vh, targets_T: (
                token_stats(hidden_Th, weight_vh, targets_T, self.shard, 1.0, measured=False).logps
            ),
        )

    def whole(self, tokens: int) -> None:
        self._backward(
            tokens,
            lambda hidden_Th, weight_vh, targets_T: (
                torch.log_softmax(hidden_Th @ weight_vh.T, -1).gather(1, targets_T[:, None]).squeeze(1)
            ),
        )

    def _backward(self, tokens: int, log_probs: Callable[..., torch.Tensor]) -> None:
        hidden_Th = self.hidden_Th[:tokens].detach().requires_grad_()
        weight_vh = self.weight_vh.detach().requires_grad_()
        (-log_probs(hidden_Th, weight_vh, self.targets_T[:tokens]).mean()).backward()

    def chunked_gib(self, tokens: int) -> float:
        """Peak memory beyond hidden states, weight and the gradients of both."""
        with LiveBytes() as live:
            self.chunked(tokens)
        return (live.peak - self.hidden_Th[:tokens].nbytes - self.weight_vh.nbytes) / GIB


def fitting(tokens: int, vocabulary: int) -> int:
    """The most tokens whose whole logits, COPIES of them, fit."""
    available = SHARE * psutil.virtual_memory().available
    while tokens > 1 and COPIES * 4 * tokens * vocabulary > available:
        tokens //= 2
    return tokens


def main() -> None:
    parser = row_parser(__doc__, repeats=1, tiny="256 tokens and a vocabulary of 9,000")
    parser.add_argument("--tokens", type=int, default=16384)
    parser.add_argument("--vocabulary", type=int, default=152_000)
    parser.add_argument("--hidden", type=int, default=1024)
    options = parser.parse_args()
    if options.tiny:
        options.tokens, options.vocabulary, options.hidden = 256, 9_000, 64
    initialize()
    parallel.initialize(ParallelConfig())
    head = Head(options.tokens, options.vocabulary, options.hidden)
    timed_at = fitting(options.tokens, options.vocabulary)
    ways = {"chunks": lambda: head.chunked(timed_at), "whole logits": lambda: head.whole(timed_at)}
    found, peak = paired(ways, options.repeats), head.chunked_gib(options.tokens)
    dist.destroy_process_group()
    sizes = {name: vars(options)[name] for name in ("tokens", "vocabulary", "hidden")}
    logits = 4 * options.tokens * options.vocabulary / GIB
    title = "chunks / whole logits"
    record = Record(
        row="head",
        settings=sizes | {"threads": torch.get_num_threads()},
        ways=found,
        ratios={title: ("chunks", "whole logits")},
        goals={title: "time at most 1.25, memory under 1 GiB"},
        notes={
            "tokens timed": timed_at,
            "GiB of the chunks at all tokens, beyond hidden states, weight, gradients": round(peak, 3),
            "GiB of the logits at all tokens": round(logits, 2),
        },
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
