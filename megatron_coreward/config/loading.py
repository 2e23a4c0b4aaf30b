"""From a YAML file and `key.sub=value` overrides to a Config, and back.

Strict: every key must be a field of schema.py and every value of its type, so that a slip of the pen is
an error here and not a run with defaults. Layers are merged in order (defaults, file, overrides), one
value at a time, so that an error can name the key, the value and the type. Imports no torch.
"""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from megatron_coreward.config.schema import Config


def load_config(yaml_path: str | Path | None, overrides: Sequence[str] = ()) -> Config:
    """Merges defaults, the file (if any) and the overrides; later ones win.

    An override is `key.sub=value`. The value of a text field is taken literally, others are read as YAML.
    `key=` and `key: null` set a text field to "".

    Raises:
        ValueError: file missing or not YAML, unknown key, value of the wrong type, model.path not given.
    """
    merged = OmegaConf.structured(Config())
    types = field_types()
    if yaml_path is not None:
        for key, value in _leaves(_read_yaml(Path(yaml_path)), types):
            _set(merged, types, key, value)
    for override in overrides:
        key, value = _parse_override(override, types)
        _set(merged, types, key, value)
    for key in sorted(OmegaConf.missing_keys(merged)):
        raise ValueError(f"{key} is missing: set it in the YAML file or as {key}=VALUE on the command line.")
    config = OmegaConf.to_object(merged)
    assert isinstance(config, Config), "the structured schema is that of Config"
    return config


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML that load_config() reads back to an equal one."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def field_types() -> dict[str, type]:
    """Full key -> type of every leaf, in the order of schema.py; a section maps to its dataclass."""
    return dict(_walk(Config, ""))


def nearest(word: str, allowed: Iterable[str]) -> str | None:
    """The one of `allowed` that `word` was most likely meant to be; None when nothing is near."""
    matches = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.6)
    return matches[0] if matches else None


def _walk(cls: type, prefix: str) -> Iterator[tuple[str, type]]:
    for item in fields(cls):
        key, kind = f"{prefix}{item.name}", item.type
        assert isinstance(kind, type), f"{key}: schema.py must not postpone its annotations"
        yield key, kind
        if is_dataclass(kind):
            yield from _walk(kind, f"{key}.")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.load(path)
    except FileNotFoundError:
        raise ValueError(f"Configuration file {path} does not exist. Check the path given.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Configuration file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, DictConfig):
        raise ValueError(f"Configuration file {path} must hold `section:` blocks, not a list or a text.")
    plain = OmegaConf.to_container(content, resolve=False)
    assert isinstance(plain, dict), "a DictConfig becomes a dict"
    return {str(key): value for key, value in plain.items()}


def _leaves(content: dict[str, Any], types: dict[str, type], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(full key, value) of every leaf; checks the keys on the way. An empty section sets nothing."""
    for name, value in content.items():
        key = f"{prefix}{name}"
        kind = _type_of(key, types)
        if not is_dataclass(kind):
            yield key, value
        elif isinstance(value, dict):
            yield from _leaves(value, types, prefix=f"{key}.")
        elif value is not None:
            raise _section_error(key, value, types)


def _parse_override(override: str, types: dict[str, type]) -> tuple[str, Any]:
    key, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"Override {override!r} has no '='. Write overrides as key.sub=value.")
    kind = _type_of(key.strip(), types)
    if is_dataclass(kind):
        raise _section_error(key, text, types)
    if kind is str:
        return key.strip(), text
    try:
        return key.strip(), yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{key} is {text!r}, but must be of type {kind.__name__}.") from None


def _set(merged: DictConfig, types: dict[str, type], key: str, value: Any) -> None:
    kind = types[key]
    if value is None and kind is str:
        value = ""
    if isinstance(value, str) and "${" in value:
        raise ValueError(f"{key} is {value!r}, but interpolation is not supported: write the value out.")
    wrong_type = ValueError(f"{key} is {value!r}, but must be of type {kind.__name__}.")
    if kind is bool and not isinstance(value, bool):  # OmegaConf would take 5 for true
        raise wrong_type
    try:
        OmegaConf.update(merged, key, value)
    except OmegaConfBaseException:
        raise wrong_type from None


def _type_of(key: str, types: dict[str, type]) -> type:
    if key in types:
        return types[key]
    leaves = [known for known, kind in types.items() if not is_dataclass(kind)]
    elsewhere = [leaf for leaf in leaves if leaf.rpartition(".")[2] == key.rpartition(".")[2]]
    guess = elsewhere[0] if elsewhere else nearest(key, leaves)
    sections = ", ".join(known for known in types if "." not in known)
    hint = f"Did you mean {guess}?" if guess else f"The sections are {sections}."
    raise ValueError(f"Unknown configuration key {key!r}. {hint}")


def _section_error(key: str, value: Any, types: dict[str, type]) -> ValueError:
    keys = ", ".join(known for known in types if known.startswith(f"{key}."))
    return ValueError(f"{key} is a section and cannot be set to {value!r}. Set its keys: {keys}.")
