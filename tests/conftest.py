"""Fixtures that several kinds of tests share and that are made once."""

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from tools import fetch_smollm2


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct as tools/fetch_smollm2.py writes it, in a folder of its own."""
    try:
        distribution(fetch_smollm2.PACKAGE)
    except PackageNotFoundError:
        pytest.skip(f"{fetch_smollm2.PACKAGE} is not installed; requirements/cpu-lock.txt has it")
    folder = tmp_path_factory.mktemp("smollm2") / "parent" / "model"
    fetch_smollm2.fetch(folder)
    return folder
