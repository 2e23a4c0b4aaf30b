"""A random model of about a million parameters that knows the words of arithmetic problems.

The doctor trains it for one step; tools/make_toy_model.py trains it until it solves some of them. Heads of 32
are the smallest that vLLM's CPU attention takes.
"""

import re
from pathlib import Path

import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from megatron_coreward.data.synthetic_tasks import TASKS

TURN_START, TURN_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = r" ?[A-Za-z]+|\\boxed|\d|[^A-Za-z\d]"
"""Tokens: words with their space, single digits, every other character by itself."""


def make_tokenizer(task: str = "arithmetic") -> transformers.PreTrainedTokenizerFast:
    """One token per word, digit or sign of a synthetic task's problems and their solutions."""
    examples = TASKS[task].supervised_examples(5000, 0)
    text = "\n".join([*(part for example in examples for part in example), "system user assistant\n"])
    words = sorted({*re.findall(WORDS, text), "user", "assistant"})
    vocabulary = {word: i for i, word in enumerate([PAD, TURN_START, TURN_END, "<|unknown|>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<|unknown|>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([PAD, TURN_START, TURN_END])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=TURN_END, pad_token=PAD, chat_template=CHAT_TEMPLATE
    )


def write_random_model(folder: Path, seed: int, task: str = "arithmetic") -> None:
    """The untrained model with the tokenizer of a synthetic task."""
    torch.manual_seed(seed)
    tokenizer = make_tokenizer(task)
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        initializer_range=0.08,  # about 1/sqrt(hidden): twice as fast to learn here as the usual 0.02
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = transformers.Qwen3ForCausalLM(config)
    model.generation_config = transformers.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
