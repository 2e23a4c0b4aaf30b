"""Transformer Engine, FP8 and determinism: each impossible combination gives one error that names the key."""

import builtins
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_coreward.actor.model import precision
from megatron_coreward.config import precision as config_precision
from megatron_coreward.config.keys import find_key
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.precision import (
    DETERMINISTIC_ENVIRONMENT,
    RECIPES,
    Machine,
    check_installed,
    check_machine,
)
from megatron_coreward.config.schema import Config, Fp8Config, ModelConfig
from megatron_coreward.preflight.checks import validate, validate_layout

SHAPE = ModelShape(
    folder=Path("models/any"),
    architecture="LlamaForCausalLM",
    layers=8,
    hidden=512,
    intermediate=1024,
    heads=16,
    kv_heads=4,
    head_dim=32,
    vocab=300,
    tied=False,
    max_positions=8192,
)
ENVIRONMENT = {name: allowed[0] for name, allowed in DETERMINISTIC_ENVIRONMENT.items()}
ADA, HOPPER, BLACKWELL = (8, 9), (9, 0), (10, 0)
NEW = Machine(HOPPER, "12.9", "2.20.2")
CPU = Machine(None, None, None)


def load(*overrides: str) -> Config:
    return load_config([], ["model.path=models/any", "data.source=synthetic", *overrides])


def refused(message: str, call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value), "one line"


def test_recipes_are_the_choices() -> None:
    assert find_key("fp8.recipe").choices == tuple(RECIPES)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("form", ["hybrid", "e4m3"])
def test_valid(recipe: str, form: str) -> None:
    config = load(f"fp8.recipe={recipe}", f"fp8.format={form}")
    validate_layout(config, SHAPE, 1)
    check_machine(config, Machine(BLACKWELL, "12.9", "2.20.2"), {})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["fp8.format=e5m2"], "fp8.format is 'e5m2', but must be one of none, hybrid, e4m3."),
        (
            ["fp8.recipe=block"],
            "fp8.recipe is 'block', but must be one of delayed, tensorwise, blockwise, mxfp8.",
        ),
        (["fp8.first_last_bf16=-1"], "fp8.first_last_bf16 is -1, but must be at least 0."),
        (["fp8.amax_history=0"], "fp8.amax_history is 0, but must be at least 1."),
        (["model.transformer_impl=te"], "model.transformer_impl is 'te', but must be one of auto"),
        (["fp8.params=true"], "fp8.params is true, but fp8.format is none."),
        (["fp8.first_last_bf16=1"], "fp8.first_last_bf16 is 1, but fp8.format is none."),
        (["fp8.format=hybrid", "model.transformer_impl=local"], "but model.transformer_impl is local"),
        (["fp8.format=hybrid", "model.dtype=float32"], "but model.dtype is float32"),
        (
            ["fp8.format=hybrid", "fp8.recipe=delayed", "fp8.first_last_bf16=1"],
            "fp8.first_last_bf16 is 1, but fp8.recipe=delayed has all layers in FP8.",
        ),
        (
            ["fp8.format=hybrid", "fp8.recipe=mxfp8", "fp8.params=true", "optimizer.distributed=true"],
            "fp8.params is true, but with fp8.recipe=mxfp8",
        ),
        (["fp8.format=hybrid", "fp8.params=true"], "but optimizer.distributed is false"),
        (
            ["fp8.format=hybrid", "fp8.first_last_bf16=4"],
            "fp8.first_last_bf16 is 4, but with 8 layers in parallel.pipeline=1 stages it must be at most 3",
        ),
        (
            ["fp8.format=hybrid", "fp8.first_last_bf16=3", "parallel.pipeline=4"],
            "fp8.first_last_bf16 is 3, but with 8 layers in parallel.pipeline=4 stages it must be at most 2",
        ),
    ],
)
def test_contradictions(overrides: list[str], message: str) -> None:
    refused(message, lambda: validate_layout(load(*overrides), SHAPE, 4))


