"""model.chat_template: where it comes from, what prompts are made of it, and that it goes with the model."""

import json
import re
from pathlib import Path

import pytest

from megatron_coreward.actor.checkpoint.folder import copy_hf_files
from megatron_coreward.config.chat_template import template_text
from megatron_coreward.config.loading import load_config, to_yaml
from megatron_coreward.data.prompts import encode_prompts, load_tokenizer, stop_token_ids
from tests.unit.data.test_prompts import BEGIN, CHATML, END, byte_tokenizer


def folder_of(path: Path, template: str | None, **special: str) -> str:
    byte_tokenizer(template, **special).save_pretrained(path)
    return str(path)


def test_the_plain_one_puts_everything_into_the_prompt(tmp_path: Path) -> None:
    """With the BOS of a tokenizer that has one, and once; a response ends at EOS."""
    base = load_tokenizer(folder_of(tmp_path / "base", None, eos_token="<|end|>"), chat_template="plain")
    [ids] = encode_prompts(base, ["1+1?"], "Think.")
    assert base.decode(ids) == "Think.\n\nQuestion: 1+1?\n\nAnswer:"
    assert base.decode(encode_prompts(base, ["1+1?"], "")[0]) == "Question: 1+1?\n\nAnswer:"
    assert stop_token_ids(base, {}) == (END,)
    special = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    llama = load_tokenizer(folder_of(tmp_path / "llama", None, **special), chat_template="plain")
    [ids] = encode_prompts(llama, ["1+1?"], "Think.")
    assert ids[0] == BEGIN and ids.count(BEGIN) == 1


def test_a_file_takes_the_place_of_the_folders_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.jinja"
    file.write_text("{{ messages[0].content }} => ")
    model = folder_of(tmp_path / "model", CHATML)
    assert load_tokenizer(model, chat_template=str(file)).chat_template == file.read_text()
    assert load_tokenizer(model).chat_template == CHATML


@pytest.mark.parametrize("own", [None, CHATML])
def test_it_goes_with_the_model(own: str | None, tmp_path: Path) -> None:
    """Into exports and checkpoints, where it comes before the folder's own, wherever that stands."""
    source = Path(folder_of(tmp_path / "source", own))
    if own:
        settings = json.loads((source / "tokenizer_config.json").read_text()) | {"chat_template": own}
        (source / "tokenizer_config.json").write_text(json.dumps(settings))
    copy_hf_files(source, tmp_path / "hf", template_text("plain"))
    exported = load_tokenizer(str(tmp_path / "hf"))
    given = load_tokenizer(str(source), chat_template="plain")
    assert exported.chat_template == given.chat_template == template_text("plain")


def test_a_run_stores_the_text(tmp_path: Path) -> None:
    """So that its configuration is complete without the file; a dollar before braces is no interpolation."""
    file = tmp_path / "mine.jinja"
    file.write_text("{% for m in messages %}${{ m.content }}\n{% endfor %}")
    text = template_text(str(file))
    assert template_text(text) == text == file.read_text()
    stored = tmp_path / "config.yaml"
    stored.write_text(to_yaml(load_config([], ["model.path=x", f"model.chat_template={text}"])))
    assert load_config([stored]).model.chat_template == text


def test_what_is_refused(tmp_path: Path) -> None:
    empty, binary = tmp_path / "empty.jinja", tmp_path / "binary.jinja"
    empty.touch()
    binary.write_bytes(b"\xff\xfe{")
    for given, problem in {
        str(tmp_path / "gone.jinja"): "which cannot be read",
        str(tmp_path): "which cannot be read",
        str(binary): "which cannot be read",
        str(empty): "but that file holds no template",
    }.items():
        expected = re.escape(f"model.chat_template is {given!r}, {problem}")
        with pytest.raises(ValueError, match=f"{expected}.*Give the path of a Jinja file, or plain"):
            template_text(given)


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("{% for m in messages %}{{ m.content }}", "has a syntax error in line 1"),
        ("{{ messages[0].content }}", "loses the question"),
        ("{{ messages[-1].content }}", "drops the system turn"),
    ],
)
def test_mistakes_in_it_are_laid_to_the_key(template: str, problem: str, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder_of(tmp_path, CHATML), chat_template=template)
    with pytest.raises(ValueError, match=rf"its chat template \(model.chat_template\) {problem}"):
        encode_prompts(tokenizer, ["1+1?", "2+2?"], "Think.")


def test_a_folder_without_one_names_the_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="set model.chat_template to a Jinja file or to plain"):
        load_tokenizer(folder_of(tmp_path, None))
