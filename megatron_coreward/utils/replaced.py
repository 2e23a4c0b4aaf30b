"""Attributes of a library's module or class that have another value for a while.

For what the library takes from there and offers no argument for.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(target: Any, **values: Any) -> Iterator[None]:
    """Sets attributes of `target`, its own and not inherited ones, and sets them back afterwards."""
    before = {name: vars(target)[name] for name in values}
    try:
        for name, value in values.items():
            setattr(target, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(target, name, value)