@pytest.mark.parametrize(
    ("sizes", "recipe", "tensor", "message"),
    [
        ({"hidden": 520}, "tensorwise", 1, "multiples of 16, but the model's hidden size is 520"),
        ({"hidden": 528}, "mxfp8", 1, "multiples of 32, but the model's hidden size is 528"),
        ({"intermediate": 1056}, "blockwise", 4, "MLP size / parallel.tensor is 264"),
        ({"heads": 4, "head_dim": 8}, "delayed", 4, "width of all heads / parallel.tensor is 8"),
        ({"head_dim": 24, "kv_heads": 2}, "mxfp8", 2, "queries, keys and values / parallel.tensor is 240"),
    ],
)
def test_matrices_that_do_not_fit(sizes: dict[str, int], recipe: str, tensor: int, message: str) -> None:
    config = load("fp8.format=hybrid", f"fp8.recipe={recipe}", f"parallel.tensor={tensor}")
    refused(message, validate_layout, config, replace(SHAPE, **sizes), 4)


def test_no_experts() -> None:
    experts = replace(SHAPE, architecture="Qwen3MoeForCausalLM", experts=8, active_experts=2)
    refused("(model.path) is a Mixture of Experts", validate_layout, load("fp8.format=hybrid"), experts, 1)
    validate_layout(load(), experts, 1)


def test_missing_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load("model.transformer_impl=transformer_engine")
    monkeypatch.setattr(config_precision, "installed", lambda package: None)
    message = "model.transformer_impl is transformer_engine, but transformer-engine is not installed: pip"
    refused(message, validate, config, 1)
    validate_layout(config, SHAPE, 1)  # a plan for other machines
    monkeypatch.setattr(config_precision, "installed", lambda package: "2.20.2")
    check_installed(config)


def test_engine_without_fp8() -> None:
    config = load("model.transformer_impl=transformer_engine")
    check_machine(config, Machine((8, 0), "12.1", "2.3"), {})


@pytest.mark.parametrize(
    ("recipe", "machine", "message"),
    [
        ("tensorwise", CPU, "needs a GPU, and there is none here. Set fp8.format=none."),
        ("tensorwise", replace(NEW, te_version=None), "Transformer Engine is not installed: pip install"),
        ("tensorwise", replace(NEW, capability=(8, 0)), "8.9 or higher, but this GPU has 8.0. It has no FP8"),
        ("delayed", replace(NEW, capability=(7, 5)), "8.9 or higher, but this GPU has 7.5. It has no FP8"),
        (
            "blockwise",
            replace(NEW, capability=ADA),
            "9.0 or higher, but this GPU has 8.9. Recipes for it: delayed, tens",
        ),
        ("mxfp8", NEW, "10.0 or higher and below 12.0, but this GPU has 9.0."),
        (
            "mxfp8",
            replace(NEW, capability=(12, 0)),
            "but this GPU has 12.0. Recipes for it: delayed, tensorwise, block",
        ),
        ("delayed", replace(NEW, cuda="11.8"), "needs CUDA 12.1 or newer, but torch is built for 11.8."),
        ("blockwise", replace(NEW, cuda="12.8"), "needs CUDA 12.9 or newer, but torch is built for 12.8."),
        (
            "delayed",
            replace(NEW, te_version="1.6"),
            "needs transformer-engine 1.7 or newer, but 1.6 is installed.",
        ),
        ("tensorwise", replace(NEW, te_version="2.1"), "needs transformer-engine 2.2 or newer, but 2.1"),
        ("blockwise", replace(NEW, te_version="2.2"), "needs transformer-engine 2.3 or newer, but 2.2"),
        ("mxfp8", Machine(BLACKWELL, "12.8", "2.0"), "needs transformer-engine 2.1 or newer, but 2.0"),
    ],
)
def test_machines_that_cannot(recipe: str, machine: Machine, message: str) -> None:
    refused(message, check_machine, load("fp8.format=hybrid", f"fp8.recipe={recipe}"), machine, {})


def test_machine_is_asked_for_what_is_wanted_only() -> None:
    check_machine(load(), CPU, {})
    check_machine(load("model.deterministic=true"), CPU, {})
    config = load("model.transformer_impl=transformer_engine")
    refused("Set model.transformer_impl=local.", check_machine, config, CPU, {})


