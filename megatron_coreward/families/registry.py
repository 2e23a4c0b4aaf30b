"""The supported families by their architecture's name in config.json."""

import pkgutil
from importlib import import_module

from megatron_coreward import families
from megatron_coreward.families.mapping import Family


def find_families() -> dict[str, Family]:
    """Every `Family` that a module of this folder defines: a new family is a new file, named nowhere else."""
    modules = [
        import_module(f"{families.__name__}.{m.name}") for m in pkgutil.iter_modules(families.__path__)
    ]
    values = [value for module in modules for value in vars(module).values()]
    return {value.architecture: value for value in values if isinstance(value, Family)}


FAMILIES = find_families()
