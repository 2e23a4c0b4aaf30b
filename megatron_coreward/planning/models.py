"""Sizes of the paper's models and of one Mixture of Experts, so that runs can be planned without their files.

From each model's published config.json; a folder's own config.json is read with config/model_shape.py.
"""

from pathlib import Path
from typing import Any

import yaml

from megatron_coreward.config.model_shape import ModelShape, read_shape

QWEN2, QWEN3, LLAMA = "Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM"
QWEN3_MOE = "Qwen3MoeForCausalLM"

# architecture, layers, hidden, intermediate, heads, key/value heads, head size, vocabulary, tied, context,
# and in a Mixture of Experts the experts of a layer and those that a token goes to
_SIZES: dict[str, tuple[Any, ...]] = {
    "Qwen2.5-3B": (QWEN2, 36, 2048, 11008, 16, 2, 128, 151936, True, 32768),
    "Qwen2.5-7B": (QWEN2, 28, 3584, 18944, 28, 4, 128, 152064, False, 131072),
    "Qwen3-1.7B-Base": (QWEN3, 28, 2048, 6144, 16, 8, 128, 151936, True, 32768),
    "Qwen3-4B-Base": (QWEN3, 36, 2560, 9728, 32, 8, 128, 151936, True, 32768),
    "Qwen3-8B-Base": (QWEN3, 36, 4096, 12288, 32, 8, 128, 151936, False, 32768),
    "Qwen3-30B-A3B-Base": (QWEN3_MOE, 48, 2048, 768, 32, 4, 128, 151936, False, 32768, 128, 8),
    "Llama-3.2-3B-Instruct": (LLAMA, 28, 3072, 8192, 24, 8, 128, 128256, True, 131072),
}

RECIPES = Path(__file__).parents[2] / "examples" / "gpu"
"""The configurations of the repository; an installed package has none."""

KNOWN = {name: ModelShape(Path(name), *sizes) for name, sizes in _SIZES.items()}


def find_shape(path: str) -> ModelShape:
    """The sizes of a folder with a config.json, or of a known model by name or hub id; nothing is fetched.

    Raises:
        ValueError: neither, or a config.json that the actor cannot run.
    """
    folder = Path(path).expanduser()
    if folder.is_dir():
        return read_shape(folder)
    name = path.rpartition("/")[2]
    if name not in KNOWN:
        raise ValueError(
            f"model.path is {path!r}, but there is no such folder, and no model of that name is known here. "
            f"Give a folder with a config.json, or one of {', '.join(KNOWN)}."
        )
    return KNOWN[name]


def recipe_of(path: str) -> Path | None:
    """The recipe for a model by its name, hub id or folder of that name; None where there is none."""
    name = Path(path).name
    for recipe in sorted(RECIPES.glob("*.yaml")):
        if Path(yaml.safe_load(recipe.read_text())["model"]["path"]).name == name:
            return recipe
    return None
