"""The start model as its config.json describes it, checked against what the actor implements.

Checks, planner and actor take a model's sizes from here and nowhere else. A config that asks for something
that the actor does not compute is refused: a run that silently trains another function than the one vLLM
samples from is the worst outcome. Imports no torch and no transformers.
"""

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_coreward.config.hf_files import read_index, read_json, refuse_pointer
from megatron_coreward.config.schema import ModelConfig
from megatron_coreward.families.mapping import Family
from megatron_coreward.families.registry import FAMILIES

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_SMALL_FILES = ["*.json", "*.jinja", "*.txt", "tokenizer.model"]
_HUB_FILES = [*_HUB_SMALL_FILES, "*.safetensors"]
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_ROPE_KEYS = ("rope_scaling", "rope_parameters")
"""The settings of RoPE by their name before transformers 5, which comes first there too, and since."""
_ROPE_TYPES = ("default", "llama3")
_OBJECTS, _LISTS = _ROPE_KEYS, ("architectures", "layer_types")
_FLAGS = ("tie_word_embeddings", "norm_topk_prob", "use_sliding_window", "attention_bias", "mlp_bias")
VLLM_VOCABULARY_MULTIPLE = 64
"""vLLM pads the vocabulary to a multiple of it before it divides the rows over tensor-parallel ranks."""


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the rotary embedding's long wavelengths, in config.json's words."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class ModelShape:
    """Sizes of the start model, and what else its layers compute with. `folder` holds its files.

    Absent keys of config.json have the values that transformers fills in.
    """

    folder: Path
    architecture: str
    layers: int
    hidden: int
    intermediate: int
    """Width of the MLP, or of one expert."""
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    max_positions: int
    experts: int = 0
    """Experts of a layer in a Mixture of Experts; 0: none."""
    active_experts: int = 0
    """Experts that a token goes to."""
    norm_topk_prob: bool = False
    """The weights of the active experts are normalised to a sum of 1."""
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: RopeScaling | None = None

    @property
    def family(self) -> Family:
        return FAMILIES[self.architecture]

    def padded_vocab(self, tensor: int) -> int:
        """The vocabulary as `tensor` tensor-parallel ranks hold it: padded to a multiple of their number."""
        return math.ceil(self.vocab / tensor) * tensor

    @property
    def active_intermediate(self) -> int:
        """The MLP's size for one token: that of all its experts together."""
        return self.intermediate * max(self.active_experts, 1)


