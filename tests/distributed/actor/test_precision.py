"""Megatron-Core accepts the FP8 recipes, and the actor runs on stand-ins for Transformer Engine's modules.

No GPU and no Transformer Engine take part. Without it Megatron-Core's FP8 contexts do nothing, so a model set
up for FP8 computes in the precision of its weights here.
"""

import ast
import inspect
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.fp8_utils import get_fp8_align_size
from megatron.core.transformer.transformer_config import TransformerConfig

from megatron_coreward.actor.compute.forward import token_multiple
from megatron_coreward.actor.model.build import transformer_config
from megatron_coreward.actor.model.layers import modules_of
from megatron_coreward.actor.model.precision import fp8_settings, megatron_settings
from megatron_coreward.actor.parallel import Layout
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.config.precision import RECIPES
from megatron_coreward.config.schema import Fp8Config, ModelConfig, ParallelConfig
from tests.distributed.actor.actor_runs import Case, random_responses
from tests.distributed.actor.te_runs import STAND_INS, both_modules, exported, walk_with_engine
from tests.distributed.checkpoint.checkpoint_runs import VOCAB
from tests.oracles import actor as oracle
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

ENGINE = "transformer_engine"
TP2, EP2 = ParallelConfig(tensor=2, sequence=True), ParallelConfig(expert=2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), vocab=VOCAB, kv_heads=2, layers=3)


def built(model: Path, fp8: Fp8Config, tensor: int = 1) -> TransformerConfig:
    """As load_model does it."""
    layout = Layout(0, tensor, 0, 1, 0, 1, sequence_parallel=tensor > 1)
    settings = megatron_settings(ModelConfig(), fp8, ENGINE)
    return transformer_config(read_shape(model), layout, torch.bfloat16, precision=settings)


