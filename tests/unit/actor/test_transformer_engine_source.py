"""Transformer Engine's published wheels have what we and Megatron-Core use of it: read, never imported.

The wheel transformer-engine has the Python sources, and Megatron's own source shows what it passes. Apex is
not checked: NVIDIA publishes no wheel of it, and Megatron-Core falls back if it is missing.
"""

import ast
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from pydantic.dataclasses import dataclass as pydantic_dataclass

from megatron_coreward.config.precision import RECIPES
from tests.support.paths import ROOT
from tests.support.wheel_source import WheelSource

pytestmark = pytest.mark.slow

VERSIONS = ("2.3.0", "2.8.0", "2.20.2")
"""The least that has every recipe, one between, and the newest when this was written."""
TORCH = "transformer_engine.pytorch"
RECIPE = "transformer_engine.common.recipe"
OLDER = {
    (f"{TORCH}.attention", "_SplitAlongDim"),
    (f"{TORCH}.attention", "apply_rotary_pos_emb"),
    (f"{TORCH}.cpp_extensions", "cast_to_fp8"),
    (f"{TORCH}.module.base", "get_workspace"),
}
"""Names of older versions, which Megatron-Core imports only if they are there or for those versions."""


@pytest.fixture(scope="module", params=VERSIONS)
def wheel(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> WheelSource:
    version = request.param
    assert pytestconfig.cache is not None
    folder = Path(pytestconfig.cache.mkdir("transformer_engine"))
    name = f"transformer_engine-{version}-py3-none-any.whl"
    if not (folder / name).is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        done = subprocess.run(
            [*command, "--dest", str(folder), f"transformer-engine=={version}"],
            capture_output=True,
            text=True,
            timeout=300,
        )
        if done.returncode:
            pytest.skip(f"transformer-engine {version} cannot be downloaded: {done.stderr.strip()[-200:]}")
    return WheelSource(folder / name)


@pytest.fixture(scope="module")
def extension() -> ast.Module:
    """megatron/core/extensions/transformer_engine.py, which is imported as it is but without the engine."""
    core = find_spec("megatron.core")
    assert core is not None and core.submodule_search_locations
    return ast.parse(
        (Path(core.submodule_search_locations[0]) / "extensions/transformer_engine.py").read_text()
    )


def imported_names(folder: Path) -> set[tuple[str, str]]:
    """(module of Transformer Engine, name imported from it) of all sources of a package."""
    return {
        (node.module, alias.name)
        for path in folder.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("transformer_engine.")
        for alias in node.names
    }


def method(extension: ast.Module, owner: str, name: str) -> ast.FunctionDef:
    (found,) = (n for n in ast.walk(extension) if isinstance(n, ast.ClassDef) and n.name == owner)
    (function,) = (n for n in found.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return function


def passed(function: ast.FunctionDef, callee: str) -> set[str]:
    """Keyword arguments of all calls of `callee`, as it is written."""
    calls = [n for n in ast.walk(function) if isinstance(n, ast.Call) and ast.unparse(n.func) == callee]
    assert calls, f"{function.name} does not call {callee}"
    return {keyword.arg for call in calls for keyword in call.keywords if keyword.arg}


def test_norm(wheel: WheelSource, extension: ast.Module) -> None:
    given = passed(method(extension, "TENorm", "__new__"), "te.pytorch.RMSNorm") - {"hidden_size"}
    assert given == {"eps", "sequence_parallel", "zero_centered_gamma"}
    assert given | {"params_dtype", "hidden_size"} <= wheel.arguments(f"{TORCH}.RMSNorm")
    assert "device" in wheel.arguments(f"{TORCH}.ops.RMSNorm"), "passed on as a keyword"
    assert "self.weight.sequence_parallel = " in wheel.text(f"{TORCH}.RMSNorm.reset_parameters")


def test_linear(wheel: WheelSource, extension: ast.Module) -> None:
    given = passed(method(extension, "TELinear", "__init__"), "super().__init__")
    extra = {"params_dtype", "device", "rng_tracker_name"}
    assert given | extra <= wheel.arguments(f"{TORCH}.Linear")
    assert "is_first_microbatch" in wheel.arguments(f"{TORCH}.Linear.forward")
    marks = wheel.text(f"{TORCH}.Linear.reset_parameters")
    assert "set_tensor_model_parallel_attributes" in marks, "else mark_tensor_parallel would have to"


def test_attention(wheel: WheelSource, extension: ast.Module) -> None:
    attention = f"{TORCH}.DotProductAttention"
    given = passed(method(extension, "TEDotProductAttention", "__init__"), "super().__init__")
    extra = {"num_gqa_groups", "attention_type", "softmax_scale"}
    assert given | extra <= wheel.arguments(attention)
    packed = {"qkv_format", "cu_seqlens_q", "cu_seqlens_kv", "max_seqlen_q", "max_seqlen_kv"}
    packed |= {"cu_seqlens_q_padded", "cu_seqlens_kv_padded", "attn_mask_type"}
    assert packed <= wheel.arguments(f"{attention}.forward")
    forward = wheel.text(f"{attention}.forward")
    assert "cu_seqlens_q.dtype == torch.int32" in forward, "what batching.pack gives"
    assert "NVTE_ALLOW_NONDETERMINISTIC_ALGO" in wheel.text(f"{attention}.__init__")


def test_recipes(wheel: WheelSource, extension: ast.Module) -> None:
    delayed = passed(method(extension, "TEDelayedScaling", "__init__"), "super().__init__")
    # Megatron also passes override_linear_precision, params_dtype and device, of which no version knows. A
    # dataclass of pydantic's ignores them; one of Python's would refuse.
    ignored = {"override_linear_precision"}
    assert (delayed - ignored) | {"fp8_dpa", "fp8_mha"} <= wheel.arguments(f"{RECIPE}.DelayedScaling")
    assert wheel.imported_from(RECIPE, "dataclass") == "pydantic.dataclasses"
    assert vars(pydantic_dataclass(type("Any", (), {}))(unknown=1)) == {}
    assert {"fp8_format", "fp8_dpa"} <= wheel.arguments(f"{RECIPE}.Float8CurrentScaling")
    for name in ("Float8BlockScaling", "MXFP8BlockScaling"):
        assert "fp8_format" in wheel.arguments(f"{RECIPE}.{name}")
    for name in ("HYBRID", "E4M3"):
        assert f"{name} = " in wheel.text(f"{RECIPE}.Format")


def test_scales_of_delayed_wait_for_gradients(wheel: WheelSource) -> None:
    """Why precision.of_frozen_model keeps reference and teacher out of it."""
    state = wheel.text(f"{TORCH}.fp8.FP8GlobalStateManager")
    assert "and torch.is_grad_enabled()" in state and "reduce_and_update_fp8_tensors(forward=True)" in state


def test_contexts(wheel: WheelSource) -> None:
    assert {"enabled", "fp8_recipe", "fp8_group"} <= wheel.arguments(f"{TORCH}.fp8_autocast")
    init = wheel.arguments(f"{TORCH}.fp8_model_init")
    assert {"enabled", "recipe", "preserve_high_precision_init_val"} <= init
    for name in ("FP8GlobalStateManager", "fp8_autocast"):
        wheel.find(f"{TORCH}.fp8.{name}")  # where the extension looks to tell whether the engine is there


def test_weights_in_fp8(wheel: WheelSource) -> None:
    utils = f"{TORCH}.tensor.utils"
    wheel.find(f"{TORCH}.tensor.QuantizedTensor.dequantize")
    assert "quantize" in wheel.text(f"{TORCH}.tensor.QuantizedTensor.__torch_dispatch__"), "loading copies in"
    given = {"model_weights", "master_weights", "start_offsets", "group"}
    assert given <= wheel.arguments(f"{utils}.cast_master_weights_to_fp8")
    wheel.find(f"{utils}.replace_raw_data")


def test_optimizers(wheel: WheelSource) -> None:
    optimizers = f"{TORCH}.optimizers"
    assert {"lr", "betas", "eps", "weight_decay"} <= wheel.arguments(f"{optimizers}.FusedAdam")
    assert wheel.imported_from(optimizers, "multi_tensor_applier")
    for name in ("multi_tensor_scale", "multi_tensor_l2norm"):
        assert wheel.imported_from(optimizers, name) == "transformer_engine_torch", "of the compiled part"


def test_limits_of_recipes(wheel: WheelSource) -> None:
    """The numbers of RECIPES are those that the engine refuses by."""
    module, _ = wheel.find(f"{TORCH}.fp8.check_fp8_support")
    for recipe, check in {
        "delayed": "check_fp8_support",
        "tensorwise": "check_fp8_support",
        "blockwise": "check_fp8_block_scaling_support",
        "mxfp8": "check_mxfp8_support",
    }.items():
        text = wheel.text(f"{module}.{check}")
        inner = check.replace("check_", "_compute_")
        if f"{inner}()" in text:  # newer versions remember the answer
            text = wheel.text(f"{module}.{inner}")
        assert str(RECIPES[recipe].capability) in text
        if recipe != "mxfp8":
            assert ".".join(map(str, RECIPES[recipe].cuda)) in text


@pytest.mark.parametrize("wheel", VERSIONS[-1:], indirect=True)
@pytest.mark.parametrize("package", ["megatron.core", "megatron_coreward"])
def test_every_imported_name_is_there(package: str, wheel: WheelSource) -> None:
    """In the version of requirements/gpu-lock.txt, for all of Megatron-Core and for this package."""
    assert f"transformer-engine=={VERSIONS[-1]}\n" in (ROOT / "requirements/gpu-lock.txt").read_text()
    spec = find_spec(package)
    assert spec is not None and spec.submodule_search_locations
    names = imported_names(Path(spec.submodule_search_locations[0]))
    missing = {(module, name) for module, name in names if not wheel.has(module, name)}
    assert missing == (OLDER if package == "megatron.core" else set())
    assert len(names) > 50 or package != "megatron.core", "else nothing was read"
