"""RenamedForCausalLM: a Llama whose tensors have names of their own, as in models with code of their own."""

from dataclasses import replace

from megatron_coreward.families.llama import MAPPINGS
from megatron_coreward.families.mapping import Family


def other_name(name: str) -> str:
    """A tensor's name here, from its name in a Llama."""
    for old, new in (("model.", "transformer."), ("embed_tokens", "wte"), ("lm_head", "output")):
        name = name.replace(old, new)
    return name


RENAMED = Family(
    "RenamedForCausalLM",
    tuple(replace(mapping, hf=tuple(other_name(name) for name in mapping.hf)) for mapping in MAPPINGS),
    max_positions=2048,
)
