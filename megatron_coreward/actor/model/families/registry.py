"""The supported families by Hugging Face architecture. A new family is one file and one line here."""

from megatron_coreward.actor.model.families.llama import LLAMA
from megatron_coreward.actor.model.families.mapping import Family
from megatron_coreward.actor.model.families.qwen2 import QWEN2
from megatron_coreward.actor.model.families.qwen3 import QWEN3
from megatron_coreward.actor.model.families.qwen3_moe import QWEN3_MOE

FAMILIES = {family.architecture: family for family in (LLAMA, QWEN2, QWEN3, QWEN3_MOE)}


def family_of(architectures: list[str]) -> Family:
    """The family of a Hugging Face config's `architectures`."""
    for name in architectures:
        if name in FAMILIES:
            return FAMILIES[name]
    raise ValueError(
        f"model.path has architecture {architectures or 'none'}; supported are {sorted(FAMILIES)}. "
        "Choose another model.path."
    )
