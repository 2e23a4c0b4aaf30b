"""A folder without a tokenizer is converted with a warning, and its checkpoint is not evaluated."""

import shutil
from pathlib import Path

import pytest

from megatron_coreward.cli.convert import main as convert
from megatron_coreward.evaluation.program import main as evaluate
from tests.support.models import tiny_model


def test_a_folder_without_a_tokenizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    model = tiny_model(tmp_path / "model")
    bare, checkpoint = shutil.copytree(model, tmp_path / "bare"), tmp_path / "converted"
    for path in [*bare.glob("tokenizer*"), bare / "chat_template.jinja"]:
        path.unlink()
    for source in (model, bare):
        given = ["--hf", str(source), "--output", str(checkpoint), "--overwrite"]
        assert convert(["hf-to-megatron", *given]) == 0
        warned = f"--hf {source} has no tokenizer" in capsys.readouterr().err
        assert warned == (source == bare)
    assert convert(["verify", "--hf", str(bare), "--checkpoint", str(checkpoint)]) == 0
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "1+1?", "answer": "2"}\n')
    assert evaluate(["--checkpoint", str(checkpoint), "--file", str(questions)]) == 2
    error = capsys.readouterr().err
    assert f"{checkpoint / 'hf'} (--checkpoint) has no tokenizer, one of tokenizer.json" in error
    assert "Traceback" not in error
