"""Real vLLM compared with transformers: log-probs, greedy text, seeds, replicas, and changed weights.

Engines live in spawned ranks and take seconds to start, so one session draws everything that the tests need.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_coreward.config.schema import Config
from megatron_coreward.requests import make_requests
from megatron_coreward.rollout import engine as engine_module
from megatron_coreward.rollout.engine import VllmEngine
from megatron_coreward.types import GenerationRequest, QuestionPair, Response, Sampling
from tests.support.models import tiny_model
from tests.support.ranks import run_ranks

STOP_IDS = [*range(10), 258]  # many, so that about half the responses stop before the limit
MAX_RESPONSE = 24
KV_BLOCK = 32  # ours on CPU; only whole blocks are cached
TOLERANCE = 1e-4
CONTROL = 1e-2  # what a control must miss by
WEIGHTS = "model.safetensors"


def config(tensor_parallel_size: int = 1) -> Config:
    config = Config()
    config.data.max_prompt_tokens = 300
    config.rollout.max_response_tokens = MAX_RESPONSE
    config.rollout.tensor_parallel_size = tensor_parallel_size
    config.rollout.memory_gb = 0.003  # a few dozen blocks: requests are preempted and computed anew
    config.rollout.max_num_seqs = 64
    return config


def requests(step: int = 0) -> list[GenerationRequest]:
    """14 pairs of a prompt within a KV block and one beyond: more tokens than are computed at once."""
    rng = Random(0)
    prompts = [tuple(rng.randrange(256) for _ in range(length)) for length in [24, KV_BLOCK + 176] * 14]
    pairs = [QuestionPair(i, "", "", prompts[2 * i], prompts[2 * i + 1]) for i in range(14)]
    return make_requests(pairs, samples=4, run_seed=1, step=step)


def weights(folder: Path, without: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """What the trainer sends: whole tensors, the head of a tied model too."""
    tensors = load_file(folder / WEIGHTS)
    tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    yield from ((name, tensor) for name, tensor in tensors.items() if name != without)


def rng_states() -> list[Any]:
    import random

    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def error_of(action) -> str:
    try:
        action()
    except (RuntimeError, ValueError) as error:
        return str(error)
    return ""


def one_rank(rank: int, a: Path, b: Path, c: Path) -> dict[str, Any]:
    """Everything that one engine, started on model `a`, can show."""
    before = rng_states()
    engine = VllmEngine(config(), str(a), STOP_IDS, seed=1)
    warm, few = Sampling(0.7, MAX_RESPONSE), [r for r in requests() if r.sample == 0]
    shown: dict[str, Any] = {
        "a at 1": engine.generate(requests(), Sampling(1.0, MAX_RESPONSE)),
        "a at 0.7": engine.generate(requests(), warm),
        "a greedy": engine.generate(few, Sampling(0.0, MAX_RESPONSE)),
        "a in other company": engine.generate(requests()[::-5], warm),
        "a next step": engine.generate(requests(step=1), warm),
        "rng": before == rng_states(),
    }
    shown["long prompt"] = error_of(lambda: engine.generate([long_request(324)], warm))
    shown["room for three"] = engine.generate([long_request(321)], warm)
    shown["b without head"] = error_of(lambda: engine.load_weights(weights(b, "lm_head.weight"), 1))
    shown["b's responses without head"] = engine.generate(few, warm)
    shown["version after a failure"] = engine.weights_version
    without = "model.layers.1.self_attn.v_proj.weight"
    shown["b without v"] = error_of(lambda: engine.load_weights(weights(b, without), 1))
    engine.load_weights(weights(b), version=1)
    shown["b"] = engine.generate(requests(), warm)
    engine.load_weights(weights(c), version=2)
    shown["c"] = engine.generate(few, warm)

    engine.llm.reset_prefix_cache = lambda: True  # a reset that does nothing
    engine.load_weights(weights(a), version=3)
    shown["a on c's prefixes"] = engine.generate(few, warm)
    engine.llm.reset_prefix_cache = lambda: False
    shown["no reset"] = error_of(lambda: engine.load_weights(weights(a), version=4))
    del engine.llm.reset_prefix_cache
    engine.load_weights(weights(a), version=5)
    shown["a again"] = engine.generate(few, warm)
    return shown


def long_request(length: int) -> GenerationRequest:
    return replace(requests()[0], prompt_ids=tuple(i % 256 for i in range(length)))


def replica_of_one(rank: int, folder: Path) -> list[Response]:
    fewer = config()
    fewer.rollout.max_num_seqs = 8
    engine = VllmEngine(fewer, str(folder), STOP_IDS, seed=1)
    return engine.generate(requests(), Sampling(0.7, MAX_RESPONSE))


def replica_of_two(rank: int, folder: Path, reloaded: Path) -> list[Response]:
    engine = VllmEngine(config(tensor_parallel_size=2), str(folder), STOP_IDS, seed=1)
    engine.load_weights(weights(reloaded), version=1)
    return engine.generate([r for r in requests() if r.sample == 0], Sampling(0.7, MAX_RESPONSE))


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: tiny_model(folder / name, tied=True, seed=seed) for seed, name in enumerate("abc")}


@pytest.fixture(scope="module")
def shown(models) -> dict[str, Any]:
    return run_ranks(1, one_rank, models["a"], models["b"], models["c"], timeout_s=500)[0]


def gaps(responses: list[Response], folder: Path, temperature: float) -> dict[tuple, float]:
    """Largest difference of a response's log-probs to those of transformers, by response."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    found = {}
    for r in responses:
        tokens_1N = torch.tensor([[*r.prompt_ids, *r.response_ids.tolist()]])
        with torch.no_grad():
            logits_TV = model(tokens_1N).logits[0, len(r.prompt_ids) - 1 : -1].float() / temperature
        logps_T = torch.log_softmax(logits_TV, -1)[range(len(r.response_ids)), r.response_ids.tolist()]
        found[r.key] = float((logps_T - torch.from_numpy(r.rollout_logps)).abs().max())
    return found


