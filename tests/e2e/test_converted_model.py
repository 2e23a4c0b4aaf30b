"""SmolLM2-135M-Instruct converted and back gives the same results in transformers and in vLLM.

Tiny models of every family: tests/distributed/convert/test_convert.py.
"""

import filecmp
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_coreward.config.schema import Config
from megatron_coreward.requests import make_requests
from megatron_coreward.rollout.engine import VllmEngine
from megatron_coreward.types import QuestionPair, Sampling
from tests.support.programs import launch
from tests.support.ranks import run_ranks

QUESTIONS = ("What is the capital of France?", "Count from one to ten.")
TOKENS = 24
TOOL = "tools/convert_checkpoint.py"
Ids = list[list[int]]


def run(ranks: int, *arguments: object) -> str:
    result = launch(ranks, TOOL, *map(str, arguments))
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def back(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """There in one process, back on two ranks."""
    folder = tmp_path_factory.mktemp("converted")
    checkpoint, back = folder / "checkpoint", folder / "back"
    output = run(1, "hf-to-megatron", "--hf", smollm2, "--output", checkpoint)
    assert re.search(r"272 tensors, [\d,.]+ MB in [\d.]+ s \([\d.]+ GB/s\)", output), output
    run(2, "megatron-to-hf", "--checkpoint", checkpoint, "--output", back, "--shard-size", "200MB")
    return back


def prompts(folder: Path) -> Ids:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [
        tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False) for chat in chats
    ]


def transformers_says(folder: Path) -> Ids:
    model = AutoModelForCausalLM.from_pretrained(folder)
    return [
        model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :].tolist()
        for ids in prompts(folder)
    ]


def vllm_says(_: int, folder: Path) -> Ids:
    config = Config()
    config.data.max_prompt_tokens, config.rollout.max_response_tokens = 100, TOKENS
    config.rollout.memory_gb = 0.1
    engine = VllmEngine(config, str(folder), [], seed=1)
    first, second = (tuple(ids) for ids in prompts(folder))
    requests = make_requests([QuestionPair(0, "", "", first, second)], samples=1, run_seed=1, step=0)
    responses: list[Any] = engine.generate(requests, Sampling(0.0, TOKENS))
    return [response.response_ids.tolist() for response in responses]


def test_weights_and_tokenizer_come_back(smollm2: Path, back: Path) -> None:
    before = load_file(smollm2 / "model.safetensors")
    after = {name: tensor for file in back.glob("*.safetensors") for name, tensor in load_file(file).items()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"):
        assert filecmp.cmp(smollm2 / name, back / name, shallow=False), name


def test_transformers_says_the_same(smollm2: Path, back: Path) -> None:
    said = transformers_says(smollm2)
    assert all(len(set(ids)) > 3 for ids in said), "control: it says something"
    assert transformers_says(back) == said


def test_vllm_says_the_same(smollm2: Path, back: Path) -> None:
    [said], [said_after] = (run_ranks(1, vllm_says, path, timeout_s=300) for path in (smollm2, back))
    assert len(said) == len(QUESTIONS) and all(len(set(ids)) > 3 for ids in said)
    assert said_after == said
