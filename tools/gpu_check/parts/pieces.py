"""Pieces of the actor at sizes that its tiny models lack, against plain formulas in float32 on the CPU.

Attention over a packed row is held against its sequences one by one, log-probs from hidden states in chunks
against those of whole logits. Both are in bfloat16: what differs is rounding.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_coreward.actor.compute.token_stats import VocabularyShard, token_stats
from megatron_coreward.actor.device import actor_device, compute_device
from megatron_coreward.actor.model.attention import PackedAttention
from megatron_coreward.actor.model.packed_row import packed_row
from megatron_coreward.utils.distributed import initialize
from tools.gpu_check.parts.limits import within
from tools.gpu_check.table import Figures

HEADS, KV_HEADS, HEAD_SIZE = 8, 2, 64
TRUNKS = (300, 20, 129)
BRANCHES = ((0, 50), (0, 1), (0, 200), (2, 64))
"""Index of the trunk, tokens."""
ATTENTION_LIMITS = {name: 0.02 for name in ("outputs: gap", "query: gap", "key: gap", "value: gap")}
"""Each ||x - x'|| / ||x'||; query, key and value stand for their gradients."""

VOCAB, TEMPERATURE = 151_936, 0.7
COMPARED = 512
"""Tokens in the loss; the others have a weight of 0. More than a chunk, of which there are 441."""
HEAD_LIMITS = {"log-probs: largest gap": 0.05, "hidden: gap": 0.02, "weight: gap": 0.02, "peak, GiB": 2.0}
"""Nats; then of the gradients, as above; memory on a GPU beside inputs and gradients, where whole logits of
16,384 tokens would take 9.3."""


@dataclass(frozen=True)
class HeadSize:
    tokens: int
    hidden: int


ON_GPU, ON_CPU = HeadSize(16_384, 1024), HeadSize(COMPARED, 64)


def attention(_: Path) -> Figures:
    """Local modules, of a row with prompts that several responses share."""
    generator = torch.Generator().manual_seed(1)
    tokens = sum(TRUNKS) + sum(length for _, length in BRANCHES)
    inputs = [
        torch.randn(tokens, heads, HEAD_SIZE, generator=generator).bfloat16()
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    ]
    weights = torch.randn(tokens, HEADS * HEAD_SIZE, generator=generator)
    expected = [x.float().requires_grad_() for x in inputs]
    expected_output = one_by_one(*expected)
    (expected_output * weights).sum().backward()

    device = compute_device()
    given = [x.to(device).requires_grad_() for x in inputs]
    row = packed_row(TRUNKS, BRANCHES).map(lambda tensor: tensor.to(device))
    sizes = {"num_layers": 1, "hidden_size": HEADS * HEAD_SIZE, "num_attention_heads": HEADS}
    config = TransformerConfig(**sizes, num_query_groups=KV_HEADS, kv_channels=HEAD_SIZE)
    with actor_device():
        module = PackedAttention(config, 1, AttnMaskType.causal, "self")
        output = module(*(x[:, None] for x in given), packed_seq_params=row)[:, 0]
        (output.float() * weights.to(device)).sum().backward()
    figures: Figures = {"device": str(device), "tokens": tokens}
    gaps = {"outputs: gap": gap(output.detach(), expected_output)}
    for name, mine, other in zip(("query", "key", "value"), given, expected, strict=True):
        gaps[f"{name}: gap"] = gap(mine.grad, other.grad)
    return figures | within(gaps, ATTENTION_LIMITS)


def one_by_one(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The row's attention, [tokens, heads * head size]; every branch has its trunk computed anew."""
    places = torch.arange(len(query)).split([*TRUNKS, *(length for _, length in BRANCHES)])
    sequences = [(place, len(place)) for place in places[: len(TRUNKS)]]
    branches = zip(places[len(TRUNKS) :], BRANCHES, strict=True)
    sequences += [(torch.cat([places[trunk], place]), length) for place, (trunk, length) in branches]
    outputs = []
    for place, own in sequences:
        q, k, v = (x[place].transpose(0, 1)[None] for x in (query, key, value))
        output = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        outputs.append(output[0].transpose(0, 1)[-own:].flatten(1))
    return torch.cat(outputs)


def log_probs(_: Path) -> Figures:
    """In chunks, forwards and backwards, at the vocabulary of Qwen3."""
    initialize()
    size = ON_GPU if torch.cuda.is_available() else ON_CPU
    generator, device = torch.Generator().manual_seed(1), compute_device()
    hidden = torch.randn(size.tokens, size.hidden, generator=generator).bfloat16()
    head = (torch.randn(VOCAB, size.hidden, generator=generator) / size.hidden**0.5).bfloat16()
    targets = torch.randint(VOCAB, (size.tokens,), generator=generator)
    weights = torch.linspace(-1, 2, COMPARED)
    expected = [x.float().requires_grad_() for x in (hidden[:COMPARED], head)]
    logits = expected[0] @ expected[1].T / TEMPERATURE
    expected_log_probs = -F.cross_entropy(logits, targets[:COMPARED], reduction="none")
    (expected_log_probs * weights).sum().backward()

    mine = [x.to(device).requires_grad_() for x in (hidden, head)]
    targets, weights = targets.to(device), weights.to(device)
    world = dist.group.WORLD
    assert world is not None, "initialize has made it"
    before = peak()
    shard = VocabularyShard(0, VOCAB, VOCAB, world)
    computed = token_stats(mine[0], mine[1], targets, shard, TEMPERATURE, measured=True).logps
    (computed[:COMPARED] * weights).sum().backward()
    used = peak() - before - sum(x.nbytes for x in mine)  # gradients are as large
    hidden_grad = mine[0].grad
    assert hidden_grad is not None, "no gradient"
    difference = computed.detach().cpu()[:COMPARED] - expected_log_probs.detach()
    gaps = {
        "log-probs: largest gap": float(difference.abs().max()),
        "hidden: gap": gap(hidden_grad[:COMPARED], expected[0].grad),
        "weight: gap": gap(mine[1].grad, expected[1].grad),
        "peak, GiB": max(used, 0) / 2**30,
    }
    dist.destroy_process_group()
    figures: Figures = {"device": str(device), "tokens": size.tokens, "hidden size": size.hidden}
    return figures | within(gaps, HEAD_LIMITS)


def gap(some: torch.Tensor | None, other: torch.Tensor | None) -> float:
    assert some is not None and other is not None, "no gradient"
    return float((some.cpu().float() - other.detach()).norm() / other.detach().norm())


def peak() -> int:
    """Most bytes on the device since the last call; 0 on a CPU."""
    if not torch.cuda.is_available():
        return 0
    most = torch.cuda.max_memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    return most
