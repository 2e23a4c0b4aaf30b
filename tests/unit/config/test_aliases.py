"""Keys of other trainers, and slips: what an unknown key leads to."""

import re
from pathlib import Path

import pytest

from megatron_coreward.config import aliases
from megatron_coreward.config.aliases import ALIASES, find_alias
from megatron_coreward.config.keys import all_keys, find_key, section_meanings
from megatron_coreward.config.loading import load_config


def message_of(name: str) -> str:
    with pytest.raises(ValueError) as caught:
        find_key(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_row_names_what_there_is() -> None:
    assert {key for key, _ in aliases._KEYS} <= set(all_keys())
    for sentence in ALIASES.values():
        mentioned = re.findall(rf"(?<!/)\b(?:{'|'.join(section_meanings())})\.\w+", sentence)
        assert set(mentioned) <= set(all_keys()), sentence


def test_no_name_has_two_rows_or_is_a_key_of_ours() -> None:
    names = " ".join([*aliases._KEYS.values(), *aliases._WORDS.values()]).split()
    assert len(names) == len(set(names)) == len(ALIASES)
    assert not set(names) & (set(all_keys()) | {key.rpartition(".")[2] for key in all_keys()})
    assert set(aliases._WHOLE) <= set(names)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("optimizer.learning_rate", "optimizer.lr is the learning rate here"),
        ("learning-rate", "optimizer.lr is the learning rate here"),
        ("algorithm.beta", "algorithm.kl_coef is the weight of the KL penalty here"),
        ("algorithm.kl", "algorithm.kl_coef is the weight of the KL penalty here"),
        ("actor_rollout_ref.actor.kl_loss_coef", "algorithm.kl_coef is the weight of the KL penalty here"),
        ("rollout.n", "rollout.samples is the number of responses per question here"),
        ("actor_rollout_ref.rollout.n", "rollout.samples is the number of responses per question here"),
        ("val_kwargs.n", "evaluation.samples is the number of sampled responses per question"),
        ("reward.type", "reward.method is the source of rewards here"),
        ("max_completion_length", "rollout.max_response_tokens is the longest response, in tokens here"),
        ("trainer.total_epochs", "run.epochs is the number of passes over the questions here"),
        ("epsilon_high", "algorithm.clip_high is the upper clip range here"),
        ("per_device_train_batch_size", "the micro-batch is in tokens here: optimizer.micro_batch_tokens"),
        ("trainer.n_gpus_per_node", "the ranks are those that are started"),
        ("use_vllm", "vLLM always draws the responses here"),
        ("critic.optim.lr", "there is no value model here"),
    ],
)
def test_names_of_other_trainers(name: str, sentence: str) -> None:
    assert f"Unknown configuration key {name!r}: {sentence}" in message_of(name)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("optimiser.lr", "optimizer.lr"),
        ("actor_rollout_ref.actor.optim.lr", "optimizer.lr"),
        ("actor_rollout_ref.rollout.temperature", "rollout.temperature"),
        ("eval.temperature", "evaluation.temperature"),
        ("sample", "rollout.samples"),
        ("run.sed", "run.seed"),
    ],
)
def test_slips(name: str, key: str) -> None:
    assert message_of(name).endswith(f"Did you mean {key}?")


@pytest.mark.parametrize("name", ["optimizer.max_rate", "algorithm.kind", "reward.tags", "rollout.m"])
def test_no_guess_where_nothing_is_near(name: str) -> None:
    section = name.partition(".")[0]
    assert find_alias(name) is None
    assert f"{name!r}. The keys of {section} are " in message_of(name)


def test_a_file_of_another_trainer(tmp_path: Path) -> None:
    """Its sections are unknown, and the key within is what matters."""
    path = tmp_path / "grpo.yaml"
    path.write_text("actor_rollout_ref: {rollout: {n: 8}}\n")
    expected = f"{path}: Unknown configuration key 'actor_rollout_ref.rollout.n': rollout.samples is"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_config([path])
    path.write_text("trainer: {}\n")
    with pytest.raises(ValueError, match="Unknown configuration key 'trainer'"):
        load_config([path])
