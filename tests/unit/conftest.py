"""Every unit test leaves logging as it was."""

import logging
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Examples are timed by the wall clock: on a busy machine a deadline fails tests at random.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Entry points called in a test set up logging for the whole process."""
    root, package = logging.getLogger(), logging.getLogger("megatron_coreward")
    handlers, level = list(root.handlers), package.level
    yield
    root.handlers[:] = handlers
    package.setLevel(level)
