"""docs/config.md agrees with config/schema.py."""

from dataclasses import fields

from megatron_coreward.config.reference_page import describe_keys, render
from megatron_coreward.config.schema import Config
from tests.support.paths import ROOT


def test_committed_reference_is_current() -> None:
    assert (ROOT / "docs/config.md").read_text() == render(), "run: make reference"


def test_every_key_is_described() -> None:
    sections = describe_keys()
    assert [section.name for section in sections] == [item.name for item in fields(Config)]
    for section in sections:
        assert section.meaning
        assert [key.key for key in section.keys] == [
            f"{section.name}.{name}" for name in vars(vars(Config())[section.name])
        ]
        assert all(key.meaning for key in section.keys)


def test_description_of_one_key() -> None:
    keys = {key.key: key for section in describe_keys() for key in section.keys}
    assert (keys["run.resume"].type_name, keys["run.resume"].default) == ("bool", "false")
    assert keys["data.original"].default == '""'
    assert keys["reward.equality"].meaning.startswith("math: answers are equivalence classes")
    assert "\n" not in keys["reward.equality"].meaning
