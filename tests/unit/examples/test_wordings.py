"""The example whose wordings differ in difficulty: its start model and figures are what its page says."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import transformers
from safetensors.torch import load_file

from megatron_coreward.cli.main import main
from megatron_coreward.data.wordings import HARD_IN_SUPERVISED
from megatron_coreward.doctor.toy_model import make_tokenizer
from tests.support.paths import ROOT
from tools.make_toy_model import TARGETS

EXAMPLE = ROOT / "examples" / "wordings"
START = EXAMPLE / "start_model"
WEIGHTS = START / "model.safetensors"
PAGE = (EXAMPLE / "README.md").read_text()


def row(first: str) -> str:
    """The value in the page's table of the model in the row that begins so."""
    [value] = re.findall(rf"^\| {re.escape(first)}[^|]*\| `?([^`|]+?)`? \|$", PAGE, re.MULTILINE)
    return value


def model_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def test_the_start_model_is_that_of_the_page() -> None:
    tensors = load_file(WEIGHTS)
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest()[:16] == row("SHA-256")
    assert f"{sum(tensor.numel() for tensor in tensors.values()):,}" == row("parameters")
    assert str(model_config(START)["vocab_size"]) == row("vocabulary")
    assert str(HARD_IN_SUPERVISED) == row("share of hard wordings")


def test_the_start_model_has_the_layers_and_words_of_a_toy_model() -> None:
    first = ROOT / "examples/arithmetic_arms/start_model"
    assert model_config(START) == model_config(first) | {"vocab_size": len(make_tokenizer("wordings"))}
    kept, made = transformers.AutoTokenizer.from_pretrained(START), make_tokenizer("wordings")
    assert kept.get_vocab() == made.get_vocab() and kept.chat_template == made.chat_template


def test_the_votes_on_the_page_are_in_their_ranges() -> None:
    rows = re.findall(r"^\| (validation|probe) \| (\w+) \| \d+ \| ([\d.]+) \(", PAGE, re.MULTILINE)
    assert len(rows) == 4
    for _, wording, vote in rows:
        low, high = TARGETS["wordings"][f"{wording} maj@8"]
        assert low <= float(vote) <= high


def test_the_example_can_start(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "--dry-run", str(EXAMPLE / "config.yaml"), f"model.path={START}"]
    assert main(command) == 0, capsys.readouterr().err
