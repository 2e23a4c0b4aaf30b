"""What every unit test leaves as it found it."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Entry points called in a test set up logging for the whole process."""
    root, package = logging.getLogger(), logging.getLogger("megatron_coreward")
    handlers, level = list(root.handlers), package.level
    yield
    root.handlers[:] = handlers
    package.setLevel(level)
