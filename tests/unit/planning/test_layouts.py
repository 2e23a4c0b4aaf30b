"""Layouts that work, messages for those that do not, and `coreward plan`."""

import json
from pathlib import Path

import pytest

from megatron_coreward.cli import plan as tool
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.planning.layouts import (
    Plan,
    changes,
    doubled,
    first_that_works,
    make_plan,
    validate_layout,
)
from megatron_coreward.planning.models import KNOWN, recipe_of
from megatron_coreward.planning.report import yaml_value
from megatron_coreward.utils.logging import REFUSED
from tests.unit.planning.test_plan import cluster, load

MIXTURE = "Qwen3-30B-A3B-Base"


def worked(plan: Plan) -> Plan:
    """Asserts that a plan holds by the checks of a run and by its own arithmetic."""
    validate_layout(plan.config, plan.shape, plan.cluster.gpus)
    again = make_plan(plan.config, plan.shape, plan.cluster)
    assert again.works and again.memory and again.memory.fullest.total <= plan.cluster.usable_bytes
    return plan


def first(model: str, gpus: int, *overrides: str, device: str = "H100") -> Plan:
    plan = first_that_works(load(*overrides), KNOWN[model], doubled(cluster(gpus, device)))
    assert plan is not None
    return worked(plan)


def test_a_mixture_of_experts_gets_a_layout_on_more_devices() -> None:
    assert first_that_works(load(), KNOWN[MIXTURE], [cluster(4, "H100")]) is None
    plan = first(MIXTURE, 4)
    parallel = plan.config.parallel
    assert plan.cluster.gpus == 8 and parallel.expert * parallel.pipeline >= 4
    assert parallel.tensor == 1 or parallel.sequence


@pytest.mark.parametrize("device", ["H100", "H200"])
@pytest.mark.parametrize("model", [name for name in KNOWN if name != MIXTURE])
def test_the_papers_models_have_a_layout_on_four_devices(model: str, device: str) -> None:
    plan = first(model, 4, device=device)
    assert plan.cluster.gpus == 4
    allowed = {"parallel", "optimizer", "memory", "rollout"}
    assert {key.split(".")[0] for key in changes(load(), plan.config)} <= allowed


def test_layouts_are_tried_in_the_order_that_is_stated() -> None:
    """Fewest devices; then least model parallelism; then fewest changed keys."""
    one = first("Qwen3-1.7B-Base", 1, "parallel.tensor=4", "rollout.tensor_parallel_size=4")
    assert one.cluster.gpus == 1 and one.config.parallel.tensor == 1
    # A whole Qwen3-8B fits on four H100 with another key changed, two halves would without.
    whole = first("Qwen3-8B-Base", 4, "parallel.pipeline=4", "optimizer.distributed=true")
    assert (whole.config.parallel.tensor, whole.config.parallel.pipeline) == (1, 1)
    assert set(changes(load("optimizer.distributed=true"), whole.config)) == {"memory.recompute"}
    halves = load("optimizer.distributed=true", "parallel.tensor=2")
    assert make_plan(halves, KNOWN["Qwen3-8B-Base"], cluster()).works
    assert changes(load(), first("Qwen2.5-3B", 4, device="H200").config) == {}
    assert list(changes(load(), first("Qwen3-4B-Base", 4).config)) == ["optimizer.distributed"]


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
    plan = make_plan(load(*overrides), KNOWN["Qwen2.5-3B"], cluster())
    assert not plan.works and plan.memory is None
    assert key in plan.problems[0]


def test_what_does_not_fit_names_phase_and_key() -> None:
    plan = make_plan(load(), KNOWN["Qwen2.5-7B"], cluster())
    assert any("phase update" in problem and "optimizer.distributed" in problem for problem in plan.problems)
    wide = load("rollout.gpu_memory_utilization=0.15", "parallel.tensor=4")
    (problem,) = make_plan(wide, KNOWN["Qwen2.5-7B"], cluster()).problems
    assert "rollout.gpu_memory_utilization is 0.15" in problem and "3,584 tokens" in problem
    long = load(
        "optimizer.micro_batch_tokens=65536", "parallel.tensor=4", "rollout.gpu_memory_utilization=0.4"
    )
    problems = make_plan(long, KNOWN["Qwen2.5-7B"], cluster()).problems
    assert any("optimizer.micro_batch_tokens" in p or "memory.recompute" in p for p in problems)


