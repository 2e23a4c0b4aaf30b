"""coreward.json: what it holds, what differs from it, and what is refused."""

import json
from pathlib import Path

import pytest

from megatron_coreward.config.keys import all_keys
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.run_settings import CARRIED, FILE, RunSettings, read_run_settings

PROMPT = "Say = \\boxed{}:\n 'so'"
OVERRIDES = ["model.path=m", f"data.system_prompt={PROMPT}", "evaluation.temperature=0.6"]


def test_what_was_written_is_read_and_makes_the_same_configuration(tmp_path: Path) -> None:
    config = load_config([], OVERRIDES)
    written = RunSettings.of(config, [2, 7])
    written.write(tmp_path)
    read = read_run_settings(tmp_path)
    assert read == written and set(read.values) == set(CARRIED)
    assert load_config([], ["model.path=m", *read.overrides()]) == config
    assert "version" in json.loads((tmp_path / FILE).read_text())


def test_every_carried_key_exists() -> None:
    assert CARRIED.keys() <= all_keys().keys()


def test_a_folder_of_no_run(tmp_path: Path) -> None:
    assert read_run_settings(tmp_path) is None


def test_differences_name_both_values_and_the_key() -> None:
    settings = RunSettings.of(load_config([], OVERRIDES))
    assert settings.differences(load_config([], OVERRIDES)) == []
    changed = load_config([], [*OVERRIDES, "data.system_prompt=", "reward.equality=exact"])
    assert settings.differences(changed) == [
        f"system prompt differs from the run's: '' here, {PROMPT!r} there (data.system_prompt)",
        "equality of answers differs from the run's: 'exact' here, 'math' there (reward.equality)",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("{}", "holds no settings of a run that this version reads"),
        ('{"config": {"data.later": 1}, "stop_token_ids": []}', "Remove it"),
        ('{"config": {}, "stop_token_ids": ["2"]}', "Remove it"),
        (
            '{"config": {"evaluation.temperature": 9}, "stop_token_ids": []}',
            "evaluation.temperature is 9.0, but must be at least 0.01 and at most 2. Mend it there",
        ),
    ],
)
def test_a_damaged_file_is_refused_by_name(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=FILE) as error:
        read_run_settings(tmp_path)
    assert message in str(error.value)
