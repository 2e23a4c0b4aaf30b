"""What config.json of the start model says, checked against what the actor implements.

A model whose config asks for something the actor does not compute is refused: a run that silently trains
another function than the one vLLM samples from is the worst outcome. Imports no torch and no transformers.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_coreward.config.schema import ModelConfig

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "tokenizer.model"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_ROPE_TYPES = ("default", "llama3")


@dataclass(frozen=True)
class Family:
    """An architecture's fixed features, and the defaults transformers fills in for absent keys."""

    qkv_bias: bool
    qk_norm: bool
    head_dim: int | None
    max_positions: int
    experts: bool = False


FAMILIES = {
    "LlamaForCausalLM": Family(qkv_bias=False, qk_norm=False, head_dim=None, max_positions=2048),
    "Qwen2ForCausalLM": Family(qkv_bias=True, qk_norm=False, head_dim=None, max_positions=32768),
    "Qwen3ForCausalLM": Family(qkv_bias=False, qk_norm=True, head_dim=128, max_positions=32768),
    "Qwen3MoeForCausalLM": Family(
        qkv_bias=False, qk_norm=True, head_dim=None, max_positions=32768, experts=True
    ),
}
"""Supported architectures by their name in config.json."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the start model. `folder` holds its files, on this machine."""

    folder: Path
    architecture: str
    layers: int
    hidden: int
    intermediate: int
    """Of the MLP, or of one expert."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    max_positions: int
    experts: int = 0
    """Per layer, in a Mixture of Experts."""
    active_experts: int = 0
    """Those that a token goes to."""

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    @property
    def active_intermediate(self) -> int:
        """What a token goes through."""
        return self.intermediate * max(self.active_experts, 1)


def layers_per_stage(layers: int, stages: int) -> list[int]:
    """How the actor divides layers over pipeline stages: evenly, and the first take one each of a rest."""
    return [layers // stages + (stage < layers % stages) for stage in range(stages)]


def read_model_shape(model: ModelConfig) -> ModelShape:
    """Finds the folder of `model.path` (a hub id is fetched once) and reads its config.json.

    Raises:
        ValueError: no such folder or hub model, files missing or corrupt, architecture or feature not
            supported, remote code wanted while model.trust_remote_code is false.
    """
    folder = find_folder(model.path)
    shape = read_shape(folder, model.trust_remote_code)
    _check_files(folder)
    return shape


def read_shape(folder: Path, trust_remote_code: bool = False) -> ModelShape:
    """What `folder`/config.json says; no other file needs to be there. Raises ValueError as above."""
    settings = _read_json(folder / "config.json")
    if "auto_map" in settings and not trust_remote_code:
        raise ValueError(
            f"The model in {folder} wants to run its own Python code (auto_map in config.json). If you trust "
            f"it, set model.trust_remote_code=true; else choose another model.path."
        )
    architecture = _architecture(settings, folder)
    _check_features(settings, architecture, folder)
    return _shape(settings, architecture, folder)


def find_folder(path: str) -> Path:
    """The folder of `model.path`; a hub id is fetched once. Raises ValueError if there is none."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        raise ValueError(f"model.path is {path!r}, a file. Give the folder that holds config.json.")
    if not _HUB_ID.fullmatch(path) or local.parent.is_dir():
        raise ValueError(f"model.path is {path!r}, but there is no such folder (a hub id reads owner/name).")
    from huggingface_hub import snapshot_download  # only a hub id needs it

    try:
        return Path(snapshot_download(path, allow_patterns=_HUB_FILES))
    except (OSError, ValueError) as error:  # every failure of the hub: network, unknown name, no permission
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"model.path is {path!r}: no such folder, and as a hub id it could not be fetched ({reason}). "
            f"Give a folder, or check the id and the network."
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"{path} is missing. model.path must be a folder in Hugging Face format.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} (model.path) cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} (model.path) holds no JSON object.")
    return content


