"""The actor on a GPU: bfloat16 against float32 with both kinds of modules, and a whole run.

Not run on a GPU yet. The tests without Transformer Engine pass on a CPU, which shows only that they run.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.forward import PackedForward
from megatron_coreward.actor.weights.load import load_model
from megatron_coreward.algorithm.batch import make_batch
from megatron_coreward.config.schema import ModelConfig, ParallelConfig
from megatron_coreward.types import ScoredResponse, WeightedResponse
from megatron_coreward.utils.distributed import initialize
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.versions import installed
from tests.distributed.actor.actor_runs import random_responses
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tests.support.programs import TRAIN, launch, settings, write_data

pytestmark = pytest.mark.gpu

RESPONSES = random_responses(seed=0, pairs=2, samples=4, vocab=300)
BUDGET = 200
MEAN, LARGEST = 0.02, 0.2
"""Nats, of logits of about normal(0, 1) in bfloat16."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "qwen3", heads=4, kv_heads=2, head_dim=64)


@pytest.fixture(scope="module", autouse=True)
def groups():
    initialize()
    yield
    dist.destroy_process_group()


def log_probs(model: Path, responses: tuple[ScoredResponse, ...], **of_model: str) -> torch.Tensor:
    layout = parallel.initialize(ParallelConfig())
    loaded = load_model(ModelConfig(str(model), **of_model), layout)
    forward = PackedForward(loaded.module, layout, loaded.shape.vocab, 1.0, BUDGET)
    with torch.no_grad():
        return forward.log_probs(make_batch([WeightedResponse(r) for r in responses]))


def check_against_float32(model: Path, found: torch.Tensor) -> None:
    expected = oracle.frozen_log_probs(model, RESPONSES, temperature=1.0)
    gaps = (found - torch.cat([expected[response.key] for response in RESPONSES])).abs()
    assert float(gaps.mean()) < MEAN and float(gaps.max()) < LARGEST


def test_local_modules_in_bfloat16_are_near_float32(model: Path) -> None:
    check_against_float32(model, log_probs(model, RESPONSES, dtype="bfloat16", transformer_impl="local"))


@pytest.mark.skipif(installed("transformer-engine") is None, reason="Transformer Engine is not installed")
def test_transformer_engine_in_bfloat16_is_near_float32(model: Path) -> None:
    found = log_probs(model, RESPONSES, dtype="bfloat16", transformer_impl="transformer_engine")
    check_against_float32(model, found)


def test_a_run_syncs_and_gives_memory_back(model: Path, tmp_path: Path) -> None:
    """vLLM sleeps, optimizer and reference leave the device, and every sync is verified."""
    options = settings(
        model,
        tmp_path / "run",
        write_data(tmp_path / "data"),
        rollout__gpu_memory_utilization=0.3,
        weight_sync__verify="true",
        weight_sync__tolerance=0.1,
    )
    result = launch(1, *TRAIN, *options)
    assert result.returncode == 0, result.stdout
    records = [record for record in read_metrics(tmp_path / "run") if "memory/update_gb" in record]
    assert len(records) == 3 and all(record["memory/rollout_gb"] > 0 for record in records)
