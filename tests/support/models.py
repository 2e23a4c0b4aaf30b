"""Writes tiny random models as Hugging Face folders, so that tests download nothing."""

import math
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SeedOssConfig,
    SeedOssForCausalLM,
)

FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    "qwen3_moe": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
    "seed_oss": (SeedOssConfig, SeedOssForCausalLM),
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TOKENIZER_SIZE = 256 + 3  # bytes and the three special tokens
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, a ChatML template; ids 256, 257, 258 are END_OF_TEXT, TURN_START, TURN_END."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([END_OF_TEXT, TURN_START, TURN_END])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        chat_template=CHAT_TEMPLATE,
        model_max_length=1 << 20,
    )


def randomise(model: PreTrainedModel, seed: int) -> None:
    """Draws every parameter anew, biases and norms included, so that none of them can be ignored unseen.

    Scales keep the logits about normal(0, 1): peaked enough that a wrong weight shows.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator, dtype=torch.float32)
            if "norm" in name:
                weight.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                weight.copy_(0.2 * noise)
            else:
                weight.copy_(noise / math.sqrt(weight.shape[-1]))


def tiny_model(
    folder: Path | str,
    family: str = "qwen3",
    *,
    tied: bool = True,
    heads: int = 2,
    kv_heads: int = 1,
    layers: int = 2,
    vocab: int = 300,
    head_dim: int = 32,
    context: int = 4096,
    seed: int = 0,
    **overrides: Any,
) -> Path:
    """Writes a random float32 model with config, weights, tokenizer and generation config to `folder`.

    `vocab` may exceed TOKENIZER_SIZE, as in Qwen models. `overrides` go into the configuration, for example
    `rope_parameters`. Heads of 32 are the smallest that vLLM's CPU attention takes.
    """
    assert vocab >= TOKENIZER_SIZE, f"vocab={vocab} is smaller than the tokenizer ({TOKENIZER_SIZE})"
    config_class, model_class = FAMILIES[family]
    tokenizer = byte_tokenizer()
    special_ids = {
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    settings = {
        "vocab_size": vocab,
        "hidden_size": heads * head_dim,
        "intermediate_size": 3 * heads * head_dim // 2,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "max_position_embeddings": context,
        "tie_word_embeddings": tied,
        **(EXPERTS if family == "qwen3_moe" else {}),
        **special_ids,
    }
    model = model_class(config_class(**(settings | overrides)))
    randomise(model, seed)
    model.generation_config = GenerationConfig(**special_ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
