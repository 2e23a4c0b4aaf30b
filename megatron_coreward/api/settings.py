"""A run's configuration in Python: the tree of config/schema.py, with a way to read one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_coreward.config import schema
from megatron_coreward.config.loading import load_config


class Config(schema.Config):
    """Everything about one run: `config.optimizer.lr` is the key optimizer.lr (docs/config.md).

    A value that is assigned is checked as in a file: ValueError if the key does not allow it.
    """

    @classmethod
    def load(cls, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> "Config":
        """Defaults, then the YAML file if there is one, then `overrides`, as {"optimizer.lr": 1e-6}.

        Raises:
            ValueError: as `coreward train` refuses a file: an unknown key, a value that is not allowed, no
                model.path.
        """
        return cls(**vars(load_config([] if file is None else [file], overrides or {})))
