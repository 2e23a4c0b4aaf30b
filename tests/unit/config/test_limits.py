"""The limits of every field: what is refused, in which words, and what is just allowed."""

import re

import pytest

from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config

CHOICES = {key.name: key.choices for key in all_keys().values() if key.choices}
OR_AUTO = {"rollout.enforce_eager": "bool", "rollout.max_num_seqs": "int"}
"""Key -> what it may be beside auto."""
LIMITS = {key.name: key.limits for key in all_keys().values() if key.limits}


def load(override: str) -> Config:
    return load_config([], ["model.path=models/toy", override])


def refused(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(override)
    assert "\n" not in str(caught.value), "one line"


def test_every_field_has_limits() -> None:
    """A number without limits or a text that is neither a choice nor free would go unchecked."""
    types = {key.name: key.type for key in all_keys().values()}
    assert set(LIMITS) - {"reward.method"} == {n for n, kind in types.items() if kind in (int, float, dict)}
    texts = {name for name, kind in types.items() if kind is str}
    free = {"run.output_dir", "model.path", "data.original", "data.rephrased", "data.system_prompt"}
    free |= {"run.profile_steps"}  # utils/step_ranges.py reads it
    free |= {"model.checkpoint", "evaluation.file", "logging.wandb_project"}
    free |= {"monitor.original", "monitor.rephrased"}
    free |= {"data.question_column", "data.rephrased_column", "data.answer_column", "data.response_column"}
    free |= {"model.chat_template", "logging.wandb_name", "logging.wandb_entity", "logging.wandb_group"}
    assert set(CHOICES) == (texts - free) | OR_AUTO.keys()


@pytest.mark.parametrize(("key", "kind"), OR_AUTO.items())
def test_choices_beside_another_type(key: str, kind: str) -> None:
    refused(f"{key}=nonsense", f"{key} is 'nonsense', but must be of type {kind} or auto.")


@pytest.mark.parametrize("key", sorted(CHOICES.keys() - OR_AUTO.keys()))
def test_choices(key: str) -> None:
    others = f", or {LIMITS[key]}" if key in LIMITS else ""
    refused(f"{key}=nonsense", f"{key} is 'nonsense', but must be one of {', '.join(CHOICES[key])}{others}.")


def test_choice_hint() -> None:
    refused("algorithm.aggregation=token_mean", "Did you mean token-mean?")


@pytest.mark.parametrize("key", sorted((LIMITS.keys() - CHOICES.keys()) | {"rollout.max_num_seqs"}))
def test_ranges(key: str) -> None:
    refused(f"{key}=-1", f"{key} is -1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=nan", "optimizer.lr is nan, but must be above 0."),
        ("optimizer.lr=inf", "optimizer.lr is inf, but must be above 0."),
        ("optimizer.lr=0", "optimizer.lr is 0.0, but must be above 0."),
        ("algorithm.clip=1", "algorithm.clip is 1.0, but must be above 0 and below 1."),
        ("reward.min_agreement=1.1", "reward.min_agreement is 1.1, but must be at least 0 and at most 1."),
        ("optimizer.beta2=1", "optimizer.beta2 is 1.0, but must be at least 0 and below 1."),
        ("optimizer.micro_batch_tokens=0", "optimizer.micro_batch_tokens is 0, but must be at least 1."),
        ("algorithm.dual_clip=1", "algorithm.dual_clip is 1.0, but must be 0 or above 1."),
        ("algorithm.dual_clip=nan", "algorithm.dual_clip is nan, but must be 0 or above 1."),
        ("algorithm.tis_cap=0.5", "algorithm.tis_cap is 0.5, but must be 0 or at least 1."),
        ("rollout.temperature=0", "rollout.temperature is 0.0, but must be at least 0.01 and at most 2."),
        (
            "rollout.gpu_memory_utilization=1.1",
            "rollout.gpu_memory_utilization is 1.1, but must be above 0 and at most 1.",
        ),
    ],
)
def test_values(override: str, message: str) -> None:
    refused(override, message)


@pytest.mark.parametrize(
    "override",
    [
        *("algorithm.dual_clip=0", "algorithm.dual_clip=1.01", "algorithm.tis_cap=0", "algorithm.tis_cap=1"),
        *("reward.workers=1", "reward.min_agreement=1", "reward.min_agreement=0", "optimizer.beta1=0"),
        *("rollout.temperature=0.01", "rollout.gpu_memory_utilization=1", "data.limit=0"),
    ],
)
def test_limits_that_are_allowed(override: str) -> None:
    load(override)