def _architecture(settings: dict[str, Any], folder: Path) -> str:
    names = settings.get("architectures") or ["none"]
    if names[0] not in FAMILIES:
        raise ValueError(
            f"The model in {folder} (model.path) has the unsupported architecture {names[0]}. "
            f"Supported: {', '.join(FAMILIES)}."
        )
    return names[0]


def _check_features(settings: dict[str, Any], architecture: str, folder: Path) -> None:
    """Refuses settings that change the function the model computes and that the actor does not know."""
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}  # transformers 5, or before
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    partial = rope.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1.0))
    sliding = "sliding_attention" in (settings.get("layer_types") or [])
    unsupported = {
        "hidden_act": settings.get("hidden_act", "silu") != "silu",
        "attention_bias": architecture != "Qwen2ForCausalLM" and bool(settings.get("attention_bias")),
        "mlp_bias": bool(settings.get("mlp_bias")),
        "use_sliding_window": bool(settings.get("use_sliding_window")),
        "layer_types": sliding,
        "partial_rotary_factor": partial not in (None, 1, 1.0),
        "mlp_only_layers": bool(settings.get("mlp_only_layers")),
        "decoder_sparse_step": settings.get("decoder_sparse_step", 1) != 1,
        "quantization_config": bool(settings.get("quantization_config")),
    }
    for key, is_unsupported in unsupported.items():
        if is_unsupported:
            value = settings.get(key, partial)
            raise ValueError(
                f"config.json of {folder} (model.path) sets {key}={value!r}, which is not supported for "
                f"{architecture}. Choose another model."
            )
    if rope_type not in _ROPE_TYPES:
        raise ValueError(
            f"config.json of {folder} (model.path) has RoPE type {rope_type!r}; "
            f"supported: {', '.join(_ROPE_TYPES)}."
        )


def _check_files(folder: Path) -> None:
    weights = {path.name for path in folder.glob("*.safetensors")}
    if not weights:
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt*"))
        reason = "; pickled weights (*.bin, *.pt) can run code and are not read" if pickled else ""
        raise ValueError(f"model.path must hold *.safetensors, but {folder} has none{reason}.")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        missing = sorted(set(_read_json(index).get("weight_map", {}).values()) - weights)
        if missing:
            raise ValueError(f"{index} (model.path) names files that are missing: {', '.join(missing)}.")
    if not any((folder / name).is_file() for name in _TOKENIZER_FILES):
        raise ValueError(f"{folder} (model.path) has no tokenizer, one of {', '.join(_TOKENIZER_FILES)}.")


def _shape(settings: dict[str, Any], architecture: str, folder: Path) -> ModelShape:
    def size(key: str, default: int | None = None) -> int:
        value = settings.get(key)
        value = default if value is None else value
        if not isinstance(value, int) or value < 1:
            raise ValueError(
                f"config.json of {folder} (model.path): {key} is {value!r}, but must be a positive integer."
            )
        return value

    family, heads, hidden = FAMILIES[architecture], size("num_attention_heads"), size("hidden_size")
    is_llama = architecture == "LlamaForCausalLM"
    kv_heads = size("num_key_value_heads", default=heads if is_llama else None)
    if heads % kv_heads:
        raise ValueError(
            f"config.json of {folder} (model.path): num_attention_heads={heads} is no multiple of "
            f"num_key_value_heads={kv_heads}."
        )
    experts = (
        "num_local_experts" if "num_local_experts" in settings else "num_experts"
    )  # transformers 5, or before
    return ModelShape(
        folder=folder,
        architecture=architecture,
        layers=size("num_hidden_layers"),
        hidden=hidden,
        intermediate=size("moe_intermediate_size" if family.experts else "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=size("head_dim", default=family.head_dim or hidden // heads),
        vocab=size("vocab_size"),
        tied=bool(settings.get("tie_word_embeddings", False)),
        max_positions=size("max_position_embeddings", default=family.max_positions),
        experts=size(experts) if family.experts else 0,
        active_experts=size("num_experts_per_tok") if family.experts else 0,
    )
