"""Runs megatron_coreward.train with KV blocks of 32 tokens, so ordinary prompts fill whole cached blocks.

vLLM's blocks on a CPU have 128 tokens, and the toy model cannot answer after such long prompts."""

import sys
from functools import partial
from typing import Any
from unittest import mock

from megatron_coreward import train
from megatron_coreward.rollout import engine

BLOCK = 32
build = engine._build


def build_with_small_blocks(*args: Any) -> Any:
    import vllm

    with mock.patch.object(vllm, "LLM", partial(vllm.LLM, block_size=BLOCK)):
        llm = build(*args)
    assert llm.llm_engine.vllm_config.cache_config.block_size == BLOCK
    return llm


if __name__ == "__main__":
    with mock.patch.object(engine, "_build", build_with_small_blocks):
        sys.exit(train.main())
