"""Combinations of options that make no sense are refused, and the error names every key involved."""

from dataclasses import fields
from pathlib import Path

import pytest

from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.learning import AlgorithmConfig
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config
from megatron_coreward.preflight.checks import validate
from tests.support.paths import ROOT


@pytest.fixture
def base(tmp_path: Path) -> list[str]:
    return [f"model.path={tmp_path}/gone", f"run.output_dir={tmp_path / 'run'}", "data.source=synthetic"]


def error_of(config: Config) -> str:
    with pytest.raises(ValueError) as caught:
        validate(config, world_size=1)
    return str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["rollout.vote_samples=7"],
            ["rollout.vote_samples is 7, but must be at least rollout.samples (8)"],
        ),
        (
            ["algorithm.advantage=rloo", "rollout.samples=1"],
            ["algorithm.advantage is rloo", "rollout.samples=1"],
        ),
        (
            ["rollout.samples=1"],
            ["algorithm.advantage is group-norm", "rollout.samples=1", "nothing can be learned"],
        ),
        (
            ["algorithm.skip_no_signal=true"],
            ["algorithm.skip_no_signal is true", "algorithm.kl_coef is 0.005", "algorithm.denominator=all"],
        ),
    ],
)
def test_impossible(base: list[str], overrides: list[str], said: list[str]) -> None:
    message = error_of(load_config([], [*base, *overrides]))
    assert all(part in message for part in said) and "\n" not in message


@pytest.mark.parametrize(
    "overrides",
    [
        ["rollout.vote_samples=8"],
        ["rollout.vote_samples=64", "rollout.samples=32"],
        ["algorithm.advantage=rloo", "rollout.samples=2"],
        ["algorithm.skip_no_signal=true", "algorithm.kl_coef=0"],
        ["algorithm.skip_no_signal=true", "algorithm.denominator=active"],
        ["algorithm.skip_no_signal=true", "algorithm.mask_truncated=true"],
        ["algorithm.dual_clip=3", "algorithm.tis_cap=1", "algorithm.clip_high=1.5"],
    ],
)
def test_possible(base: list[str], overrides: list[str]) -> None:
    """What is wrong with these is the model only, which is looked at last."""
    assert "there is no such folder" in error_of(load_config([], [*base, *overrides]))


def test_every_option_has_its_place_in_the_documentation() -> None:
    page = (ROOT / "docs" / "algorithm.md").read_text()
    names = [item.name for item in fields(AlgorithmConfig)]
    names += [
        value for key in all_keys().values() if key.name.startswith("algorithm.") for value in key.choices
    ]
    names += ["reward.ties", "reward.min_agreement", "reward.weight_by_share", "rollout.vote_samples"]
    assert [name for name in names if name not in page] == []