def worst(responses: list[Response], folder: Path, temperature: float) -> float:
    assert responses
    return max(gaps(responses, folder, temperature).values())


@pytest.mark.parametrize(("name", "temperature"), [("a at 1", 1.0), ("a at 0.7", 0.7)])
def test_log_probs_are_those_of_transformers(shown, models, name, temperature):
    assert worst(shown[name], models["a"], temperature) < TOLERANCE
    assert worst(shown[name], models["a"], 1.7 - temperature) > CONTROL  # the other temperature


def test_greedy_is_that_of_transformers(shown, models):
    model = AutoModelForCausalLM.from_pretrained(models["a"], dtype=torch.float32)
    for response in shown["a greedy"]:
        prompt_1N = torch.tensor([response.prompt_ids])
        ids_1N = model.generate(
            prompt_1N,
            attention_mask=torch.ones_like(prompt_1N),
            max_new_tokens=MAX_RESPONSE,
            do_sample=False,
            eos_token_id=STOP_IDS,
        )
        assert ids_1N[0, prompt_1N.shape[1] :].tolist() == response.response_ids.tolist()


def test_responses_are_complete_and_in_canonical_order(shown):
    responses = shown["a at 0.7"]
    assert [response.key for response in responses] == [request.key for request in requests()]
    assert {response.weights_version for response in responses} == {0}
    for response in responses:
        assert response.response_ids.dtype == np.int32 and response.rollout_logps.dtype == np.float32
        assert len(response.response_ids) == len(response.rollout_logps) > 0
        assert (response.rollout_logps <= 0).all()


def test_the_stop_token_is_in_the_ids_but_not_in_the_text(shown, models):
    tokenizer = AutoTokenizer.from_pretrained(models["a"])
    responses = shown["a at 0.7"]
    stopped = [response for response in responses if response.finish_reason == "stop"]
    truncated = [response for response in responses if response.finish_reason == "length"]
    assert stopped and truncated and len(stopped) + len(truncated) == len(responses)
    for response in stopped:
        *spoken, last = response.response_ids.tolist()
        assert last in STOP_IDS and not set(spoken) & set(STOP_IDS)
        assert response.text == tokenizer.decode(spoken, skip_special_tokens=True)
    for response in truncated:
        assert len(response.response_ids) == MAX_RESPONSE
        assert not set(response.response_ids.tolist()) & set(STOP_IDS)


def test_a_response_depends_on_its_prompt_and_seed_only(shown):
    everything = {response.key: response for response in shown["a at 0.7"]}
    assert shown["a in other company"]
    for response in shown["a in other company"]:
        assert response.response_ids.tolist() == everything[response.key].response_ids.tolist()


def test_samples_of_a_group_and_of_another_step_differ(shown):
    drawn = {tuple(r.response_ids.tolist()) for r in shown["a at 0.7"] + shown["a next step"]}
    assert len(drawn) > 0.9 * 2 * len(requests())


def test_the_trainers_random_state_is_left_alone(shown):
    assert shown["rng"]


def test_a_prompt_without_room_is_refused_and_a_tight_one_is_cut(shown):
    assert "324 tokens" in shown["long prompt"] and "data.max_prompt_tokens" in shown["long prompt"]
    [response] = shown["room for three"]
    assert len(response.response_ids) <= 3


