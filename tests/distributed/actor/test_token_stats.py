"""Vocabulary-parallel log-probs, entropies and self-certainty equal those over the whole vocabulary."""

import math
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from megatron_coreward.actor.compute import token_stats as token_stats_module
from megatron_coreward.actor.compute.token_stats import VocabularyShard, token_stats
from tests.support.ranks import run_ranks

VOCABULARIES = (301, 5)  # at TP 4 the last rank of a vocabulary of 5 holds nothing but padding
TP_SIZES = (1, 2, 4)
TEMPERATURE = 0.7
NUM_TOKENS, HIDDEN = 50, 16


def draw(vocab: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states [T, h] and a head [V, h], whose logits are from nearly uniform to nearly certain, and
    targets [T]."""
    generator = torch.Generator().manual_seed(vocab)
    scales_T = torch.logspace(-2, 2, NUM_TOKENS)
    hidden_Th = torch.randn(NUM_TOKENS, HIDDEN, generator=generator) * scales_T[:, None]
    weight_Vh = torch.randn(vocab, HIDDEN, generator=generator)
    return hidden_Th, weight_Vh, torch.randint(vocab, (NUM_TOKENS,), generator=generator)


def sharded_stats(rank: int) -> dict[tuple[int, int], list[torch.Tensor]]:
    """By vocabulary and TP size: the statistics, and the gradients of weighted log-probs."""
    found = {}
    token_stats_module.HEAD_CHUNK_BYTES = 4 * 301 * 7  # 7 tokens, and fewer at the beginning
    token_stats_module.CACHED_BYTES = 4 * 301 * 3
    # Memory that is too small for a block is grown with a warning, which a later torch will refuse to do.
    warnings.filterwarnings("error", message=".* was resized")
    for tp_size in TP_SIZES:
        group = dist.new_group(range(tp_size))
        for vocab in VOCABULARIES:
            if rank < tp_size:
                found[vocab, tp_size] = stats_of_group(rank, vocab, tp_size, group)
    return found


def stats_of_group(rank: int, vocab: int, tp_size: int, group: dist.ProcessGroup) -> list[torch.Tensor]:
    hidden_Th, weight_Vh, targets_T = draw(vocab)
    width = -(-vocab // tp_size)
    # The padded columns would win or spoil every softmax that let them in.
    padded_Vh = torch.nn.functional.pad(weight_Vh, (0, 0, 0, tp_size * width - vocab), value=1e4)
    mine_vh = padded_Vh[rank * width : (rank + 1) * width].clone().requires_grad_()
    hidden_Th.requires_grad_()
    shard = VocabularyShard(rank * width, width, vocab, group)
    stats = token_stats(hidden_Th, mine_vh, targets_T, shard, TEMPERATURE, measured=True)
    (stats.logps * weights_of(targets_T)).sum().backward()
    gradients = [torch.empty_like(mine_vh) for _ in range(tp_size)]
    dist.all_gather(gradients, mine_vh.grad, group=group)
    check_megatrons_sum(hidden_Th.detach(), mine_vh, targets_T, shard)
    with torch.no_grad():
        plain = token_stats(hidden_Th, mine_vh, targets_T, shard, TEMPERATURE, measured=False)
    # Not equal: the order in which gloo adds up four ranks depends on how much is sent.
    torch.testing.assert_close(plain.logps, stats.logps.detach(), rtol=1e-6, atol=1e-6)
    assert plain.entropy is plain.self_certainty is None
    none = token_stats(hidden_Th[:0], mine_vh, targets_T[:0], shard, TEMPERATURE, measured=True)
    none.logps.sum().backward()  # a rank without tokens takes part
    measured = [stats.logps.detach(), stats.entropy, stats.self_certainty]
    return [*measured, hidden_Th.grad, torch.cat(gradients)]


def check_megatrons_sum(
    hidden_Th: torch.Tensor, done_vh: torch.Tensor, targets_T: torch.Tensor, shard: VocabularyShard
) -> None:
    """A weight with Megatron's `main_grad` gets its gradient there, beside what was there before."""
    for tied in (False, True):
        weight_vh = done_vh.detach().clone().requires_grad_()
        weight_vh.main_grad = torch.ones_like(weight_vh)
        weight_vh.grad_added_to_main_grad, weight_vh.zero_out_wgrad = False, tied
        stats = token_stats(hidden_Th, weight_vh, targets_T, shard, TEMPERATURE, measured=False)
        (stats.logps * weights_of(targets_T)).sum().backward()
        torch.testing.assert_close(weight_vh.main_grad, done_vh.grad + 1, rtol=1e-5, atol=1e-4)
        # Where it is the embedding, too, Megatron's hook adds what it finds, so there is nothing to find.
        assert (weight_vh.grad is None) == tied
        assert weight_vh.grad_added_to_main_grad != tied


def weights_of(targets_T: torch.Tensor) -> torch.Tensor:
    """Different for every token, some of them negative."""
    return torch.linspace(-1, 2, len(targets_T))


@pytest.fixture(scope="module")
def by_rank() -> list[dict[tuple[int, int], list[torch.Tensor]]]:
    return run_ranks(4, sharded_stats)


@pytest.mark.parametrize("tp_size", TP_SIZES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_token_stats_equal_the_formulas(vocab, tp_size, by_rank):
    hidden_Th, weight_Vh, targets_T = draw(vocab)
    hidden_Th, weight_Vh = (x.double().requires_grad_() for x in (hidden_Th, weight_Vh))
    log_p_TV = torch.log_softmax(hidden_Th @ weight_Vh.T / TEMPERATURE, dim=-1)
    log_probs_T = log_p_TV[torch.arange(NUM_TOKENS), targets_T]
    (log_probs_T * weights_of(targets_T)).sum().backward()
    entropies_T = -(log_p_TV.exp() * log_p_TV).sum(-1)
    certainties_T = -log_p_TV.mean(-1) - math.log(vocab)  # KL(U || p)

    for rank in range(tp_size):
        found_T, found_entropies_T, found_certainties_T, hidden_grad, weight_grad = by_rank[rank][
            vocab, tp_size
        ]
        # Logits of some hundreds are rounded to 1e-5 in float32.
        torch.testing.assert_close(found_T.double(), log_probs_T.detach(), rtol=1e-6, atol=2e-5)
        torch.testing.assert_close(found_entropies_T.double(), entropies_T.detach(), rtol=0, atol=2e-5)
        torch.testing.assert_close(found_certainties_T.double(), certainties_T.detach(), rtol=1e-6, atol=2e-5)
        torch.testing.assert_close(hidden_grad.double(), hidden_Th.grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(weight_grad[:vocab].double(), weight_Vh.grad, rtol=1e-4, atol=2e-3)
        assert torch.count_nonzero(weight_grad[vocab:]) == 0


def largest_of_a_pass(rank: int) -> int:
    """Elements of the largest tensor that a forward and a backward pass over 2,000 tokens make."""
    token_stats_module.HEAD_CHUNK_BYTES = 4 * 301 * 16
    largest = 0

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            tensors = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            largest = max([largest, *(x.numel() for x in tensors)])
            return result

    hidden_Th = torch.randn(2000, 4, requires_grad=True)
    weight_vh = torch.randn(301, 4, requires_grad=True)
    shard = VocabularyShard(0, 301, 301, dist.group.WORLD)
    with Sizes():
        targets_T = torch.zeros(2000, dtype=torch.long)
        token_stats(hidden_Th, weight_vh, targets_T, shard, 1.0, measured=True).logps.sum().backward()
    return largest


def test_memory_is_that_of_a_chunk():
    """2,000 x 301 logits would be 602,000; the sums of a pass are four for each token."""
    assert run_ranks(1, largest_of_a_pass) == [2000 * 4]
