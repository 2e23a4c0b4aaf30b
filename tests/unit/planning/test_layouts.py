"""Layouts that work, messages for those that do not, seconds by hand, and tools/plan.py."""

import json
from pathlib import Path

import pytest

from megatron_coreward.cli import plan as tool
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.planning import flops
from megatron_coreward.planning.devices import DEVICES, Assumptions, Cluster
from megatron_coreward.planning.layouts import (
    Plan,
    changes,
    make_plan,
    search,
    search_larger,
    validate_layout,
)
from megatron_coreward.planning.models import KNOWN
from megatron_coreward.planning.timing import Lengths
from megatron_coreward.preflight.costs import count_parameters
from megatron_coreward.utils.logging import REFUSED
from tests.unit.planning.test_plan import SHAPE, cluster, load

LENGTHS = Lengths(512, 3072)
MIXTURE = "Qwen3-30B-A3B-Base"


def worked(plan: Plan) -> Plan:
    """Asserts that a plan holds by the checks of a run and by its own arithmetic."""
    validate_layout(plan.config, plan.shape, plan.cluster.gpus)
    again = make_plan(plan.config, plan.shape, plan.cluster, plan.lengths)
    assert again.works and again.memory and again.memory.fullest.total <= plan.cluster.usable_bytes
    return plan


def test_a_mixture_of_experts_gets_a_layout_on_more_devices() -> None:
    config, where = load(), cluster(4, "H100")
    assert search(config, KNOWN[MIXTURE], where, LENGTHS) is None
    found = search_larger(config, KNOWN[MIXTURE], where, LENGTHS)
    assert found is not None
    for plan in (worked(found.nearest), worked(found.fastest)):
        parallel = plan.config.parallel
        assert plan.cluster.gpus == 8 and parallel.expert * parallel.pipeline >= 4
        assert parallel.tensor == 1 or parallel.sequence


@pytest.mark.parametrize("device", ["H100", "H200"])
@pytest.mark.parametrize("model", [name for name in KNOWN if name != MIXTURE])
def test_the_papers_models_have_a_layout_on_four_devices(model: str, device: str) -> None:
    config, where = load(), cluster(4, device)
    found = search(config, KNOWN[model], where, LENGTHS)
    assert found is not None
    nearest, fastest = worked(found.nearest), worked(found.fastest)
    assert nearest.step and fastest.step and fastest.step.total <= nearest.step.total
    assert len(changes(config, nearest.config)) <= len(changes(config, fastest.config))
    allowed = {"parallel", "optimizer", "memory", "rollout"}
    assert {key.split(".")[0] for key in changes(config, nearest.config)} <= allowed


def test_a_layout_that_works_is_its_own_nearest() -> None:
    config = load("parallel.tensor=4", "rollout.gpu_memory_utilization=0.4")
    assert make_plan(config, KNOWN["Qwen2.5-7B"], cluster(), LENGTHS).works
    found = search(config, KNOWN["Qwen2.5-7B"], cluster(), LENGTHS)
    assert found is not None and changes(config, found.nearest.config) == {}


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["parallel.tensor=3"], "parallel.tensor=3"),
        (["parallel.tensor=8"], "parallel.tensor=8"),
        (["rollout.tensor_parallel_size=3"], "rollout.tensor_parallel_size is 3"),
        (["parallel.sequence=true"], "parallel.sequence is true"),
        (["data.batch_pairs=6"], "data.batch_pairs is 6"),
        (["rollout.max_response_tokens=40000"], "rollout.max_response_tokens=40000"),
    ],
)
def test_what_does_not_divide_names_its_key(overrides: list[str], key: str) -> None:
    plan = make_plan(load(*overrides), KNOWN["Qwen2.5-3B"], cluster(), LENGTHS)
    assert not plan.works and plan.memory is None
    assert key in plan.problems[0]