@pytest.mark.parametrize("form", ["hybrid", "e4m3"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(model: Path, recipe: str, form: str) -> None:
    first_last = 0 if recipe == "delayed" else 1
    params = recipe != "mxfp8"
    config = built(model, Fp8Config(form, recipe, params, first_last, amax_history=16))
    assert (config.fp8, config.fp8_recipe, config.fp8_param) == (form, recipe, params)
    assert config.first_last_layers_bf16 == bool(first_last)
    assert (config.fp8_amax_history_len, config.fp8_amax_compute_algo) == (16, "max")
    assert config.transformer_impl == ENGINE and config.bf16 and not config.deterministic_mode


@pytest.mark.parametrize(
    ("fp8", "changes", "message"),
    [
        (
            Fp8Config("hybrid", "delayed", first_last_bf16=1),
            {},
            "Delayed scaling does not support first / last",
        ),
        (Fp8Config("hybrid", "tensorwise", first_last_bf16=4), {}, "num_layers_at_start_in_bf16 .4. must be"),
        (Fp8Config("hybrid", "tensorwise", params=True), {"fp8": None}, "fp8_param must be used together"),
        (Fp8Config("hybrid", "tensorwise"), {"fp4": "e2m1"}, "fp4 and fp8 cannot be used simultaneously"),
        (
            Fp8Config("hybrid", "tensorwise"),
            {"fp8_recipe": "custom"},
            "fp8_quantizer_factory must be provided",
        ),
    ],
)
def test_megatron_refuses_too(fp8: Fp8Config, changes: dict[str, Any], message: str) -> None:
    sizes = {"num_layers": 3, "hidden_size": 64, "num_attention_heads": 2}
    with pytest.raises(ValueError, match=message):
        TransformerConfig(**sizes, **(fp8_settings(fp8) | changes))


@pytest.mark.parametrize("recipe", RECIPES)
def test_tokens_are_padded(model: Path, recipe: str) -> None:
    fp8 = Fp8Config("hybrid", recipe)
    assert RECIPES[recipe].multiple == get_fp8_align_size(recipe)
    assert token_multiple(built(model, fp8)) == RECIPES[recipe].multiple
    assert token_multiple(built(model, fp8, tensor=2)) == 2 * RECIPES[recipe].multiple
    assert token_multiple(built(model, Fp8Config(), tensor=2)) == 2
    assert token_multiple(built(model, Fp8Config())) == 1


def test_no_silent_fallback(model: Path) -> None:
    """Without the engine there is no model that would compute in another precision than asked for."""
    with pytest.raises(AssertionError, match="only where it is"):
        modules_of(built(model, Fp8Config("hybrid")))


@pytest.mark.parametrize("standin", STAND_INS, ids=lambda standin: standin.__name__)
def test_standins_take_what_the_engine_takes(standin: type) -> None:
    core = find_spec("megatron.core")
    assert core is not None and core.submodule_search_locations
    source = Path(core.submodule_search_locations[0]) / "extensions/transformer_engine.py"
    classes = {n.name: n for n in ast.walk(ast.parse(source.read_text())) if isinstance(n, ast.ClassDef)}
    methods = {n.name: n for n in classes[standin.__name__].body if isinstance(n, ast.FunctionDef)}
    for name in {"__new__", "__init__", "forward"} & methods.keys():
        given = methods[name].args
        wanted = [argument.arg for argument in [*given.args, *given.kwonlyargs]]
        assert list(inspect.signature(vars(standin)[name]).parameters) == wanted, name


@pytest.mark.parametrize("recipe", ["tensorwise", "mxfp8"])
def test_engine_modules_are_used_as_local_ones(model: Path, tmp_path: Path, recipe: str) -> None:
    """Same names, results and checkpoints; sequences as DotProductAttention wants them."""
    fp8 = Fp8Config("hybrid", recipe, first_last_bf16=1)
    for local, engine in run_ranks(2, both_modules, model, tmp_path, fp8, TP2):
        assert local.names == engine.names
        torch.testing.assert_close(engine.log_probs, local.log_probs, atol=1e-5, rtol=0)
        for other in (engine.trained, local.resumed, engine.resumed):
            torch.testing.assert_close(other, local.trained, atol=1e-3, rtol=0)
        assert not local.packed, "local modules are ours"
        assert engine.deterministic == {True}
        for packed in engine.packed:
            assert packed.qkv_format == "thd"
            assert packed.cu_seqlens_q.dtype == packed.cu_seqlens_kv.dtype == torch.int32
            assert packed.max_seqlen_q == int(packed.cu_seqlens_q.diff().max())
            assert packed.max_seqlen_kv == int(packed.cu_seqlens_kv.diff().max())
        layers = [engine.packed[i : i + 2] for i in range(0, len(engine.packed), 2)]
        assert all(b.max_seqlen_kv > b.max_seqlen_q for _, b in layers), "trunks, then branches"
        for trunks, branches in layers:
            tokens = int(trunks.cu_seqlens_q[-1] + branches.cu_seqlens_q[-1])
            assert tokens % (2 * RECIPES[recipe].multiple) == 0


def test_grouped_experts_are_those_of_the_local_modules(tmp_path: Path) -> None:
    """EP2: same log-probs, updates and exported weights; a checkpoint of each is resumed by the other."""
    model = tiny_model(tmp_path / "model", family="qwen3_moe", vocab=VOCAB, kv_heads=2, layers=2)
    for local, engine in run_ranks(2, both_modules, model, tmp_path, Fp8Config(), EP2, exported):
        assert any("experts.local_experts.0.linear_fc1.weight" in name for name in local.names)
        assert any("experts.linear_fc1.weight0" in name for name in engine.names)
        torch.testing.assert_close(engine.log_probs, local.log_probs, atol=1e-5, rtol=0)
        for other in (engine.trained, local.resumed, engine.resumed):
            torch.testing.assert_close(other, local.trained, atol=1e-3, rtol=0)


@pytest.mark.parametrize("distributed", [False, True], ids=["plain", "distributed"])
def test_grouped_experts_have_the_loss_and_gradients_of_local_ones(tmp_path: Path, distributed: bool) -> None:
    """EP2. Under the distributed optimizer a rank has the sums of its own share of the gradients only."""
    model = tiny_model(tmp_path / "model", family="qwen3_moe", vocab=VOCAB, kv_heads=2, layers=2)
    reference = oracle.perturbed(model, tmp_path / "reference", scale=0.2, seed=2)
    drawn = random_responses(seed=3, pairs=3, samples=2, vocab=VOCAB)
    options = {"expert": 2, "budget": 100, "on_policy": True, "distributed": distributed}
    case = Case(model, reference, drawn, oracle.Settings(), **options)
    cases = [replace(case, modules=modules) for modules in ("local", ENGINE)]
    local, engine = run_ranks(2, walk_with_engine, cases, timeout_s=120)[0]
    gaps = oracle.differences(engine.training, local.training)
    assert engine.loss == pytest.approx(local.loss, rel=1e-5) and abs(local.loss) > 1e-3
    assert engine.replica_gap == local.replica_gap == 0
    assert gaps["log_probs"] <= 4e-5 and gaps["grad_norm"] <= 2e-5 and gaps["changes"] <= 5e-3, gaps
    if not distributed:
        assert gaps["gradients"] <= 4e-5, gaps
