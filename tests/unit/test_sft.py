"""`coreward sft`: what it refuses before a rank starts, what reaches the ranks, and the fingerprint."""

import json
from hashlib import sha256
from pathlib import Path

import pytest

from megatron_coreward.cli.main import main
from megatron_coreward.config.hf_files import fingerprint
from megatron_coreward.launch import ranks as launcher
from megatron_coreward.launch.options import parse_sft
from megatron_coreward.preflight import files
from tests.support.models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), "llama")


@pytest.fixture
def words(model: Path, tmp_path: Path) -> list[str]:
    """The arguments of a run that could start."""
    examples = tmp_path / "examples.jsonl"
    examples.write_text("".join(json.dumps({"question": f"{i}+1?", "response": "2"}) + "\n" for i in "123"))
    keys = {"model.path": model, "data.original": examples, "run.output_dir": tmp_path / "run"}
    small = ["data.batch_pairs=2", "data.max_prompt_tokens=40", "rollout.max_response_tokens=8"]
    return ["sft", *(f"{key}={value}" for key, value in keys.items()), *small, "--ranks", "2"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["run.resume=true"], "run.resume and run.auto_resume must be false: supervised training leaves no"),
        (["run.auto_resume=true"], "Start anew in another run.output_dir."),
        (["rollout.temperature=0.7"], "rollout.temperature is 0.7, but the likelihood of a given response"),
        (["model.checkpoint=RUN"], "supervised training starts from model.path alone. Make a folder of it"),
        (["run.export_hf=false"], "run.export_hf is false, but the folder hf/ is all that remains."),
        (["run.output_dir=FOLDER"], "which holds a run already (config.yaml). Choose another one: "),
        (["data.original="], "data.original is empty. Name a file of questions"),
        (["data.question_column=text"], "no column 'text' among question, response; data.question_column"),
        (["data.response_column=text"], "no column 'text' among question, response; data.response_column"),
        (["data.batch_pairs=3"], "data.batch_pairs is 3, but must be a multiple of the data-parallel size 2"),
        (["model.path=nowhere/at/all"], "model.path"),
    ],
)
def test_what_is_wrong_is_one_line_before_a_rank_starts(given, message, words, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(launcher, "start_ranks", lambda *_: pytest.fail("ranks were started"))
    (tmp_path / "config.yaml").touch()
    assert main([*words, *(word.replace("FOLDER", str(tmp_path)) for word in given)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: ") and line.count("\n") == 1 and message in line


def test_a_folder_that_will_not_fit_is_refused(words, capsys, monkeypatch):
    monkeypatch.setattr(files, "free_space", lambda _: 1000)
    assert main(words) == 2
    assert "where 9.31e-07 GiB are free, but the export takes at least" in capsys.readouterr().err


def test_each_rank_gets_the_command_and_its_words(words, monkeypatch):
    started = []
    monkeypatch.setattr(launcher, "start_ranks", lambda *given: started.append(given) or 0)
    assert main(words) == 0
    [(ranks, module, [command, *arguments], restarts)] = started
    assert (ranks, module, command, restarts) == (2, "megatron_coreward.cli.main", "sft", 0)
    assert parse_sft(arguments, "").config() == parse_sft(words[1:], "").config()


def test_a_fingerprint_is_that_of_the_weights_in_the_order_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model-00002.safetensors").write_bytes(b"second")
    assert fingerprint(tmp_path) == sha256(b"second").hexdigest()
    (tmp_path / "model-00001.safetensors").write_bytes(b"first")
    assert fingerprint(tmp_path) == sha256(b"firstsecond").hexdigest()