def test_what_does_not_fit_names_phase_and_key() -> None:
    plan = make_plan(load(), KNOWN["Qwen2.5-7B"], cluster(), LENGTHS)
    assert any("phase update" in problem and "optimizer.distributed" in problem for problem in plan.problems)
    wide = load("rollout.gpu_memory_utilization=0.15", "parallel.tensor=4")
    (problem,) = make_plan(wide, KNOWN["Qwen2.5-7B"], cluster(), LENGTHS).problems
    assert "rollout.gpu_memory_utilization is 0.15" in problem and "3,584 tokens" in problem
    long = load(
        "optimizer.micro_batch_tokens=65536", "parallel.tensor=4", "rollout.gpu_memory_utilization=0.4"
    )
    problems = make_plan(long, KNOWN["Qwen2.5-7B"], cluster(), LENGTHS).problems
    assert any("optimizer.micro_batch_tokens" in p or "memory.recompute" in p for p in problems)


def test_too_few_devices_name_the_smallest_number_that_works() -> None:
    shape, config = KNOWN["Qwen2.5-7B"], load()
    assert search(config, shape, cluster(1), LENGTHS) is None
    found = search_larger(config, shape, cluster(1), LENGTHS)
    assert found is not None and found.nearest.cluster.gpus == 2
    worked(found.nearest)
    # One head cannot be cut, and two layers make two stages at most.
    huge = ModelShape(Path("x"), "LlamaForCausalLM", 2, 65536, 262144, 1, 1, 1024, 32000, False, 8192)
    assert search_larger(config, huge, cluster(1), LENGTHS) is None


def test_seconds_fall_with_faster_devices() -> None:
    config = load("parallel.tensor=2", "optimizer.distributed=true")
    shape = KNOWN["Qwen2.5-3B"]
    steps = [make_plan(config, shape, cluster(4, name), LENGTHS).step for name in ("A100", "H100", "B200")]
    totals = [step.total for step in steps if step]
    assert totals == sorted(totals, reverse=True) and len(set(totals)) == 3
    longer = make_plan(config, shape, cluster(), LENGTHS).step
    shorter = make_plan(config, shape, cluster(), Lengths(512, 1000)).step
    assert longer and shorter and shorter.total < longer.total


def test_update_seconds_by_hand() -> None:
    """One rank, nothing to send: operations over rate, and the optimizer's bytes over bandwidth."""
    config = load("data.batch_pairs=2", "rollout.samples=2", "data.max_prompt_tokens=10")
    config.rollout.max_response_tokens = 30
    device = DEVICES["CPU"]
    where = Cluster(device, 1, 1, Assumptions(training=0.5, bandwidth=0.5))
    step = make_plan(config, SHAPE, where, Lengths(10, 30)).step
    assert step is not None and set(step.sent.values()) == {0}
    compute = flops.training_flops(SHAPE, [40] * 8, 8 * 30) / (0.08e12 * 0.5)
    moved = 2 * (8 + 4 + 4) * count_parameters(SHAPE) / (10e9 * 0.5)
    assert step.seconds["update"] == pytest.approx(compute + moved)
    assert step.micro_batches == 1 and step.bubble == 0


def test_the_tool(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    fits = ["--model", "Qwen2.5-7B", "--gpus", "4", "parallel.tensor=4", "rollout.gpu_memory_utilization=0.4"]
    assert tool.main(fits) == tool.WORKS
    shown = capsys.readouterr().out
    for expected in ("fullest is update", "sequences of 3,584", "Assumed, not measured", "This layout works"):
        assert expected in shown
    assert tool.main(["--model", "Qwen2.5-7B", "--gpus", "1", "--json"]) == tool.DOES_NOT
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is False and found["nearest"]["gpus"] == 2
    assert found["memory"][found["fullest_phase"]]["sum"] == max(p["sum"] for p in found["memory"].values())
    assert tool.main([*fits, "--memory-gib", "40"]) == tool.DOES_NOT
    assert tool.main([*fits, "--per-node", "2"]) == tool.WORKS
    assert "parallel.tensor is 4, more than the 2 devices of a node" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus is 0"),
        (["--gpus", "2", "--tflops", "-1"], "--tflops is -1"),
        (["--gpus", "2", "--training", "1.5"], "--training is 1.5"),
        (["--gpus", "2", "--response-tokens", "9999"], "rollout.max_response_tokens"),
        (["--gpus", "2", "model.path=nowhere"], "Qwen2.5-3B"),
        (["--gpus", "2", "parallel.tensr=2"], "parallel.tensor"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "Qwen2.5-3B", *arguments]) == REFUSED
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
