"""The actor on a pretended GPU (tests/support/pretended): nothing is where a GPU would refuse it, results are
those of the CPU, and the host waits no more often than its budget."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from megatron.core.transformer.moe.router import Router

from megatron_coreward.actor.compute import forward
from megatron_coreward.actor.model import attention, build
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.schema import ParallelConfig
from tests.distributed.device.device_runs import VOCAB, Case, Outcome, step
from tests.support.models import tiny_model
from tests.support.ranks import RankError, run_ranks

LAYERS = 2
CLOSE = 5e-6
"""Largest difference of a figure or weight in float32, after two updates at a learning rate of 1e-2."""


@dataclass(frozen=True)
class Budget:
    """Waits allowed in a pass: for each layer of each micro-batch, for each micro-batch, and once."""

    layer: int
    micro_batch: int
    once: int

    def of(self, layers: int, micro_batches: int) -> int:
        return (self.layer * layers + self.micro_batch) * micro_batches + self.once


FORWARD = Budget(layer=0, micro_batch=0, once=6)
UPDATE = Budget(layer=0, micro_batch=0, once=30)
MOE = {"local": 3, "transformer_engine": 1}
PIPELINE, EMBEDDING, EXPERT_NORM = 4, 2, 1
"""More for each layer of a Mixture of Experts, by its modules (the engine sorts tokens in one kernel), for
each micro-batch that crosses stages, or whose words are embedded in parts, and for each update with experts,
whose gradient norm is another's than that of the dense weights: all are Megatron's."""

P1, TP2, PP2 = ParallelConfig(), ParallelConfig(tensor=2, sequence=True), ParallelConfig(pipeline=2)
TP2_PP2 = ParallelConfig(tensor=2, pipeline=2, sequence=True)
EP2 = ParallelConfig(expert=2)
ENGINE = "transformer_engine"
COVERING = {
    "one rank, recomputed": (1, "dense", P1, "full", "local", False),
    "DP2, distributed, stand-ins": (2, "dense", P1, "selective", ENGINE, True),
    "TP2, stand-ins": (2, "dense", TP2, "none", ENGINE, False),
    "PP2": (2, "dense", PP2, "none", "local", False),
    "TP2 x PP2": (4, "dense", TP2_PP2, "none", "local", False),
    "EP2": (2, "moe", EP2, "selective", "local", True),
    "EP2, stand-ins": (2, "moe", EP2, "none", ENGINE, True),
}
"""Each layout, kind of module and recomputation once. A row: ranks, model, layout, recompute, modules,
distributed optimizer."""
LAYOUTS = [(1, P1), (2, P1), (2, TP2), (2, PP2), (4, TP2_PP2), (2, EP2)]
MATRIX = [
    (ranks, "moe" if layout.expert > 1 else "dense", layout, recompute, modules, distributed)
    for (ranks, layout), recompute, modules, distributed in itertools.product(
        LAYOUTS, ("none", "selective", "full"), ("local", ENGINE), (False, True)
    )
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    sizes = {"vocab": VOCAB, "kv_heads": 2, "layers": LAYERS}
    return {
        "dense": tiny_model(root / "dense", **sizes),
        "moe": tiny_model(root / "moe", family="qwen3_moe", **sizes),
    }


def check(case: Case, ranks: int, folder: Path) -> None:
    """The two runs of a case agree, and the waits of each rank are within the budget."""
    on_cpu = run_ranks(ranks, step, case, folder / "cpu", False)
    pretended = run_ranks(ranks, step, case, folder / "device", True, timeout_s=300)
    for expected, outcome in zip(on_cpu, pretended, strict=True):
        assert expected.values.keys() == outcome.values.keys()
        for name, value in expected.values.items():
            torch.testing.assert_close(outcome.values[name], value, atol=CLOSE, rtol=1e-4, msg=name)
        check_waits(case, outcome)


def check_waits(case: Case, outcome: Outcome) -> None:
    layers = LAYERS // case.layout.pipeline
    extra = MOE[case.modules] if case.model.name == "moe" else 0
    again = extra if case.recompute == "full" else 0  # the backward pass computes whole layers again
    norms = UPDATE.once + EXPERT_NORM * bool(extra)
    more = PIPELINE * (case.layout.pipeline > 1) + EMBEDDING * (case.layout.tensor > 1)
    budgets = {"log_probs": replace(FORWARD, layer=extra, micro_batch=FORWARD.micro_batch + more)}
    for update in ("update 1", "update 2"):
        budgets[update] = Budget(extra + again, UPDATE.micro_batch + more, norms)
    for part, budget in budgets.items():
        waits, allowed = outcome.waits[part], budget.of(layers, outcome.micro_batches[part])
        assert waits.total <= allowed, f"{part}: {waits.total} waits, allowed {allowed}\n{waits.table()}"


def case_of(models: dict[str, Path], row: tuple) -> Case:
    _, model, layout, recompute, modules, distributed = row
    return Case(models[model], layout, recompute, modules, distributed)


@pytest.mark.parametrize("name", COVERING)
def test_a_step_on_the_device_is_that_of_the_cpu(name: str, models: dict[str, Path], tmp_path: Path) -> None:
    check(case_of(models, COVERING[name]), COVERING[name][0], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("row", MATRIX, ids=str)
def test_every_layout_with_every_option(row: tuple, models: dict[str, Path], tmp_path: Path) -> None:
    check(case_of(models, row), row[0], tmp_path)


def test_bfloat16_runs_on_the_device(models: dict[str, Path], tmp_path: Path) -> None:
    """Its figures are compared on a real GPU (tools/gpu_check): the CPU's rounding is another."""
    (outcome,) = run_ranks(1, step, Case(models["dense"], dtype="bfloat16"), tmp_path, True, timeout_s=300)
    assert all(torch.isfinite(value).all() for value in outcome.values.values())


