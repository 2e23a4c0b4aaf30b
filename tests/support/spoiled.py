"""Model folders that are spoiled in one way each, and the error that each must give."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from tests.support.models import byte_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
Edit = Callable[[Path], None]


def set_json(name: str, **values: Any) -> Edit:
    def edit(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | values))

    return edit


def set_weights(**changed: torch.Tensor | None) -> Edit:
    """Tensors by their names with __ for a dot; None takes one away."""

    def edit(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        for name, tensor in changed.items():
            tensors.pop(name.replace("__", "."), None)
            if tensor is not None:
                tensors[name.replace("__", ".")] = tensor
        save_file(tensors, folder / WEIGHTS)

    return edit


def write(name: str, text: str = "") -> Edit:
    return lambda folder: (folder / name).write_text(text) and None


def both_layouts(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "model-00001-of-00001.safetensors")
    names = dict.fromkeys(load_file(folder / WEIGHTS), "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def sharded_pointer(folder: Path) -> None:
    both_layouts(folder)
    (folder / WEIGHTS).unlink()
    (folder / "model-00001-of-00001.safetensors").write_text(POINTER)


def other_tokenizer(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "<|other|>"})
    tokenizer.add_tokens([f"<{i}>" for i in range(60)])
    tokenizer.add_special_tokens({"eos_token": "<|last|>"})
    tokenizer.save_pretrained(folder)


SPOILED: dict[str, tuple[Edit, str]] = {
    "rope: default and yarn": (
        set_json(
            "config.json",
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            rope_scaling={"rope_type": "yarn", "factor": 4.0},
        ),
        "RoPE type 'yarn'; supported: default, llama3.",
    ),
    "rope: default and linear": (
        set_json(
            "config.json",
            rope_parameters={"rope_type": "default", "rope_theta": 1e4},
            rope_scaling={"type": "linear", "factor": 2.0},
        ),
        "RoPE type 'linear'",
    ),
    "rope: yarn behind default": (
        set_json("config.json", rope_parameters={"rope_type": "yarn"}, rope_scaling={"rope_type": "default"}),
        "RoPE type 'yarn'",
    ),
    "rope: two that contradict": (
        set_json("config.json", rope_parameters=LLAMA3, rope_scaling={"rope_type": "default"}),
        "which contradict each other",
    ),
    "rope: by layer": (
        set_json("config.json", rope_parameters={"full_attention": {"rope_type": "default"}}),
        "sets rope_parameters={'full_attention'",
    ),
    "rope: by layer, hidden": (
        set_json("config.json", rope_parameters={"a": {}}, rope_scaling={"rope_type": "default"}),
        "sets rope_parameters={'a'",
    ),
    "rope: a text": (set_json("config.json", rope_scaling="yarn"), "rope_scaling is 'yarn', but must be an"),
    "a number as text": (set_json("config.json", rms_norm_eps="1e-6"), "rms_norm_eps is '1e-6', but must be"),
    "a number that is none": (set_json("config.json", rms_norm_eps=float("nan")), "rms_norm_eps is nan, but"),
    "a size as a flag": (set_json("config.json", num_hidden_layers=True), "num_hidden_layers is True, but"),
    "a flag as text": (set_json("config.json", tie_word_embeddings="false"), "must be true or false"),
    "kind that only transformers minds": (
        set_json("config.json", initializer_range="0.02"),
        "is refused by transformers: ",
    ),
    "no model_type": (set_json("config.json", model_type=None), "is refused by transformers: "),
    "more layers": (
        set_json("config.json", num_hidden_layers=3, layer_types=["full_attention"] * 3),
        "has no tensor model.layers.2.input_layernorm.weight",
    ),
    "fewer layers": (
        set_json("config.json", num_hidden_layers=1, layer_types=["full_attention"]),
        "does not know: model.layers.1.",
    ),
    "other width": (set_json("config.json", intermediate_size=64), "has shape [96, 64] where config.json"),
    "other vocabulary": (set_json("config.json", vocab_size=320), "weights and config.json belong to diff"),
    "a tensor missing": (set_weights(model__norm__weight=None), "has no tensor model.norm.weight, which its"),
    "a tensor too many": (set_weights(model__more=torch.ones(2)), "does not know: model.more."),
    "another head": (set_weights(lm_head__weight=torch.ones(300, 64)), "but config.json ties them"),
    "quantised": (
        set_weights(model__norm__weight=torch.ones(64, dtype=torch.int8)),
        "is of type I8; weights may be F32, BF16, F16",
    ),
    "pointer: weights": (write(WEIGHTS, POINTER), "is a Git LFS pointer, not the file itself. Fetch it with"),
    "pointer: shard": (sharded_pointer, "00001-of-00001.safetensors (model.path) is a Git LFS pointer"),
    "pointer: config": (write("config.json", POINTER), "config.json (model.path) is a Git LFS pointer"),
    "pointer: tokenizer": (write("tokenizer.json", POINTER), "tokenizer.json (model.path) is a Git LFS poin"),
    "two layouts": (both_layouts, f"holds the weights twice, {WEIGHTS} and those of {INDEX} (model-00001"),
    "adapter beside": (
        write("adapter_model.safetensors", "x"),
        "holds a LoRA adapter (adapter_model.safetensors), which is not read. Merge it",
    ),
    "adapter's config beside": (
        write("adapter_config.json", '{"base_model_name_or_path": "owner/base"}'),
        "holds a LoRA adapter of owner/base (adapter_config.json)",
    ),
    "stop token": (
        set_json("generation_config.json", eos_token_id=99999),
        "is 99999, but 99999 is no token of the model's vocabulary: from 0 to 299",
    ),
    "stop token in a list": (
        set_json("generation_config.json", eos_token_id=[2, 300]),
        "is [2, 300], but 300 is no token",
    ),
    "stop token below 0": (set_json("generation_config.json", eos_token_id=[-1]), "-1 is no token of the"),
    "stop token as text": (set_json("generation_config.json", eos_token_id=["2"]), "'2' is no token of the"),
    "tokenizer of another model": (other_tokenizer, "ends a response with token 320, but the model's"),
    "template that is empty": (write("chat_template.jinja"), "model.path="),
    "template that is broken": (write("chat_template.jinja", "{% for %}"), "has a syntax error in line 1"),
    "template that loses the question": (write("chat_template.jinja", "{{ 'hello' }}"), "loses the question"),
    "tokenizer that is none": (write("tokenizer.json", "{}"), "no tokenizer could be loaded"),
    "tokenizer of an unknown kind": (
        write("tokenizer.json", '{"added_tokens": [], "model": {"type": "Own"}}'),
        "no tokenizer could be loaded (tokenizer.json: ",
    ),
}
