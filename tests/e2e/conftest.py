"""A start model that has learnt the arithmetic language a little: a third of the toy model's training."""

from pathlib import Path

import pytest

from tests.support.programs import launch


@pytest.fixture(scope="session")
def apprentice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Writes well-formed solutions with mostly wrong digits, so that votes and rewards differ."""
    folder = tmp_path_factory.mktemp("apprentice") / "model"
    result = launch(
        2,
        "tools/make_toy_model.py",
        *("--output", str(folder), "--low", "0", "--high", "1", "--max-updates", "120"),
    )
    assert result.returncode == 0, result.stdout
    return folder
