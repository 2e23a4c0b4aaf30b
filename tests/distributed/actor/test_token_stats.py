"""Vocabulary-parallel log-probs, entropies and self-certainty equal those over the whole vocabulary."""

import math

import pytest
import torch
import torch.distributed as dist

from megatron_coreward.actor.compute.token_stats import VocabularyShard, token_stats
from tests.support.ranks import run_ranks

VOCABULARIES = (301, 5)  # at TP 4 the last rank of a vocabulary of 5 holds nothing but padding
TP_SIZES = (1, 2, 4)
TEMPERATURE = 0.7
NUM_TOKENS = 50


def draw(vocab: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [T, V], from nearly uniform to nearly certain, and targets [T]."""
    generator = torch.Generator().manual_seed(vocab)
    scales_T = torch.logspace(-2, 3, NUM_TOKENS)
    logits_TV = torch.randn(NUM_TOKENS, vocab, generator=generator) * scales_T[:, None]
    return logits_TV, torch.randint(vocab, (NUM_TOKENS,), generator=generator)


def sharded_stats(rank: int) -> dict[tuple[int, int], list[torch.Tensor]]:
    """By vocabulary and TP size: the statistics, and the gradient of summed log-probs in all logits."""
    found = {}
    for tp_size in TP_SIZES:
        group = dist.new_group(range(tp_size))
        for vocab in VOCABULARIES:
            if rank < tp_size:
                found[vocab, tp_size] = stats_of_group(rank, vocab, tp_size, group)
    return found


def stats_of_group(rank: int, vocab: int, tp_size: int, group: dist.ProcessGroup) -> list[torch.Tensor]:
    logits_TV, targets_T = draw(vocab)
    width = -(-vocab // tp_size)
    # The padded columns would win every softmax that let them in.
    padded_TV = torch.nn.functional.pad(logits_TV, (0, tp_size * width - vocab), value=1e4)
    mine_Tv = padded_TV[:, rank * width : (rank + 1) * width].clone().requires_grad_()
    shard = VocabularyShard(rank * width, width, vocab, group)
    stats = token_stats(mine_Tv, targets_T, shard, TEMPERATURE)
    stats.logps.sum().backward()
    gradients = [torch.empty_like(mine_Tv) for _ in range(tp_size)]
    dist.all_gather(gradients, mine_Tv.grad, group=group)
    return [stats.logps.detach(), stats.entropy, stats.self_certainty, torch.cat(gradients, dim=1)]


@pytest.fixture(scope="module")
def by_rank() -> list[dict[tuple[int, int], list[torch.Tensor]]]:
    return run_ranks(4, sharded_stats)


@pytest.mark.parametrize("tp_size", TP_SIZES)
@pytest.mark.parametrize("vocab", VOCABULARIES)
def test_token_stats_equal_the_formulas(vocab, tp_size, by_rank):
    logits_TV, targets_T = draw(vocab)
    logits_TV = logits_TV.double().requires_grad_()
    log_p_TV = torch.log_softmax(logits_TV / TEMPERATURE, dim=-1)
    log_probs_T = log_p_TV[torch.arange(NUM_TOKENS), targets_T]
    log_probs_T.sum().backward()
    entropies_T = -(log_p_TV.exp() * log_p_TV).sum(-1)
    certainties_T = -log_p_TV.mean(-1) - math.log(vocab)  # KL(U || p)

    for rank in range(tp_size):
        found_T, found_entropies_T, found_certainties_T, gradient_TV = by_rank[rank][vocab, tp_size]
        # Measured: log-probs 1.1e-7 of their size, entropies 4.9e-7, gradients 4.1e-7, at every TP size.
        torch.testing.assert_close(found_T.double(), log_probs_T.detach(), rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(found_entropies_T.double(), entropies_T.detach(), rtol=0, atol=5e-6)
        torch.testing.assert_close(found_certainties_T.double(), certainties_T.detach(), rtol=1e-6, atol=5e-6)
        torch.testing.assert_close(gradient_TV[:, :vocab].double(), logits_TV.grad, rtol=0, atol=5e-6)
        assert torch.count_nonzero(gradient_TV[:, vocab:]) == 0