def spoiled(_: int, fault: str, case: Case, folder: Path) -> Outcome:
    with FAULTS[fault]():
        return step(0, case, folder, True)


@contextmanager
def weights_made_in_main_memory() -> Iterator[None]:
    with mock.patch.object(build, "compute_device", lambda: torch.device("cpu")):
        yield


@contextmanager
def routers_made_in_main_memory() -> Iterator[None]:
    whole = Router.__init__

    def made(self: Router, *args: Any, **kwargs: Any) -> None:
        with torch.device("cpu"):
            whole(self, *args, **kwargs)

    with mock.patch.object(Router, "__init__", made):
        yield


@contextmanager
def a_mask_on_the_cpu() -> Iterator[None]:
    whole = GrpoObjective.__call__

    def masked(self: GrpoObjective, logps: torch.Tensor, batch: Any) -> Any:
        return whole(self, logps * torch.ones(len(logps)), batch)

    with mock.patch.object(GrpoObjective, "__call__", masked):
        yield


@contextmanager
def an_item_in_every_layer() -> Iterator[None]:
    whole = attention.PackedAttention.forward

    def reading(self: Any, query: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        assert all(query.flatten()[place].item() < 1e9 for place in range(4)), "too large"
        return whole(self, query, *args, **kwargs)

    with mock.patch.object(attention.PackedAttention, "forward", reading):
        yield


@contextmanager
def a_host_tensor_for_nccl() -> Iterator[None]:
    whole = forward.PackedForward._micro_batches

    def reduced(self: Any, batch: Any) -> Any:
        torch.distributed.all_reduce(torch.tensor(1.0), group=self.layout.tp_group)
        return whole(self, batch)

    with mock.patch.object(forward.PackedForward, "_micro_batches", reduced):
        yield


FAULTS = {
    fault.__name__: fault
    for fault in (
        weights_made_in_main_memory,
        routers_made_in_main_memory,
        a_mask_on_the_cpu,
        an_item_in_every_layer,
        a_host_tensor_for_nccl,
    )
}


@pytest.mark.parametrize(
    ("fault", "model", "message"),
    [
        ("weights_made_in_main_memory", "dense", "layernorm.weight is on cpu"),
        ("weights_made_in_main_memory", "moe", "is on cpu"),
        ("routers_made_in_main_memory", "moe", "mlp.router.weight is on cpu"),
        ("a_mask_on_the_cpu", "dense", r"at least two devices, cuda:0 and cpu! \(aten::mul"),
        ("a_host_tensor_for_nccl", "dense", "all_reduce: a host tensor in a NCCL group, at"),
    ],
)
def test_a_planted_fault_is_named(
    fault: str, model: str, message: str, models: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(RankError, match=message):
        run_ranks(1, spoiled, fault, Case(models[model]), tmp_path)


def test_a_wait_in_every_layer_is_over_the_budget(models: dict[str, Path], tmp_path: Path) -> None:
    case = Case(models["dense"])
    (outcome,) = run_ranks(1, spoiled, "an_item_in_every_layer", case, tmp_path)
    with pytest.raises(AssertionError, match="log_probs: .* waits, allowed"):
        check_waits(case, outcome)
