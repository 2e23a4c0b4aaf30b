"""A key of the configuration that was given as an option: `--lr 1e-5` is written `optimizer.lr=1e-5`."""

from megatron_coreward.config.keys import all_keys, find_key


def as_override(option: str, value: str) -> str:
    """How to write it, or which key it may stand for."""
    name = option.lstrip("-").replace("-", "_")
    fitting = [key for key in all_keys() if name in (key, key.rpartition(".")[2])]
    if fitting:
        return "write " + " or ".join(f"{key}={value or 'VALUE'}" for key in fitting)
    try:
        return f"write {find_key(name).name}={value or 'VALUE'}"
    except ValueError as error:
        return str(error)