def layers_per_stage(layers: int, stages: int) -> list[int]:
    """Layers of each pipeline stage: as many for all, and one more for each of the first if any are left."""
    return [layers // stages + (stage < layers % stages) for stage in range(stages)]


def read_model_shape(model: ModelConfig) -> ModelShape:
    """Finds the folder of `model.path` (a hub id is fetched once) and reads its config.json.

    Raises:
        ValueError: no such folder or hub model, files missing or corrupt, architecture or feature not
            supported, remote code wanted while model.trust_remote_code is false.
    """
    folder = find_folder(model.path)
    shape = read_shape(folder, model.trust_remote_code)
    read_index(folder, "model.path")
    require_tokenizer(folder)
    return shape


def read_planned_shape(model: ModelConfig) -> tuple[ModelShape | None, str]:
    """As read_model_shape, but without fetching weights: the shape, and a line about what was not read.

    Of a hub id that is not in the cache only small files are fetched. Without a network there is no shape.
    """
    if Path(model.path).expanduser().exists() or not _HUB_ID.fullmatch(model.path):
        return read_model_shape(model), ""
    try:
        cached = _fetch(model.path, _HUB_FILES, offline=True)
        return read_model_shape(replace(model, path=str(cached))), ""
    except (OSError, ValueError):  # not in the cache, or not all of it; what is wrong with it comes up below
        pass
    try:
        folder = _fetch(model.path, _HUB_SMALL_FILES)
    except (OSError, ValueError) as error:
        return None, f"model not read: {model.path} is not in the cache ({_first_line(error)})"
    require_tokenizer(folder)
    unread = f"weights not read: those of {model.path} are not in the cache; the run fetches them"
    return read_shape(folder, model.trust_remote_code), unread


def require_tokenizer(folder: Path, option: str = "model.path") -> None:
    """Raises ValueError if the folder has no tokenizer, or Git LFS pointers in its place."""
    if not has_tokenizer(folder):
        names = ", ".join(_TOKENIZER_FILES)
        raise ValueError(f"{folder} ({option}) has no tokenizer, one of {names}. Copy its model's there.")
    for name in (*_TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            refuse_pointer(folder / name, option)


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def read_shape(folder: Path, trust_remote_code: bool = False) -> ModelShape:
    """The shape that `folder`/config.json describes; reads no other file. Raises ValueError as above."""
    settings = read_json(folder / "config.json", "model.path")
    if "auto_map" in settings and not trust_remote_code:
        raise ValueError(
            f"The model in {folder} wants to run its own Python code (auto_map in config.json). If you trust "
            f"it, set model.trust_remote_code=true; else choose another model.path."
        )
    architecture = _architecture(settings, folder)
    _check_kinds(settings, folder)
    _check_features(settings, architecture, folder)
    return _shape(settings, architecture, folder)


def find_folder(path: str) -> Path:
    """The folder of `model.path`; a hub id is fetched once. Raises ValueError if there is none."""
    local = Path(path).expanduser()
    if local.is_dir():
        return local
    if local.exists():
        gguf = " GGUF is not read: take the folder that it was made from." if local.suffix == ".gguf" else ""
        folder = f", {local.parent}" if (local.parent / "config.json").is_file() else ""
        raise ValueError(
            f"model.path is {path!r}, a file. Give the folder that holds config.json{folder}.{gguf}"
        )
    if not _HUB_ID.fullmatch(path) or local.parent.is_dir():
        raise ValueError(f"model.path is {path!r}, but there is no such folder (a hub id reads owner/name).")
    try:
        return _fetch(path, _HUB_FILES)
    except (OSError, ValueError) as error:  # every failure of the hub: network, unknown name, no permission
        raise ValueError(
            f"model.path is {path!r}: no such folder, and as a hub id it could not be fetched "
            f"({_first_line(error)}). Give a folder, or check the id and the network."
        ) from error


def _fetch(path: str, patterns: list[str], *, offline: bool = False) -> Path:
    from huggingface_hub import snapshot_download  # only a hub id needs it

    if offline:
        return Path(snapshot_download(path, allow_patterns=patterns, local_files_only=True))
    return Path(snapshot_download(path, allow_patterns=patterns))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def _architecture(settings: dict[str, Any], folder: Path) -> str:
    names = settings.get("architectures") or ["none"]
    if not isinstance(names, list) or str(names[0]) not in FAMILIES:
        raise ValueError(
            f"The model in {folder} (model.path) has the unsupported architecture "
            f"{names[0] if isinstance(names, list) else repr(names)}. "
            f"Supported: {', '.join(FAMILIES)}."
        )
    return names[0]


def _check_kinds(settings: dict[str, Any], folder: Path) -> None:
    """Refuses values of another kind, such as a text for a flag, where no number is asked for."""
    kinds = ((_OBJECTS, dict, "an object"), (_LISTS, list, "a list"), (_FLAGS, bool, "true or false"))
    for keys, kind, words in kinds:
        for key in keys:
            if settings.get(key) is not None and not isinstance(settings[key], kind):
                given = f"config.json of {folder} (model.path): {key} is {settings[key]!r}"
                raise ValueError(f"{given}, but must be {words}.")


def _rope_of(settings: dict[str, Any]) -> dict[str, Any]:
    return next((settings[key] for key in _ROPE_KEYS if settings.get(key)), {})


def _rope_type(rope: dict[str, Any]) -> str:
    return rope.get("rope_type", rope.get("type", "default"))


def _check_features(settings: dict[str, Any], architecture: str, folder: Path) -> None:
    """Refuses settings that change the function the model computes and that the actor does not know."""
    family, rope = FAMILIES[architecture], _rope_of(settings)
    partial = rope.get("partial_rotary_factor", settings.get("partial_rotary_factor", 1.0))
    sliding = "sliding_attention" in (settings.get("layer_types") or [])
    unsupported = {
        "hidden_act": settings.get("hidden_act", "silu") != "silu",
        "attention_bias": not family.qkv_bias and bool(settings.get("attention_bias")),
        "mlp_bias": bool(settings.get("mlp_bias")),
        "use_sliding_window": bool(settings.get("use_sliding_window")),
        "layer_types": sliding,
        "partial_rotary_factor": partial not in (None, 1, 1.0),
        **{key: _is_by_layer(settings.get(key)) for key in _ROPE_KEYS},
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
    for key, required in family.required.items():
        if key not in settings or settings[key] != required:
            given = f"sets {key}={settings[key]!r}" if key in settings else f"does not set {key}"
            raise ValueError(
                f"config.json of {folder} (model.path) {given}, but {architecture} is supported with "
                f"{required!r} only. Choose another model."
            )
    types = {key: _rope_type(settings[key]) for key in _ROPE_KEYS if settings.get(key)}
    for rope_type in types.values():
        if rope_type not in _ROPE_TYPES:
            raise ValueError(
                f"config.json of {folder} (model.path) has RoPE type {rope_type!r}; "
                f"supported: {', '.join(_ROPE_TYPES)}."
            )
    if types.get("rope_scaling") == "default" and types.get("rope_parameters") == "llama3":
        raise ValueError(
            f"config.json of {folder} (model.path) sets rope_scaling to default and rope_parameters to "
            "llama3, which contradict each other. Remove one of them."
        )


def _is_by_layer(rope: dict[str, Any] | None) -> bool:
    """Tells whether RoPE has other settings for some kinds of layers."""
    return any(isinstance(value, dict) for value in (rope or {}).values())


@dataclass(frozen=True)
class _Numbers:
    """Sizes and other numbers of a section of config.json; absent keys and null have the default."""

    section: dict[str, Any]
    folder: Path

    def size(self, key: str, default: int | None = None) -> int:
        return self._positive(key, default, int, "integer")

    def number(self, key: str, default: float | None = None) -> float:
        return self._positive(key, default, (int, float), "number")

    def _positive(self, key: str, default: float | None, types: Any, kind: str) -> Any:
        value = self.section.get(key)
        value = default if value is None else value
        if not isinstance(value, types) or isinstance(value, bool) or not 0 < value < math.inf:
            given = f"config.json of {self.folder} (model.path): {key} is {value!r}"
            raise ValueError(f"{given}, but must be a positive {kind}.")
        return value


def _shape(settings: dict[str, Any], architecture: str, folder: Path) -> ModelShape:
    given, rope = _Numbers(settings, folder), _Numbers(_rope_of(settings), folder)
    family = FAMILIES[architecture]
    heads, hidden = given.size("num_attention_heads"), given.size("hidden_size")
    kv_heads = given.size("num_key_value_heads", default=heads if family.kv_heads_are_heads else None)
    if heads % kv_heads:
        raise ValueError(
            f"config.json of {folder} (model.path): num_attention_heads={heads} is no multiple of "
            f"num_key_value_heads={kv_heads}."
        )
    # Their number has another name in transformers 5 than before.
    experts = "num_local_experts" if "num_local_experts" in settings else "num_experts"
    max_positions = given.size("max_position_embeddings", default=family.max_positions)
    return ModelShape(
        folder=folder,
        architecture=architecture,
        layers=given.size("num_hidden_layers"),
        hidden=hidden,
        intermediate=given.size("moe_intermediate_size" if family.experts else "intermediate_size"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=given.size("head_dim", default=family.head_dim or hidden // heads),
        vocab=given.size("vocab_size"),
        tied=bool(settings.get("tie_word_embeddings", False)),
        max_positions=max_positions,
        experts=given.size(experts) if family.experts else 0,
        active_experts=given.size("num_experts_per_tok") if family.experts else 0,
        norm_topk_prob=bool(settings.get("norm_topk_prob", False)),
        norm_eps=given.number("rms_norm_eps", default=1e-6),
        rope_theta=rope.number("rope_theta", default=given.number("rope_theta", default=10000.0)),
        rope_scaling=_scaling(rope, max_positions) if _rope_type(rope.section) == "llama3" else None,
    )


def _scaling(rope: _Numbers, max_positions: int) -> RopeScaling:
    factor, low, high = (rope.number(key) for key in ("factor", "low_freq_factor", "high_freq_factor"))
    return RopeScaling(factor, low, high, rope.size("original_max_position_embeddings", max_positions))
