"""The settings of a run that its model carries, so that it is asked as it was trained: coreward.json.

A checkpoint has the file in its hf/, an exported folder beside the weights. Whoever loads the model for an
evaluation starts from these settings instead of the defaults. transformers and vLLM ignore the file.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import megatron_coreward
from megatron_coreward.config.hf_files import read_json
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config

FILE = "coreward.json"
CARRIED = {
    "data.system_prompt": "system prompt",
    "data.max_prompt_tokens": "prompt limit",
    "rollout.max_response_tokens": "response limit",
    "rollout.temperature": "training's temperature",
    "evaluation.temperature": "temperature",
    "reward.equality": "equality of answers",
}
"""Key -> its name in messages. All that decides how a question is asked and how its answer is compared."""


def value_of(config: Config, key: str) -> Any:
    """The value of `section.name`."""
    section, _, name = key.partition(".")
    return vars(vars(config)[section])[name]


@dataclass(frozen=True)
class RunSettings:
    """Values by key (of CARRIED), and the tokens that end a response; none where they are not known."""

    values: Mapping[str, Any]
    stop_token_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, config: Config, stop_token_ids: Sequence[int] = ()) -> "RunSettings":
        return cls({key: value_of(config, key) for key in CARRIED}, tuple(stop_token_ids))

    @classmethod
    def of_saved(cls, sections: Mapping[str, Mapping[str, Any]]) -> "RunSettings":
        """From `config` of a checkpoint's state.json; a key that its version did not have is left out."""
        named = {
            f"{section}.{name}": value for section in sections for name, value in sections[section].items()
        }
        return cls({key: named[key] for key in CARRIED if key in named})

    def write(self, folder: Path) -> None:
        """Writes coreward.json. Raises OSError."""
        content = {
            "version": megatron_coreward.__version__,
            "config": self.values,
            "stop_token_ids": self.stop_token_ids,
        }
        (folder / FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def overrides(self) -> list[str]:
        """For load_config."""
        return [f"{key}={value}" for key, value in self.values.items()]

    def differences(self, config: Config) -> list[str]:
        """A line for every setting that `config` does not share with the run."""
        return [
            f"{CARRIED[key]} differs from the run's: {value_of(config, key)!r} here, {value!r} there ({key})"
            for key, value in self.values.items()
            if value_of(config, key) != value
        ]


def read_run_settings(folder: Path) -> RunSettings | None:
    """The content of coreward.json; None where there is none. Raises ValueError if it is damaged."""
    path = folder / FILE
    if not path.is_file():
        return None
    content = read_json(path, "--model")
    values, stop_ids = content.get("config"), content.get("stop_token_ids")
    if (
        not isinstance(values, dict)
        or not values.keys() <= CARRIED.keys()
        or not isinstance(stop_ids, list)
        or any(type(token_id) is not int for token_id in stop_ids)
    ):
        raise ValueError(
            f"{path} holds no settings of a run that this version reads ({', '.join(CARRIED)}, and "
            "stop_token_ids). Remove it, and give what differs from the defaults as key=value."
        )
    settings = RunSettings(values, tuple(stop_ids))
    try:
        load_config([], ["model.path=unused", *settings.overrides()])
    except ValueError as error:
        raise ValueError(f"{path}: {error} Mend it there, or remove the file.") from error
    return settings