def test_too_few_devices_name_the_smallest_number_that_works() -> None:
    shape, config = KNOWN["Qwen2.5-7B"], load()
    assert first_that_works(config, shape, [cluster(1)]) is None
    assert first("Qwen2.5-7B", 1).cluster.gpus == 2
    # One head cannot be cut, and two layers make two stages at most.
    huge = ModelShape(Path("x"), "LlamaForCausalLM", 2, 65536, 262144, 1, 1, 1024, 32000, False, 8192)
    assert first_that_works(config, huge, doubled(cluster(1))) is None


FITS = ["--model", "Qwen2.5-7B", "--gpus", "4", "parallel.tensor=4", "rollout.gpu_memory_utilization=0.4"]


def test_the_verdict_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(FITS) == tool.WORKS
    shown = capsys.readouterr().out
    assert shown.startswith("works: Qwen2.5-7B on 4 x H100") and "works instead" not in shown
    for expected in (
        "phase first sync",
        "sequences of 3,584",
        "assumed, not measured",
        "qwen2.5_7b.yaml par",
    ):
        assert expected in shown
    assert tool.main([*FITS, "--memory-gib", "24"]) == tool.DOES_NOT
    first_line, _, rest = capsys.readouterr().out.partition("\n")
    assert first_line.startswith("does not work: ") and "\nworks instead: --gpus 8 " in rest
    assert tool.main([*FITS, "--per-node", "2"]) == tool.WORKS
    assert "parallel.tensor is 4, more than the 2 devices" in capsys.readouterr().out.replace("\n", " ")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_is_cut_at_80_columns(
    method: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    tool.main([*FITS, f"reward.method={method}", *(["algorithm.kl_coef=0"] if method == "entropy" else [])])
    tool.main(["--model", "Qwen2.5-7B", f"reward.method={method}"])
    shown = capsys.readouterr().out
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80
    assert "backward pass" in shown and "checkpoint" in shown


def test_the_recipe_of_a_model_is_what_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "Qwen2.5-7B", "--gpus", "4"]) == tool.WORKS
    assert "settings: the recipe " in capsys.readouterr().out
    assert load_config([recipe_of("Qwen2.5-7B")]).parallel.tensor == 2, "which is why it works"


def test_without_gpus_the_smallest_number_of_every_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "Qwen2.5-7B"]) == tool.WORKS
    shown = capsys.readouterr().out
    assert shown.startswith("Qwen2.5-7B works on 2 x A100, 2 x H100, 1 x H200, 1 x B200")
    assert tool.main(["--model", "Qwen2.5-7B", "--json"]) == tool.WORKS
    found = json.loads(capsys.readouterr().out)
    for device, smallest in found.items():
        changed = [f"{key}={yaml_value(value)}" for key, value in smallest["changes"].items()]
        number = ["--gpus", str(smallest["gpus"]), "--device", device]
        assert tool.main(["--model", "Qwen2.5-7B", *number, *changed]) == tool.WORKS
    capsys.readouterr()
    assert tool.main(["--model", "Qwen2.5-7B", "--memory-gib", "0.5"]) == tool.DOES_NOT
    assert "does not work on any number" in capsys.readouterr().out


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "Qwen2.5-7B", "--gpus", "1", "--json"]) == tool.DOES_NOT
    found = json.loads(capsys.readouterr().out)
    assert found["works"] is False and found["works_instead"]["gpus"] == 2
    assert found["memory"] is None and "parallel.tensor=2" in found["problems"][0]
    assert tool.main([*FITS, "--device", "L40S", "--memory-gib", "44", "--json"]) == tool.WORKS
    found = json.loads(capsys.readouterr().out)
    assert found["memory"][found["fullest_phase"]]["sum"] == max(p["sum"] for p in found["memory"].values())
    assert found["cluster"]["device"] == "L40S" and found["works_instead"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "--gpus is 0"),
        (["--gpus", "2", "--memory-gib", "-1"], "--memory-gib is -1"),
        (["--gpus", "2", "--reserve", "1.5"], "--reserve is 1.5"),
        (["--device", "L40S"], "--memory-gib"),
        (["--gpus", "2", "model.path=nowhere"], "Qwen2.5-3B"),
        (["--gpus", "2", "parallel.tensr=2"], "parallel.tensor"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--model", "Qwen2.5-3B", *arguments]) == REFUSED
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
