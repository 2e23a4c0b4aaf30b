"""From YAML files and `key.sub=value` overrides to a Config, and back.

Strict: every key must be a field of schema.py and every value one that the field allows, so that a slip of
the pen is an error here and not a run with defaults. Layers are set in order (defaults, files, overrides),
one value at a time, so that an error can name the key, the value and what is allowed. Imports no torch.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path, PurePath
from typing import Any

import yaml
from pydantic import ValidationError

from megatron_coreward.config.keys import Key, all_keys, find_key, nearest, section_meanings
from megatron_coreward.config.schema import Config

_MISSING = "???"
"""Stands for a value that a later layer must give."""
_INTERPOLATION = re.compile(r"\$\{(?![{%])")  # a chat template may have a dollar before its braces
_RECIPES = "gpu"


def load_config(paths: Sequence[str | Path], overrides: Sequence[str] | Mapping[str, Any] = ()) -> Config:
    """Merges defaults, the files from left to right and the overrides; later ones win, key by key.

    Overrides are values by key, or texts `key.sub=value`. There the value of a text field is taken literally,
    others are read as YAML. `key=` and `key: null` set a text field to "".

    Raises:
        ValueError: file missing or not YAML, unknown key, value that its field does not allow, model.path
            not given. What a file is wrong in begins with its name.
    """
    config = Config()
    missing = {name for name, key in all_keys().items() if key.default == _MISSING}
    for path in map(Path, paths):
        content = _read_yaml(path)
        try:
            _set_all(config, _leaves(content), missing)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    by_key = _leaves(overrides) if isinstance(overrides, Mapping) else map(_parse_override, overrides)
    _set_all(config, by_key, missing)
    for name in sorted(missing):
        raise ValueError(
            f"{name} is missing: set it in the YAML file or as {name}=VALUE on the command line."
        )
    return config


def to_yaml(config: Config) -> str:
    """The complete configuration as YAML that load_config() reads back to an equal one."""
    return yaml.dump(asdict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Escapes Unicode's line breaks, which would otherwise be read back as spaces."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = '"' if any(mark in data for mark in "\x85\u2028\u2029") else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, and leaves dates as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = [key.value for key, _ in node.value]
        for i, (key, _) in enumerate(node.value):
            if key.value in names[:i]:
                raise yaml.constructor.ConstructorError(
                    "while reading a section", node.start_mark, f"found {key.value} twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)


def _set_all(config: Config, layer: Iterable[tuple[Key, Any]], missing: set[str]) -> None:
    for key, value in layer:
        if value == _MISSING:
            missing.add(key.name)
        else:
            _set(config, key, value)
            missing.discard(key.name)


def _read_yaml(path: Path) -> dict[Any, Any]:
    try:
        with path.open(encoding="utf-8") as file:  # errors name the file, which they would not for its text
            content = yaml.load(file, _Loader)
    except FileNotFoundError:
        raise ValueError(f"Configuration file {path} does not exist. {_moved(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Configuration file {path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise ValueError(f"Configuration file {path} is not valid YAML: {error}") from error
    if not isinstance(content, dict | None):
        raise ValueError(f"Configuration file {path} must hold `section:` blocks, not a list or a text.")
    return content or {}


def _moved(path: Path) -> str:
    """The recipes of the examples by their names in earlier versions (CHANGELOG.md)."""
    name = path.parent.name if path.name == "config.yaml" else path.stem
    for folder in path.parents:
        now = folder / _RECIPES / f"{name}.yaml"
        if folder.name == "examples" and now.is_file():
            return f"It is {now} now."
    return "Check the path given."


def _leaves(content: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[Key, Any]]:
    """Every key of a file with its value. An empty section sets nothing; one that is unknown is not empty."""
    for name, value in content.items():
        key_name = f"{prefix}{name}"
        is_section = key_name in section_meanings()
        if isinstance(value, dict) and (is_section or (value and key_name not in all_keys())):
            yield from _leaves(value, prefix=f"{key_name}.")  # another trainer's sections, to name its key
        elif not is_section:
            yield _key_and_value(key_name, value)
        elif value is not None:
            raise _section_error(key_name, value)


def _parse_override(override: str) -> tuple[Key, Any]:
    name, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"Override {override!r} has no '='. Write overrides as key.sub=value.")
    if name.strip() in section_meanings():
        raise _section_error(name.strip(), text)
    key, _ = _key_and_value(name.strip(), text)
    try:
        return _key_and_value(name.strip(), text if key.type is str else yaml.load(text, _Loader))
    except yaml.YAMLError:
        raise _refusal(key, text) from None


def _key_and_value(name: str, value: Any) -> tuple[Key, Any]:
    """The key `name` with its value; `mapping.entry` is the mapping with that entry."""
    mapping, _, entry = name.rpartition(".")
    if mapping in all_keys() and all_keys()[mapping].type is dict:
        return find_key(mapping), {entry: value}
    return find_key(name), value


def _set(config: Config, key: Key, given: Any) -> None:
    if isinstance(given, str) and _INTERPOLATION.search(given):
        raise ValueError(f"{key.name} is {given!r}, but interpolation is not supported: write the value out.")
    section, _, field = key.name.partition(".")
    value = converted(given, key.type)
    if key.type is dict and isinstance(value, dict):  # entry by entry, as layers are key by key
        value = vars(vars(config)[section])[field] | value
    try:
        setattr(vars(config)[section], field, value)
    except ValidationError:
        raise _refusal(key, value) from None


def converted(given: Any, wanted: type) -> Any:
    """`given` as `wanted` if YAML reads it differently: it takes 7 for a number even if a text is wanted, and
    1e-5 and nan for texts. Python's paths are texts, too."""
    if wanted in (str, dict) and given is None:
        return wanted()
    if wanted is str and isinstance(given, bool | int | float | PurePath):
        return str(given)
    if type(given) is str and wanted in (int, float) or type(given) is int and wanted is float:
        try:
            return wanted(given)
        except (ValueError, OverflowError):
            pass  # pydantic refuses it
    return given


def _refusal(key: Key, value: Any) -> ValueError:
    if type(value) is not key.type:
        types = " or ".join([key.type.__name__, *(key.choices if key.type is not str else ())])
        return ValueError(f"{key.name} is {value!r}, but must be of type {types}.")
    if isinstance(value, str):
        guess = nearest(value, key.choices)
        hint = f" Did you mean {guess}?" if guess else ""
        allowed = ", ".join([*key.choices, f"or {key.limits}"] if key.limits else key.choices)
        return ValueError(f"{key.name} is {value!r}, but must be one of {allowed}.{hint}")
    return ValueError(f"{key.name} is {value}, but must be {key.limits}.")


def _section_error(name: str, value: Any) -> ValueError:
    keys = ", ".join(known for known in all_keys() if known.startswith(f"{name}."))
    return ValueError(f"{name} is a section and cannot be set to {value!r}. Set its keys: {keys}.")
