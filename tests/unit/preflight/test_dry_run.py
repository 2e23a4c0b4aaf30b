"""Estimates against hand calculations and against real transformers models, and the output of --dry-run."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.costs import (
    GIB,
    batch_arithmetic,
    count_parameters,
    count_parameters_per_rank,
    disk,
    kv_cache_tokens,
    memory_per_rank,
)
from megatron_coreward.preflight.dry_run import show
from megatron_coreward.preflight.files import free_space
from tests.support.models import tiny_model

SHAPE = ModelShape(
    folder=Path("model"),
    architecture="Qwen2ForCausalLM",
    layers=4,
    hidden=8,
    intermediate=16,
    heads=4,
    kv_heads=2,
    head_dim=2,
    vocab=11,
    tied=True,
    max_positions=64,
)
# By hand: QKV (4+2+2)*2*8 = 128 and its bias 16, output 64, MLP 3*8*16 = 384, two norms 16.
LAYER = 128 + 16 + 64 + 384 + 16
PARAMETERS = 11 * 8 + 4 * LAYER + 8


def load(*overrides: str) -> Config:
    return load_config([], ["model.path=x", "data.source=synthetic", *overrides])


def test_batch_arithmetic() -> None:
    config = load(
        "data.batch_pairs=12",
        "rollout.samples=8",
        "data.max_prompt_tokens=50",
        "rollout.max_response_tokens=200",
        "optimizer.micro_batch_tokens=600",
        "parallel.tensor=2",
        "algorithm.updates_per_batch=2",
    )
    batch = batch_arithmetic(config, world_size=4, pairs_in_data=100)
    assert (batch.responses, batch.data_parallel, batch.per_rank) == (192, 2, 96)
    assert (batch.replicas, batch.per_replica) == (4, 48)
    assert (batch.tokens_per_response, batch.micro_batches) == (250, 48)  # two full responses fit into 600
    assert (batch.steps_per_epoch, batch.steps, batch.optimizer_steps) == (8, 24, 48)


def test_responses_that_only_vote_are_drawn_but_not_trained_on() -> None:
    plain, voting = load("run.steps=3"), load("run.steps=3", "rollout.vote_samples=20")
    batches = [batch_arithmetic(config, world_size=2, pairs_in_data=200) for config in (plain, voting)]
    assert [(b.responses, b.per_rank) for b in batches] == [(2048, 1024)] * 2
    assert [(b.drawn, b.per_replica) for b in batches] == [(2048, 1024), (5120, 2560)]
    usage = [disk(plain, SHAPE, batch, "float32")["rollouts, at most"] for batch in batches]
    assert usage[1] == 2.5 * usage[0]


def test_batch_arithmetic_limits() -> None:
    config = load("data.batch_pairs=128", "run.steps=5", "optimizer.micro_batch_tokens=1")
    batch = batch_arithmetic(config, world_size=1, pairs_in_data=83)
    assert (batch.pairs, batch.steps_per_epoch, batch.steps) == (83, 1, 5)  # all of them
    assert batch.micro_batches == batch.per_rank == 83 * 2 * 8  # a response over the budget goes alone


def test_steps_agree_with_the_sampler() -> None:
    from megatron_coreward.data.sampler import PairSampler
    from megatron_coreward.types import QuestionPair

    for count in (5, 12, 29, 100):
        pairs = [QuestionPair(i, "a", "b", (1,), (2,)) for i in range(count)]
        batch = batch_arithmetic(load("data.batch_pairs=12"), 1, count)
        assert batch.steps_per_epoch == PairSampler(pairs, 12).steps_per_epoch


def test_pairs_that_were_not_read_are_planned_from_the_configuration(tmp_path: Path) -> None:
    out = io.StringIO()
    for overrides, pairs, planned in (
        (["data.synthetic_pairs=77"], 0, 77),
        (["data.source=parquet", "data.original=x", "data.batch_pairs=12"], 0, 12),
        (["data.source=parquet", "data.original=x", "data.limit=7"], 0, 7),
        (["data.source=parquet", "data.original=x", "data.limit=7"], 5, 5),
    ):
        config = load(f"run.output_dir={tmp_path}", *overrides)
        show(config, None, 1, Console(file=out, width=120), pairs=pairs, unread="model not read")
        text = out.getvalue()
        assert f"{planned} pairs / {min(planned, config.data.batch_pairs)} = 1" in text
        assert "Dry run: model not read" in text and "KV cache" not in text
        out.seek(0)
        out.truncate()


def test_parameters_by_hand() -> None:
    assert count_parameters(SHAPE) == PARAMETERS
    assert count_parameters_per_rank(SHAPE, tensor=1, pipeline=1) == PARAMETERS
    half_layer = (128 + 16 + 64 + 384) // 2 + 16
    # 11 tokens are padded to 12 over two ranks; the last stage has its own copy of the tied embedding.
    assert count_parameters_per_rank(SHAPE, tensor=2, pipeline=1) == 6 * 8 + 4 * half_layer + 8
    assert count_parameters_per_rank(SHAPE, tensor=2, pipeline=2) == 6 * 8 + 2 * half_layer + 8
    # Of 4 layers the first of three stages has 2; the last has the norm and one layer, which is less.
    assert count_parameters_per_rank(SHAPE, tensor=2, pipeline=3) == 6 * 8 + 2 * half_layer


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"])
def test_parameters_against_transformers(architecture: str, tied: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "vocab_size": 301,
        "head_dim": 16 if architecture == "Qwen3ForCausalLM" else 8,
        "tie_word_embeddings": tied,
    }
    family = architecture.removesuffix("ForCausalLM").lower()
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes))
    assert type(model).__name__ == architecture
    shape = ModelShape(Path("x"), architecture, 3, 48, 80, 6, 2, sizes["head_dim"], 301, tied, 64)
    assert count_parameters(shape) == sum(weight.numel() for weight in model.parameters())


def test_memory_by_hand() -> None:
    config = load("rollout.memory_gb=0.5", "parallel.tensor=2", "rollout.tensor_parallel_size=2")
    own = 6 * 8 + 4 * ((128 + 16 + 64 + 384) // 2 + 16) + 8
    single = memory_per_rank(config, SHAPE, "float32")
    assert single == {
        "weights": 4 * own,
        "gradients": 4 * own,
        "optimizer": 8 * own,
        "reference": 4 * own,
        "vLLM weights": 4 * PARAMETERS // 2,
        "KV cache": GIB // 2,
    }
    half = memory_per_rank(config, SHAPE, "bfloat16")
    assert (half["weights"], half["gradients"], half["optimizer"]) == (2 * own, 4 * own, 12 * own)
    assert memory_per_rank(load("algorithm.kl_coef=0"), SHAPE, "float32")["reference"] == 0


def test_kv_cache_by_hand() -> None:
    config = load("rollout.memory_gb=1")
    per_token = 2 * 4 * 2 * 2 * 4  # keys and values, layers, heads, head size, float32
    assert kv_cache_tokens(config, SHAPE, "float32") == GIB // per_token
    assert kv_cache_tokens(config, SHAPE, "bfloat16") == 2 * (GIB // per_token)
    config.rollout.tensor_parallel_size = 2
    assert kv_cache_tokens(config, SHAPE, "float32") == 2 * (GIB // per_token)


def test_disk_by_hand() -> None:
    config = load("run.steps=20", "checkpoint.every=5", "checkpoint.keep_last=2", "data.batch_pairs=4")
    batch = batch_arithmetic(config, 1, 100)
    usage = disk(config, SHAPE, batch, "float32")
    assert usage["one checkpoint"] == 12 * PARAMETERS
    assert usage["checkpoints kept"] == 3 * 12 * PARAMETERS
    assert usage["rollouts, at most"] == 20 * 64 * (512 + 3072) * 4
    assert usage["final export"] == 4 * PARAMETERS
    config.checkpoint.keep_last = 0
    assert disk(config, SHAPE, batch, "bfloat16")["checkpoints kept"] == 4 * 14 * PARAMETERS
    config.checkpoint.every, config.logging.rollouts, config.run.export_hf = 0, False, False
    usage = disk(config, SHAPE, batch, "float32")
    assert usage["checkpoints kept"] == 12 * PARAMETERS
    assert usage["rollouts, at most"] == usage["final export"] == 0


def test_show(tmp_path: Path) -> None:
    out = io.StringIO()
    folder = tmp_path / "run"
    config = load(f"run.output_dir={folder}", "data.batch_pairs=16", "data.system_prompt=[b] \\boxed{}")
    show(config, SHAPE, 2, Console(file=out, width=120))
    text = out.getvalue()
    for expected in (
        "batch_pairs: 16",
        "[b] \\boxed{}",
        "16 pairs x 2 views x 8 samples = 256",
        "256 / 2 = 128",
        "2,000 pairs / 16 = 125",
        f"{PARAMETERS:,}",
        "float32",
        "bfloat16",
        "KV cache",
        "2.0 GiB",
        "0.0 MiB",
        "nothing was built",
    ):
        assert expected in text, expected
    assert not (tmp_path / "run").exists()
    assert free_space(tmp_path / "run" / "deep") > 0


def test_show_one_dtype(tmp_path: Path) -> None:
    out = io.StringIO()
    config = load(f"run.output_dir={tmp_path}", "model.dtype=float32")
    show(config, SHAPE, 1, Console(file=out, width=120))
    assert "bfloat16" not in out.getvalue().partition("Batch")[2]


def test_dry_run_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from megatron_coreward.train import main

    model = tiny_model(tmp_path / "model")
    arguments = ["--dry-run", f"model.path={model}", f"run.output_dir={tmp_path / 'run'}"]
    arguments += ["data.source=synthetic"]
    assert main(arguments) == 0
    assert "nothing was built" in capsys.readouterr().out
    assert main([*arguments, "data.batch_pair=3"]) == 2
    assert "Did you mean data.batch_pairs?" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
