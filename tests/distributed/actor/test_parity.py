"""The actor computes what Hugging Face's models compute: logits and log-probs.

Small random configs of each family run on every layout that they allow.
"""

import logging
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.algorithm.batch import TrainBatch, make_batch
from megatron_coreward.config.learning import OptimizerConfig
from megatron_coreward.config.schema import ModelConfig, ParallelConfig
from megatron_coreward.types import ScoredResponse, WeightedResponse
from tests.distributed.actor.actor_runs import random_responses
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

logger = logging.getLogger(__name__)

FAMILIES = ("llama", "qwen2", "qwen3")
CONFIGS_PER_FAMILY = 5
TEMPERATURES = (1.0, 0.7)
LAYOUTS = {
    "TP1 PP1": ParallelConfig(),
    "TP2 PP1": ParallelConfig(tensor=2),
    "TP2 PP1 sequence": ParallelConfig(tensor=2, sequence=True),
    "TP1 PP2": ParallelConfig(pipeline=2),
}
TOLERANCE = 4e-5  # ten times the largest difference over all cases, of logits of about normal(0, 1)
BUDGET = 60  # tokens: several micro-batches, some of them with several responses


def draw_config(family: str, seed: int) -> dict[str, Any]:
    """Arguments of `tiny_model`."""
    rng = random.Random(f"{family} {seed}")
    kv_heads = rng.choice([1, 2, 3])
    heads = kv_heads * rng.choice([1, 2, 3])
    settings = {
        "family": family,
        "seed": seed,
        "kv_heads": kv_heads,
        "heads": heads,
        "head_dim": rng.choice([8, 16, 24]),
        "hidden_size": heads * rng.choice([8, 16]),  # transformers wants a multiple of the heads
        "intermediate_size": rng.choice([40, 64]),
        "vocab": rng.choice([300, 301]),
        "tied": rng.random() < 0.5,
        "rms_norm_eps": rng.choice([1e-5, 1e-6]),
    }
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": rng.choice([1e3, 1e4, 1e6])}
    if rng.random() < 0.5:
        # The context is so short that all three bands of wavelengths occur.
        rope |= {
            "rope_type": "llama3",
            "factor": rng.choice([4.0, 8.0]),
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    return settings | {"rope_parameters": rope}


CONFIGS = {
    f"{family} {seed}": draw_config(family, seed) for family in FAMILIES for seed in range(CONFIGS_PER_FAMILY)
}


def fits(config: dict[str, Any], layout: ParallelConfig) -> bool:
    kv_heads, tensor = config["kv_heads"], layout.tensor
    return config["heads"] % tensor == 0 and (kv_heads % tensor == 0 or tensor % kv_heads == 0)


CASES = [
    (name, layout) for layout in LAYOUTS for name, config in CONFIGS.items() if fits(config, LAYOUTS[layout])
]


@dataclass(frozen=True)
class Output:
    """Of one model on one layout, responses in order."""

    log_probs: dict[float, torch.Tensor]
    """By temperature, [T]."""
    logits: torch.Tensor | None
    """[T, V]; only the last pipeline stage has them."""


def forward_all(
    rank: int, cases: Sequence[tuple[Path, ParallelConfig]], responses: Sequence[ScoredResponse]
) -> list[Output]:
    """Every data-parallel rank takes all responses."""
    batch = make_batch([WeightedResponse(response) for response in responses])
    outputs = []
    for folder, config in cases:
        layout = parallel.initialize(config)
        model = load_model(ModelConfig(str(folder)), layout)
        forward = PackedForward(
            model.module, layout, model.shape.vocab, 1.0, OptimizerConfig(micro_batch_tokens=BUDGET)
        )
        log_probs = {}
        with torch.no_grad():
            for forward.temperature in TEMPERATURES:
                log_probs[forward.temperature] = forward.log_probs(batch)
            outputs.append(Output(log_probs, whole_logits(forward, batch)))
        parallel.destroy()
    return outputs


def whole_logits(forward: PackedForward, batch: TrainBatch) -> torch.Tensor | None:
    micro_batches = forward._micro_batches(batch)
    assert len(micro_batches) > 1, "BUDGET holds all responses"

    def logits(_: Any, hidden: torch.Tensor, **flags: bool) -> torch.Tensor:
        module = forward._module
        tied = module.share_embeddings_and_output_weights
        weight = module.shared_embedding_or_output_weight() if tied else module.output_layer.weight
        return hidden.flatten(0, -2) @ weight.T

    outputs = forward._run(micro_batches, logits, forward_only=True)
    by_response = {}
    for micro_batch, logits_Tv in zip(micro_batches, outputs, strict=False):
        shards = [torch.empty_like(logits_Tv) for _ in range(forward.layout.tp_size)]
        dist.all_gather(shards, logits_Tv.contiguous(), group=forward.layout.tp_group)
        logits_TV = torch.cat(shards, dim=1)[:, : forward.vocab]
        pieces = logits_TV.split(micro_batch.batch.response_lengths_R.tolist())
        by_response |= dict(zip(micro_batch.indices, pieces, strict=True))
    return torch.cat([by_response[i] for i in sorted(by_response)]) if by_response else None


@pytest.fixture(scope="module")
def responses() -> tuple[ScoredResponse, ...]:
    return random_responses(seed=0, pairs=2, samples=2, vocab=300)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {name: tiny_model(root / name, **config) for name, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def by_case(folders, responses) -> dict[tuple[str, str], list[Output]]:
    """What each rank found, by case: one start of two ranks for all of them."""
    cases = [(folders[name], LAYOUTS[layout]) for name, layout in CASES]
    ranks = run_ranks(2, forward_all, cases, responses, timeout_s=500)
    return dict(zip(CASES, zip(*ranks, strict=True), strict=True))


@pytest.fixture(scope="module")
def expected(folders, responses) -> dict[str, Output]:
    outputs = {}
    for name, folder in folders.items():
        model = oracle.load(folder)
        with torch.no_grad():
            logits = torch.cat([oracle.logits_of(model, r) for r in responses])
            log_probs = {
                t: torch.cat([oracle.log_probs_of(model, r, t) for r in responses]) for t in TEMPERATURES
            }
        outputs[name] = Output(log_probs, logits)
    return outputs


def test_the_drawn_configs_cover_what_matters():
    drawn = list(CONFIGS.values())
    assert {c["tied"] for c in drawn} == {True, False}
    assert {c["rope_parameters"]["rope_type"] for c in drawn} == {"default", "llama3"}
    assert {c["heads"] // c["kv_heads"] for c in drawn} == {1, 2, 3}
    assert any(c["heads"] % 2 for c in drawn)
    assert any(c["head_dim"] * c["heads"] != c["hidden_size"] for c in drawn)
    at_tp2 = [CONFIGS[name] for name, layout in CASES if LAYOUTS[layout].tensor == 2]
    assert {c["family"] for c in at_tp2} == set(FAMILIES)
    assert any(c["vocab"] % 2 for c in at_tp2)
    assert {c["kv_heads"] for c in at_tp2} == {1, 2}


@pytest.mark.parametrize(("name", "layout"), CASES)
def test_logits_and_log_probs_equal_hugging_face(name, layout, by_case, expected):
    outputs = by_case[name, layout]
    logits = [output.logits for output in outputs if output.logits is not None]
    assert logits, "no rank has logits"
    gaps = {f"logits on rank {i}": gap(whole, expected[name].logits) for i, whole in enumerate(logits)}
    for rank, output in enumerate(outputs):  # on every rank, whichever stage it is
        for temperature, log_probs in output.log_probs.items():
            gaps[f"T={temperature} on rank {rank}"] = gap(log_probs, expected[name].log_probs[temperature])
    logger.info("%s, %s: largest difference %.1e", name, layout, max(gaps.values()))
    assert max(gaps.values()) <= TOLERANCE, gaps


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.shape == other.shape
    return float((one - other).abs().max())
