"""SeedOssForCausalLM (Seed-OSS), a family that the package does not have, as its one file would be."""

from megatron_coreward.families.mapping import Family
from megatron_coreward.families.qwen2 import QWEN2

SEED_OSS = Family(
    "SeedOssForCausalLM",
    QWEN2.mappings,
    max_positions=524288,
    head_dim=128,
    qkv_bias=True,
    required={"attention_bias": True, "attention_out_bias": False},
)
