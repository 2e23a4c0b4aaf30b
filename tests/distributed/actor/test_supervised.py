"""Supervised steps: at every layout and micro-batch size the loss that transformers has, to rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_coreward.actor import parallel
from megatron_coreward.actor.supervised import Tokens, supervised_update
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.checkpoint.checkpoint_runs import VOCAB, config_of, make_policy
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

UPDATES = 4
LAYOUTS = {
    "dp": ParallelConfig(),
    "tp2": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
}
CASES = [(1, "dp"), *((2, name) for name in LAYOUTS)]


def drawn(count: int) -> list[Tokens]:
    """Examples of very different lengths, two of them with one prompt."""
    rng = np.random.default_rng(5)
    examples: list[Tokens] = [
        (rng.integers(0, VOCAB, 1 + 5 * i).tolist(), rng.integers(0, VOCAB, 1 + 7 * (i % 3)).tolist())
        for i in range(count)
    ]
    return [*examples[:-1], (examples[0][0], examples[-1][1])]


def work(rank: int, folder: Path, names: list[str]) -> dict[tuple[str, int], list[float]]:
    """The losses of some updates, by layout and number of examples; micro-batches hold one or two."""
    losses = {}
    for name in names:
        for count in (1, 6):
            config = config_of(folder, LAYOUTS[name])
            config.optimizer.micro_batch_tokens = 40
            policy = make_policy(config)
            updates = [supervised_update(policy, drawn(count)).as_dict() for _ in range(UPDATES)]
            losses[name, count] = [figures["policy/loss"] for figures in updates]
            parallel.destroy()
    return losses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "qwen3", vocab=VOCAB, kv_heads=2)


@pytest.fixture(scope="module")
def losses(folder: Path) -> dict[tuple[int, str, int], list[float]]:
    """By ranks, layout and number of examples; every rank has the same."""
    measured = {}
    for ranks, names in ((1, ["dp"]), (2, list(LAYOUTS))):
        first, *others = run_ranks(ranks, work, folder, names)
        assert all(other == first for other in others)
        measured |= {(ranks, *case): values for case, values in first.items()}
    return measured


@torch.no_grad()
def mean_nll(folder: Path, examples: list[Tokens]) -> float:
    """Nats per response token at the start weights, one example at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).double()
    total, tokens = 0.0, 0
    for prompt, response in examples:
        logits_TV = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        total -= logits_TV.log_softmax(-1)[range(len(response)), response].sum().item()
        tokens += len(response)
    return total / tokens


@pytest.mark.parametrize("count", [1, 6], ids=["fewer examples than ranks", "six"])
@pytest.mark.parametrize(("ranks", "name"), CASES)
def test_the_loss_is_the_mean_over_response_tokens_and_falls_alike(ranks, name, count, folder, losses):
    measured = losses[ranks, name, count]
    assert measured[0] == pytest.approx(mean_nll(folder, drawn(count)), rel=1e-5)
    assert measured == pytest.approx(losses[1, "dp", count], rel=1e-4)
    assert measured[-1] < measured[0] - 0.01