@pytest.mark.parametrize("name", DETERMINISTIC_ENVIRONMENT)
@pytest.mark.parametrize("value", [None, "other"])
def test_deterministic_environment(name: str, value: str | None) -> None:
    config = load("model.deterministic=true")
    check_machine(config, NEW, ENVIRONMENT)
    wrong = {key: given for key, given in ENVIRONMENT.items() if key != name}
    wrong |= {name: value} if value else {}
    message = f"model.deterministic is true, which needs the environment variable {name} to be one of"
    refused(message, check_machine, config, NEW, wrong)
    check_machine(load(), NEW, wrong)


def test_deterministic_without_the_engine() -> None:
    without = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("NVTE")}
    check_machine(load("model.deterministic=true"), replace(NEW, te_version=None), without)


@pytest.mark.parametrize(
    ("wanted", "machine", "chosen", "reason"),
    [
        ("auto", CPU, "local", "there is no GPU"),
        ("auto", replace(NEW, te_version=None), "local", "Transformer Engine is not installed"),
        ("auto", replace(NEW, capability=None), "local", "there is no GPU"),
        ("auto", NEW, "transformer_engine", "there are a GPU and Transformer Engine 2.20.2"),
        ("local", NEW, "local", "asked for"),
        ("transformer_engine", NEW, "transformer_engine", "asked for"),
    ],
)
def test_choice_of_modules(wanted: str, machine: Machine, chosen: str, reason: str) -> None:
    assert precision.choose_modules(wanted, machine) == (chosen, reason)


@pytest.mark.parametrize("error", [ImportError, RuntimeError, AssertionError, FileNotFoundError])
def test_an_installed_engine_that_cannot_be_imported_is_an_error(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a reason to run on other modules without a word."""

    def broken(name: str, *_: object) -> None:
        raise error("undefined symbol: _ZN3c104cuda9\nand more")

    monkeypatch.setattr(precision, "installed", lambda _: "2.20.2")
    monkeypatch.delitem(sys.modules, "transformer_engine", raising=False)
    monkeypatch.setattr(builtins, "__import__", raising_for("transformer_engine", broken))
    message = r"2\.20\.2 is installed but cannot be imported: undefined symbol.*this torch"
    with pytest.raises(ValueError, match=message):
        precision._te_version()


def raising_for(package: str, refuse: Callable[[str], None]) -> Callable[..., Any]:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] == package:
            refuse(name)
        return real(name, *args, **kwargs)

    return importing


def test_choice_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    precision.transformer_impl.cache_clear()
    with caplog.at_level("INFO", logger=precision.logger.name):
        assert [precision.transformer_impl("local") for _ in range(2)] == ["local", "local"]
    assert caplog.messages == ["model.transformer_impl: local (asked for)"]


def test_settings_for_megatron() -> None:
    plain = precision.megatron_settings(ModelConfig(), Fp8Config(), "local")
    assert plain == {"transformer_impl": "local", "deterministic_mode": False}
    given = Fp8Config("hybrid", "blockwise", params=True, first_last_bf16=2)
    settings = precision.megatron_settings(ModelConfig(deterministic=True), given, "transformer_engine")
    assert settings["deterministic_mode"] and settings["fp8_param"] and settings["first_last_layers_bf16"]
    assert (settings["fp8"], settings["fp8_recipe"]) == ("hybrid", "blockwise")
    assert settings["num_layers_at_start_in_bf16"] == settings["num_layers_at_end_in_bf16"] == 2
    with pytest.raises(AssertionError, match="check_machine refuses"):
        precision.megatron_settings(ModelConfig(), given, "local")


def test_frozen_models() -> None:
    tensorwise = Fp8Config("e4m3", "tensorwise", params=True, first_last_bf16=1)
    assert precision.of_frozen_model(tensorwise) == replace(tensorwise, params=False)
    assert precision.of_frozen_model(Fp8Config("hybrid", "delayed")).format == "none"


def test_deterministic_algorithms_end_with_the_actor() -> None:
    for wanted in (True, False):
        with precision.deterministic_algorithms(wanted):
            assert torch.are_deterministic_algorithms_enabled() == wanted
        assert not torch.are_deterministic_algorithms_enabled()
    with pytest.raises(RuntimeError), precision.deterministic_algorithms(True):
        raise RuntimeError
    assert not torch.are_deterministic_algorithms_enabled()
