"""Everything about a key stands at its field, and is read off there."""

import pickle
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any

import pytest

from megatron_coreward.config.keys import all_keys, find_key, nearest, section_meanings
from megatron_coreward.config.learning import AlgorithmConfig, OptimizerConfig
from megatron_coreward.config.schema import Config, RunConfig


def test_every_key_is_described() -> None:
    assert list(section_meanings()) == [item.name for item in fields(Config)]
    assert all(section_meanings().values())
    defaults = {f"{section}.{n}": v for section, keys in asdict(Config()).items() for n, v in keys.items()}
    assert {key.name: key.default for key in all_keys().values()} == defaults
    assert all(
        (type(key.default) is key.type or key.default in key.choices) and key.meaning
        for key in all_keys().values()
    )


def test_description_of_one_key() -> None:
    key = find_key("optimizer.lr")
    assert (key.type, key.choices, key.limits, key.default) == (float, (), "above 0", 3e-6)
    assert find_key("run.resume").type is bool
    assert find_key("data.source").choices == ("parquet", "synthetic")
    assert find_key("data.original").type is str and not find_key("data.original").choices
    assert find_key("reward.equality").meaning.startswith("math: answers are equivalence classes")
    assert "\n" not in find_key("reward.equality").meaning


def test_nearest() -> None:
    assert nearest("token_mean", ["seq-mean", "token-mean"]) == "token-mean"
    assert nearest("qqqq", ["seq-mean", "token-mean"]) is None


@pytest.mark.parametrize(
    "make",
    [
        lambda: setattr(Config().optimizer, "lr", 0.0),
        lambda: setattr(Config().optimizer, "lr", "1"),
        lambda: setattr(Config().run, "seed", True),
        lambda: setattr(Config().run, "steps", 1.0),
        lambda: setattr(Config().reward, "ties", "last"),
        lambda: setattr(Config().run, "sede", 3),
        lambda: setattr(Config(), "run", {"seed": 3}),
        lambda: RunConfig(epochs=0),
        lambda: OptimizerConfig(eps=float("inf")),
        lambda: AlgorithmConfig(dual_clip=1.0),
        lambda: AlgorithmConfig(dual_clip=float("nan")),
        lambda: replace(AlgorithmConfig(), tis_cap=0.5),
        lambda: RunConfig(**{"sede": 3}),
    ],
)
def test_no_config_holds_what_its_field_does_not_allow(make: Callable[[], Any]) -> None:
    with pytest.raises(ValueError):
        make()


def test_a_config_is_a_plain_dataclass_otherwise() -> None:
    config = Config()
    config.run.seed, config.optimizer.lr = 3, 1
    assert (config.run.seed, config.optimizer.lr, type(config.optimizer.lr)) == (3, 1.0, float)
    other = replace(config, run=replace(config.run, seed=4))
    assert (config.run.seed, other.run.seed, other.optimizer is config.optimizer) == (3, 4, True)
    assert pickle.loads(pickle.dumps(config)) == config != other
    assert (AlgorithmConfig(tis_cap=1).tis_cap, AlgorithmConfig(dual_clip=0).dual_clip) == (1.0, 0.0)
