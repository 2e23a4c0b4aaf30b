"""Every bad input that a configuration shows gives one clear error before anything is built."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import layers_per_stage
from megatron_coreward.config.schema import Config
from megatron_coreward.families.registry import FAMILIES
from megatron_coreward.preflight.checks import check_profile_steps, validate

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}
QWEN2 = LLAMA | {"architectures": ["Qwen2ForCausalLM"]}
QWEN3 = LLAMA | {"architectures": ["Qwen3ForCausalLM"], "head_dim": 32}


def write_model(folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").touch()
    (folder / "tokenizer.json").touch()
    return folder


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """A valid configuration on a small Llama, with overrides."""
    model = write_model(tmp_path / "model", LLAMA)
    base = [f"model.path={model}", f"run.output_dir={tmp_path / 'run'}", "data.source=synthetic"]
    return lambda *overrides: load_config([], [*base, *overrides])


def refused(config: Config, message: str, world_size: int = 1) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        validate(config, world_size)
    assert "\n" not in str(caught.value), "one line"


def test_valid(load: Callable[..., Config], tmp_path: Path) -> None:
    shape = validate(load(), 1)
    assert (shape.layers, shape.hidden, shape.heads, shape.kv_heads, shape.head_dim) == (4, 128, 4, 2, 32)
    assert (shape.vocab, shape.intermediate, shape.tied, shape.max_positions) == (300, 192, False, 4096)
    assert shape.folder == tmp_path / "model"
    assert not (tmp_path / "run").exists(), "validation writes nothing"


def test_valid_layouts(load: Callable[..., Config]) -> None:
    validate(load("parallel.tensor=2", "parallel.pipeline=2", "parallel.sequence=true"), 8)
    validate(load("rollout.tensor_parallel_size=4"), 4)  # 2 key/value heads on 4 ranks: vLLM replicates
    validate(load("parallel.tensor=4"), 4)  # Megatron gathers
    validate(load("parallel.pipeline=3", "data.batch_pairs=12"), 3)  # 4 layers over 3 stages


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.min_lr=1", "optimizer.min_lr is 1, but must not exceed optimizer.lr (3e-06)."),
        (
            "run.profile_steps=3-",
            "run.profile_steps is '3-', but must be steps from 1 on and ranges of them, as in 2,10-12",
        ),
        ("parallel.sequence=true", "parallel.sequence is true, but needs parallel.tensor above 1."),
    ],
)
def test_values(load: Callable[..., Config], override: str, message: str) -> None:
    refused(load(override), message)


def test_steps_to_profile_are_steps_of_the_run(load: Callable[..., Config]) -> None:
    validate(load("run.profile_steps=4", "run.steps=4"), 1)
    config = load("run.profile_steps=2,4-5")  # its steps are known when the data is read
    message = "run.profile_steps is '2,4-5', but the run ends after step 4."
    refused(load("run.profile_steps=2,4-5", "run.steps=4"), message)
    validate(config, 1)
    check_profile_steps(config, 5)
    with pytest.raises(ValueError, match=re.escape(message)):
        check_profile_steps(config, 4)


@pytest.mark.parametrize(
    ("overrides", "world_size", "message"),
    [
        (["parallel.tensor=2"], 3, "3 ranks, but parallel.tensor=2 x parallel.pipeline=1 = 2 must divide"),
        (["parallel.tensor=2", "parallel.pipeline=2"], 2, "x parallel.pipeline=2 = 4 must divide"),
        (["rollout.tensor_parallel_size=2"], 3, "tensor_parallel_size is 2, but must divide the 3 ranks"),
        (["data.batch_pairs=3"], 2, "data.batch_pairs is 3, but must be a multiple of the data-parallel"),
        (
            ["data.batch_pairs=1", "parallel.tensor=4"],
            4,
            "data.batch_pairs is 1, so 2 groups (2 view(s) a pair), but that must be a multiple of the 4",
        ),
        (["parallel.tensor=3"], 3, "parallel.tensor is 3, but must divide the model's 4 attention heads"),
        (["parallel.pipeline=6"], 6, "parallel.pipeline is 6, but must not exceed the model's 4 layers."),
        (
            ["rollout.tensor_parallel_size=3"],
            3,
            "rollout.tensor_parallel_size is 3, but must divide the model's 4 attention heads",
        ),
        (
            ["data.max_prompt_tokens=1025"],
            1,
            "data.max_prompt_tokens=1025 + rollout.max_response_tokens=3072 = 4097 tokens, but the model's "
            "context is 4096",
        ),
    ],
)
def test_layout(load: Callable[..., Config], overrides: list[str], world_size: int, message: str) -> None:
    refused(load("data.batch_pairs=12", *overrides), message, world_size)


def test_rollout_key_value_heads(load: Callable[..., Config], tmp_path: Path) -> None:
    sizes = LLAMA | {"num_attention_heads": 12, "num_key_value_heads": 6, "hidden_size": 384}
    write_model(tmp_path / "model", sizes)
    refused(load("rollout.tensor_parallel_size=4"), "6 key/value heads or be a multiple of them", 4)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "tensor", "message"),
    [
        (9, 3, 2, "parallel.tensor is 2, but must divide the model's 9 attention heads"),
        (9, 3, 4, "parallel.tensor is 4, but must divide the model's 9 attention heads"),
        (12, 3, 2, "parallel.tensor is 2, but must divide the model's 3 key/value heads or be a multiple"),
        (3, 1, 3, "parallel.tensor is 3, but must divide the 320 rows of the model's fused projection"),
        (9, 3, 3, ""),
    ],
)
def test_head_counts(
    load: Callable[..., Config], tmp_path: Path, heads: int, kv_heads: int, tensor: int, message: str
) -> None:
    sizes = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 64}
    write_model(tmp_path / "model", LLAMA | sizes)
    config = load(f"parallel.tensor={tensor}", "data.batch_pairs=12")
    if message:
        refused(config, message, tensor)
    else:
        validate(config, tensor)


def test_layers_per_stage() -> None:
    assert layers_per_stage(4, 2) == [2, 2]
    assert layers_per_stage(5, 2) == [3, 2]
    assert layers_per_stage(7, 4) == [2, 2, 2, 1]
    assert layers_per_stage(11, 8) == [2, 2, 2, 1, 1, 1, 1, 1]


def test_data_files(load: Callable[..., Config], tmp_path: Path) -> None:
    refused(load("data.source=parquet"), "data.original is empty.")
    missing = str(tmp_path / "gone.parquet")
    refused(load("data.source=parquet", f"data.original={missing}"), f"data.original is {missing!r}")
    present = tmp_path / "here.parquet"
    present.touch()
    files = ["data.source=parquet", f"data.original={present}"]
    hint = "but there is no such file. Leave it empty if data.original holds both wordings."
    refused(load(*files, f"data.rephrased={missing}"), f"data.rephrased is {missing!r}, {hint}")
    probe = ["monitor.every=5", f"monitor.original={present}", f"monitor.rephrased={missing}"]
    hint = hint.replace("data.original", "monitor.original")
    refused(load(*probe), f"monitor.rephrased is {missing!r}, {hint}")
    refused(load(f"evaluation.file={missing}"), f"evaluation.file is {missing!r}, but there is no such file")
    refused(load(f"data.original={present}"), "data.source=synthetic reads no files")
    validate(load("data.synthetic_task=wordings", "evaluation.synthetic_split=test"), 1)
    refused(load("evaluation.synthetic_split=test", f"evaluation.file={present}"), "evaluation asks no synth")
    refused(load(*files, "evaluation.synthetic_split=test"), "evaluation.synthetic_split is test, but")
    refused(load(*files, "data.synthetic_task=wordings"), "data.synthetic_task is wordings, but data.source")
    text = tmp_path / "questions.txt"
    text.touch()
    refused(load(f"evaluation.file={text}"), "but must end in one of .parquet, .json, .jsonl")


def test_existing_run(load: Callable[..., Config], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    validate(load(), 1)  # an empty folder is no run
    for mark in ("metrics.jsonl", "config.yaml", "checkpoints"):
        (run / mark).mkdir()
        refused(load(), f"which holds a run already ({mark}). Set run.resume=true to go on with it")
        (run / mark).rmdir()


def test_auto_resume_takes_a_folder_as_it_is(load: Callable[..., Config], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for _ in range(2):
        validate(load("run.auto_resume=true", f"run.output_dir={folder}"), 1)
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("")


def test_resume(load: Callable[..., Config], tmp_path: Path) -> None:
    checkpoints = tmp_path / "run" / "checkpoints"
    refused(load("run.resume=true"), f"run.resume is true, but {checkpoints} holds no checkpoint.")
    checkpoints.mkdir(parents=True)
    refused(load("run.resume=true"), f"run.resume is true, but {checkpoints} holds no checkpoint.")
    (checkpoints / "step_000001").mkdir()
    validate(load("run.resume=true"), 1)


def test_unwritable_output(load: Callable[..., Config], tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.touch()
    refused(load(f"run.output_dir={blocker / 'run'}"), f"{blocker} cannot be written to")
    refused(load("run.output_dir=/proc/megatron_coreward/run"), "/proc cannot be written to")
    if os.geteuid():
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o500)
        refused(load(f"run.output_dir={closed / 'run'}"), f"{closed} cannot be written to")


def test_model_folder(load: Callable[..., Config], tmp_path: Path) -> None:
    refused(load(f"model.path={tmp_path / 'gone'}"), "but there is no such folder")
    refused(load("model.path=toy"), "model.path is 'toy', but there is no such folder")
    refused(load("model.path=./no/toy"), "model.path is './no/toy', but there is no such folder")
    refused(load(f"model.path={tmp_path / 'model' / 'config.json'}"), "a file. Give the folder")
    (tmp_path / "empty").mkdir()
    refused(load(f"model.path={tmp_path / 'empty'}"), "config.json is missing. model.path must be a folder")


@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_corrupt_config_json(load: Callable[..., Config], tmp_path: Path, text: str) -> None:
    (tmp_path / "model" / "config.json").write_text(text)
    refused(load(), "config.json (model.path)")


def test_weights_and_tokenizer(load: Callable[..., Config], tmp_path: Path) -> None:
    model = tmp_path / "model"
    (model / "model.safetensors").unlink()
    refused(load(), "model.path must hold *.safetensors, but")
    (model / "pytorch_model.bin").touch()
    refused(load(), "pickled weights (*.bin, *.pt) can run code and are not read")
    (model / "model-00001-of-00002.safetensors").touch()
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    refused(load(), "names files that are missing: model-00002-of-00002.safetensors")
    (model / "model-00002-of-00002.safetensors").touch()
    validate(load(), 1)
    (model / "tokenizer.json").unlink()
    refused(load(), "has no tokenizer")


def test_architecture(load: Callable[..., Config], tmp_path: Path) -> None:
    for names in (["GemmaForCausalLM"], [], None):
        write_model(tmp_path / "model", LLAMA | {"architectures": names})
        refused(load(), f"Supported: {', '.join(FAMILIES)}.")


def test_remote_code(load: Callable[..., Config], tmp_path: Path) -> None:
    write_model(tmp_path / "model", LLAMA | {"auto_map": {"AutoModelForCausalLM": "modeling.Mine"}})
    refused(load(), "(auto_map in config.json). If you trust it, set model.trust_remote_code=true")
    validate(load("model.trust_remote_code=true"), 1)


@pytest.mark.parametrize(
    ("base", "extra"),
    [
        (LLAMA, {"hidden_act": "gelu"}),
        (LLAMA, {"attention_bias": True}),
        (QWEN3, {"attention_bias": True}),
        (LLAMA, {"mlp_bias": True}),
        (QWEN2, {"use_sliding_window": True}),
        (QWEN2, {"layer_types": ["full_attention", "sliding_attention"]}),
        (LLAMA, {"partial_rotary_factor": 0.5}),
        (LLAMA, {"quantization_config": {"bits": 4}}),
    ],
)
def test_unsupported_feature(
    load: Callable[..., Config], tmp_path: Path, base: dict[str, Any], extra: dict[str, Any]
) -> None:
    write_model(tmp_path / "model", base | extra)
    [(key, value)] = extra.items()
    refused(load(), f"sets {key}={value!r}, which is not supported for {base['architectures'][0]}")


@pytest.mark.parametrize("key", ["rope_parameters", "rope_scaling"])
def test_rope(load: Callable[..., Config], tmp_path: Path, key: str) -> None:
    """Both spellings: rope_parameters (transformers 5) and rope_scaling (before, with `type` long ago)."""
    for rope in ({"rope_type": "yarn", "factor": 2.0}, {"type": "linear", "factor": 2.0}):
        write_model(tmp_path / "model", LLAMA | {key: rope})
        refused(load(), f"RoPE type {rope.get('rope_type', rope.get('type'))!r}; supported: default, llama3.")
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    for rope in (llama3, {"rope_type": "default", "rope_theta": 1e4}, None):
        write_model(tmp_path / "model", LLAMA | {key: rope})
        validate(load(), 1)
    write_model(tmp_path / "model", LLAMA | {key: {"rope_type": "llama3", "factor": 8.0}})
    refused(load(), "low_freq_factor is None, but must be a positive number.")
    write_model(tmp_path / "model", LLAMA | {key: {"full_attention": llama3}})
    refused(load(), "which is not supported for LlamaForCausalLM")
    write_model(tmp_path / "model", LLAMA | {key: {"rope_type": "default", "partial_rotary_factor": 0.25}})
    refused(load(), "sets partial_rotary_factor=0.25")


@pytest.mark.parametrize("key", ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size"])
def test_sizes(load: Callable[..., Config], tmp_path: Path, key: str) -> None:
    for bad in (None, 0, "4", 2.5):
        write_model(tmp_path / "model", LLAMA | {key: bad})
        refused(load(), f"{key} is {bad!r}, but must be a positive integer")


def test_key_value_heads_must_divide_heads(load: Callable[..., Config], tmp_path: Path) -> None:
    write_model(tmp_path / "model", LLAMA | {"num_key_value_heads": 3})
    refused(load(), "num_attention_heads=4 is no multiple of num_key_value_heads=3")


@pytest.mark.parametrize("architecture", sorted(FAMILIES))
def test_defaults_are_those_of_transformers(
    load: Callable[..., Config], tmp_path: Path, architecture: str
) -> None:
    """Keys that config.json leaves out mean the same to us and to transformers."""
    from transformers import AutoConfig

    sizes = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"}
    model_type = architecture.removesuffix("ForCausalLM").lower().replace("moe", "_moe")
    sizes |= {"architectures": [architecture], "model_type": model_type}
    if FAMILIES[architecture].experts:
        sizes |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    model = write_model(tmp_path / "model", sizes)
    theirs = AutoConfig.from_pretrained(model)
    ours = validate(load("rollout.max_response_tokens=8"), 1)
    assert ours.max_positions == theirs.max_position_embeddings
    assert ours.tied == theirs.tie_word_embeddings
    assert ours.norm_eps == theirs.rms_norm_eps
    assert ours.rope_theta == theirs.rope_parameters["rope_theta"]
    assert ours.norm_topk_prob == theirs.to_dict().get("norm_topk_prob", False)
    head_dim = theirs.to_dict().get("head_dim") or theirs.hidden_size // theirs.num_attention_heads
    assert ours.head_dim == head_dim


def test_hub_id_is_fetched(
    load: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    asked = []

    def fetch(name: str, allow_patterns: list[str]) -> str:
        asked.append(name)
        assert not any(pattern.endswith((".bin", ".py", "*")) for pattern in allow_patterns)
        return str(tmp_path / "model")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert validate(load("model.path=owner/name"), 1).folder == tmp_path / "model"
    assert asked == ["owner/name"]


def test_hub_offline(tmp_path: Path) -> None:
    """The real client without a network: one clear error, at once."""
    program = """
import sys
from megatron_coreward.families.registry import FAMILIES
from megatron_coreward.preflight.checks import validate
from megatron_coreward.config.loading import load_config

names = ["model.path=owner/name", f"run.output_dir={sys.argv[1]}", "data.source=synthetic"]
try:
    validate(load_config([], names), 1)
except ValueError as error:
    sys.stdout.write(str(error))
"""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, timeout=60)
    assert "model.path is 'owner/name': no such folder" in done.stdout
    assert "as a hub id it could not be fetched" in done.stdout
    assert "\n" not in done.stdout
