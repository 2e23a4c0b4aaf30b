"""A folder without a tokenizer is converted with a warning, and its checkpoint is not evaluated."""

import shutil
from pathlib import Path

import pytest

from megatron_coreward.evaluation.program import main as evaluate
from tests.support.models import tiny_model
from tests.support.programs import launch


def convert(*arguments: str) -> str:
    """What the program prints; a process of its own, since it makes a process group."""
    result = launch(1, "tools/convert_checkpoint.py", *arguments)
    assert result.returncode == 0, result.stdout
    return result.stdout


def test_a_folder_without_a_tokenizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_model(tmp_path / "model")
    bare, checkpoint = shutil.copytree(model, tmp_path / "bare"), tmp_path / "converted"
    for path in [*bare.glob("tokenizer*"), bare / "chat_template.jinja"]:
        path.unlink()
    for source in (model, bare):
        printed = convert("hf-to-megatron", "--hf", str(source), "--output", str(checkpoint), "--overwrite")
        warned = f"--hf {source} has no tokenizer" in printed
        assert warned == (source == bare)
    convert("verify", "--hf", str(bare), "--checkpoint", str(checkpoint))
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "1+1?", "answer": "2"}\n')
    assert evaluate(["--checkpoint", str(checkpoint), "--file", str(questions)]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint / 'hf'} (--checkpoint) has no tokenizer, one of tokenizer.json" in error
    assert "Traceback" not in error
