"""The policy's confidence in its responses, at several layouts, equals that of transformers."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from megatron_coreward.actor import parallel
from megatron_coreward.config.schema import ParallelConfig
from megatron_coreward.types import Confidence, Response
from tests.distributed.actor.actor_runs import random_responses
from tests.distributed.checkpoint.checkpoint_runs import VOCAB, config_of, make_policy
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

LAYOUTS = {
    "tp2": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
    "dp2": ParallelConfig(),
}
TEMPERATURE = 0.7
Measured = list[tuple[tuple[int, str, int], Confidence]]


def drawn() -> list[Response]:
    scored = random_responses(3, pairs=3, samples=2, vocab=VOCAB)
    names = [field for field in Response.__dataclass_fields__]
    return [Response(**{name: vars(r)[name] for name in names}) for r in scored]


def work(rank: int, folder: Path) -> dict[str, Measured]:
    """By layout; rank 0 holds the pairs but the last, in reverse, rank 1 that one."""
    found = {}
    last = max(r.pair_id for r in drawn())
    held = [r for r in drawn() if (r.pair_id == last) == (rank == 1)][::-1]
    for name, layout in LAYOUTS.items():
        config = config_of(folder, layout)
        config.rollout.temperature = TEMPERATURE
        policy = make_policy(config)
        measured = policy.with_confidence(held)
        assert [r.key for r in measured] == [r.key for r in held]
        assert all(m.text == h.text for m, h in zip(measured, held, strict=True))
        found[name] = [(r.key, r.confidence) for r in measured]
        parallel.destroy()
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "qwen3", vocab=VOCAB, kv_heads=2)


@pytest.fixture(scope="module")
def by_rank(folder: Path) -> list[dict[str, Measured]]:
    return run_ranks(2, work, folder, timeout_s=120)


@torch.no_grad()
def expected(folder: Path) -> dict[tuple[int, str, int], tuple[float, float]]:
    """Self-certainty and entropy by the formulas, over the true vocabulary."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).double()
    found = {}
    for r in drawn():
        ids = torch.tensor([[*r.prompt_ids, *r.response_ids.tolist()]])
        logits_TV = model(ids).logits[0, len(r.prompt_ids) - 1 : -1] / TEMPERATURE
        log_p_TV = logits_TV.log_softmax(-1)
        uniform = 1 / logits_TV.shape[-1]
        certainty_T = (uniform * (torch.tensor(uniform).log() - log_p_TV)).sum(-1)  # KL(U || p)
        entropy_T = -(log_p_TV.exp() * log_p_TV).sum(-1)
        tokens = max(len(entropy_T), 1)  # 0 for a response without any
        found[r.key] = (float(certainty_T.sum()) / tokens, float(entropy_T.sum()) / tokens)
    return found


@pytest.mark.parametrize("name", LAYOUTS)
def test_confidence_equals_the_formulas(name, folder, by_rank):
    truth = expected(folder)
    measured = [item for rank in by_rank for item in rank[name]]
    assert sorted(key for key, _ in measured) == sorted(truth)
    for key, confidence in measured:
        assert (confidence.self_certainty, confidence.entropy) == pytest.approx(truth[key], abs=1e-5)