def test_new_weights_arrive_twice_in_a_row(shown, models):
    for name, version in [("b", 1), ("c", 2), ("a again", 5)]:
        assert worst(shown[name], models[name[0]], 0.7) < TOLERANCE
        assert {response.weights_version for response in shown[name]} == {version}


def test_control_sync_skipped(shown, models):
    assert min(gaps(shown["a at 0.7"], models["b"], 0.7).values()) > CONTROL


def test_control_head_of_a_tied_model_not_sent(shown, models):
    assert shown["b without head"] == "the rollout engine was not sent 1 weights: lm_head.weight"
    assert min(gaps(shown["b's responses without head"], models["b"], 0.7).values()) > CONTROL
    assert shown["version after a failure"] == 0


def test_control_prefix_cache_not_reset(shown, models):
    """Long prompts keep keys and values of the old weights; short ones do not show it."""
    found = gaps(shown["a on c's prefixes"], models["a"], 0.7)
    for response in shown["a on c's prefixes"]:
        if len(response.prompt_ids) > KV_BLOCK:
            assert found[response.key] > CONTROL
        else:
            assert found[response.key] < TOLERANCE


def test_a_part_of_a_fused_layer_is_missed(shown):
    assert "model.layers.1.self_attn.v_proj.weight" in shown["b without v"]


def test_a_cache_that_cannot_be_reset_is_an_error(shown):
    assert "prefix cache" in shown["no reset"]


def test_rollouts_do_not_depend_on_the_replicas_nor_on_how_many_are_decoded_at_once(shown, models):
    first, second = run_ranks(2, replica_of_one, models["a"], timeout_s=500)
    assert first and second
    alone = {response.key: response for response in shown["a at 0.7"]}
    assert {response.key for response in first + second} == set(alone)
    for response in first + second:
        assert response.response_ids.tolist() == alone[response.key].response_ids.tolist()
        np.testing.assert_array_equal(response.rollout_logps, alone[response.key].rollout_logps)


def short_prompts(rank: int, folder: Path, block: int) -> tuple[list[Response], list[int]]:
    """Responses to prompts of 120 tokens at KV blocks of `block`; the cached tokens of every prompt."""
    engine_module.CPU_KV_BLOCK = block
    engine = VllmEngine(config(), str(folder), STOP_IDS, seed=1)
    cached: list[int] = []
    generate = engine.llm.generate

    def counting(*args, **options):
        outputs = generate(*args, **options)
        cached.extend(output.num_cached_tokens for output in outputs)
        return outputs

    engine.llm.generate = counting
    prompts = [tuple(Random(i).randrange(256) for _ in range(120)) for i in range(4)]
    pairs = [QuestionPair(i, "", "", prompts[2 * i], prompts[2 * i + 1]) for i in range(2)]
    drawn = make_requests(pairs, samples=4, run_seed=1, step=0)
    return engine.generate(drawn, Sampling(1.0, MAX_RESPONSE)), cached


def test_a_group_shares_a_short_prompt_and_draws_the_same(models):
    [(small, shared)] = run_ranks(1, short_prompts, models["a"], KV_BLOCK, timeout_s=300)
    [(large, separate)] = run_ranks(1, short_prompts, models["a"], 128, timeout_s=300)
    assert set(separate) == {0} and sorted(shared) == [0] * 4 + [96] * 12
    for a, b in zip(small, large, strict=True):
        assert a.key == b.key and a.response_ids.tolist() == b.response_ids.tolist()
        np.testing.assert_array_equal(a.rollout_logps, b.rollout_logps)


@pytest.fixture
def left_behind() -> Iterator[None]:
    """The shared memory of a killed replica of two ranks, under the names that vLLM gives."""
    files = [Path(f"/dev/shm/-tp:0-[0-1]-cpushm_{rank}") for rank in range(2)]
    for file in files:
        file.touch()
    yield
    for file in files:
        file.unlink(missing_ok=True)


@pytest.mark.parametrize(("family", "tied"), [("qwen2", True), ("llama", False)])
def test_two_ranks_form_one_replica(tmp_path, family, tied, left_behind):
    """Full tensors are given to both ranks; vLLM slices them."""
    a, b = (tiny_model(tmp_path / n, family, tied=tied, kv_heads=2, seed=s) for s, n in enumerate("ab"))
    first, second = run_ranks(2, replica_of_two, a, b, timeout_s=500)
    assert not second
    assert [response.key for response in first] == [r.key for r in requests() if r.sample == 0]
    assert worst(first, b, 0.7) < TOLERANCE
