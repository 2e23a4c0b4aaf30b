"""Prompts per template family: one BOS, stop ids, a fixed date, and prompts that are too long."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from megatron_coreward.config.fields import SYSTEM_PROMPT
from megatron_coreward.config.schema import Config
from megatron_coreward.data import synthetic
from megatron_coreward.data.prompts import (
    build_pairs,
    build_questions,
    encode_prompts,
    end_of_turn_id,
    load_generation_config,
    load_tokenizer,
    stop_token_ids,
)

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "{{ bos_token }}"
    "{% for m in messages %}{{ '<|start|>' + m.role + '\n\n' }}"
    "{% if m.role == 'system' %}{{ 'Today is ' + date_string + '.\n' }}{% endif %}{{ m.content + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
PLAIN = "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
DATED = "{{ strftime_now('%Y-%m-%d') + ' ' }}" + PLAIN
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + CHATML
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>", "<|begin|>", "<|start|>", "<|eot|>")
END, IM_START, IM_END, BEGIN, START, EOT = range(256, 262)


def byte_tokenizer(template: str | None, **special: str) -> PreTrainedTokenizerFast:
    """One token per byte, then SPECIAL. With `bos_token` it adds BOS to plain text, as Llama's does."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL))
    if "bos_token" in special:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{special['bos_token']} $A", special_tokens=[(special["bos_token"], BEGIN)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, **special)


def word_tokenizer(template: str) -> PreTrainedTokenizerFast:
    """Words, with an unknown-word token that a line break becomes."""
    words = ["<unk>", "<|end|>", "user", ":", "assistant", "QUESTION", "ANSWER"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split("\n", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, unk_token="<unk>", eos_token="<|end|>"
    )


def qwen() -> PreTrainedTokenizerFast:
    return byte_tokenizer(CHATML, eos_token="<|end|>")


def llama() -> PreTrainedTokenizerFast:
    return byte_tokenizer(LLAMA3, bos_token="<|begin|>", eos_token="<|end|>")


def render(tokenizer: PreTrainedTokenizerFast, question: str = "1+1?", system: str = "Think.") -> str:
    return tokenizer.decode(encode_prompts(tokenizer, [question], system)[0])


def test_chatml_prompt() -> None:
    expected = (
        "<|im_start|>system\nThink.<|im_end|>\n<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert render(qwen()) == expected


def test_llama_prompt_has_one_bos_and_a_fixed_date() -> None:
    tokenizer = llama()
    assert tokenizer.encode("x")[0] == BEGIN, "the tokenizer must be one that adds BOS by itself"
    ids = encode_prompts(tokenizer, ["1+1?"], "Think.")[0]
    assert ids.count(BEGIN) == 1 and ids[0] == BEGIN
    assert "Today is 26 Jul 2024." in tokenizer.decode(ids)


def test_a_template_that_asks_for_the_time_gets_the_fixed_date() -> None:
    assert render(byte_tokenizer(DATED)).startswith("2024-07-26 ")


def test_no_system_turn() -> None:
    assert render(qwen(), system="") == "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n"
    assert render(byte_tokenizer(NO_SYSTEM), system="").startswith("<|im_start|>user")


def test_thinking_is_left_to_the_template_or_chosen() -> None:
    template = "{% if enable_thinking is defined %}{{ enable_thinking }}{% endif %}{{ messages[0].content }}"
    tokenizer = byte_tokenizer(template)
    shown = [tokenizer.decode(encode_prompts(tokenizer, ["x"], "", one)[0]) for one in (None, True, False)]
    assert shown == ["x", "Truex", "Falsex"]


def test_prompts_are_in_order_and_tuples_of_int() -> None:
    tokenizer = qwen()
    prompts = encode_prompts(tokenizer, ["first", "a second, longer one"], "")
    assert ["first" in tokenizer.decode(prompt) for prompt in prompts] == [True, False]
    assert all(isinstance(prompt, tuple) and isinstance(prompt[0], int) for prompt in prompts)
    assert prompts[0] == encode_prompts(tokenizer, ["first"], "")[0]
    assert encode_prompts(tokenizer, [], "") == []


def test_a_template_that_refuses_a_system_turn() -> None:
    with pytest.raises(ValueError, match="no system role.*set data.system_prompt to an empty string"):
        render(byte_tokenizer(NO_SYSTEM))


PARTS = "{% for m in messages %}{{ m.role }}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"
USER_ONLY = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (PARTS, "loses the question: '1+1?' becomes 'systemuser'; use a template that takes turns"),
        ("{{ messages[-1].content[:2] }}", "loses the question: '1+1?' becomes '1+'"),
        (USER_ONLY, "drops the system turn: 'Think.' is not in '1+1?'; set data.system_prompt to an empty"),
        (" {# nothing #}", "renders an empty prompt"),
        ("{% for m in messages %}\n{{ m.content", "has a syntax error in line 2 ("),
        ("{{ messages[0].content + 1 }}", "refuses the turns [system, user] ("),
    ],
)
def test_a_template_that_loses_something(template: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as error:
        render(byte_tokenizer(template.strip()))
    assert "model.path=: its chat template (chat_template in tokenizer_config.json) " + message in str(
        error.value
    )
    byte_tokenizer(template.strip()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"its chat template \(chat_template.jinja\)"):
        render(load_tokenizer(str(tmp_path)))


def test_a_question_in_the_middle_that_is_cut_off() -> None:
    """The longest question is among those that are rendered."""
    tokenizer = byte_tokenizer("{{ messages[0].content[:9] }}")
    with pytest.raises(ValueError, match="loses the question: 'What is one and one[?]'"):
        encode_prompts(tokenizer, ["1+1?", "What is one and one?", "2+2?"], "")


def test_templates_may_trim(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m.content | trim }}{% endfor %}")
    assert len(encode_prompts(tokenizer, [" 1+1?\n", "1+1?", " 1 +1?"], " Think. ")) == 3
    assert not caplog.records


def test_unknown_words_make_prompts_equal(caplog: pytest.LogCaptureFixture) -> None:
    tokenizer = word_tokenizer("{{ messages[0].content }}")
    with pytest.raises(ValueError, match="all 2 different questions have the same token ids"):
        encode_prompts(tokenizer, ["one", "two"], "")
    assert len(encode_prompts(tokenizer, ["one", "two", "QUESTION"], "")) == 3
    assert "1 of 3 different questions have the token ids of another one" in caplog.text


@pytest.mark.parametrize(
    ("data", "warned"),
    [
        ({"system_prompt": SYSTEM_PROMPT}, False),
        ({"system_prompt": "Think."}, True),
        ({"source": "synthetic", "original": "", "rephrased": ""}, False),
    ],
)
def test_prompts_that_ask_for_no_box(
    tmp_path: Path, data: dict[str, str], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = parquet_config(tmp_path, max_prompt_tokens=500, **data)
    build_pairs(config, qwen())
    assert not caplog.records
    build_pairs(config, qwen(), box_needed=True)
    assert (r"no prompt asks for \boxed{}" in caplog.text) == warned


def test_ground_truths_that_cannot_be_read_are_refused_where_they_are_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = parquet_config(tmp_path, ["1", "We add them up.", "3", ""])
    assert [pair.answer for pair in build_pairs(config, qwen())] == ["1", None, "3", None]
    assert "1 of 4 ground truths are not read and count as absent" in caplog.text
    assert "row 1 has no answer: column 'reward_model.ground_truth' is prose" in caplog.text
    with pytest.raises(ValueError, match="data.original=.*row 1 has no answer: .* is prose"):
        build_pairs(config, qwen(), truth_needed=True)
    config = parquet_config(tmp_path, ["1", "2", "3", ""])
    assert len(build_pairs(config, qwen(), truth_needed=True)) == 3


def test_the_same_wordings_are_refused_where_rephrasings_are_needed(tmp_path: Path) -> None:
    config = parquet_config(tmp_path)
    config.data.rephrased = config.data.original
    assert len(build_pairs(config, qwen(), rephrased_needed=False)) == 4
    with pytest.raises(ValueError, match="this is the file of data.original"):
        build_pairs(config, qwen())


def test_no_chat_template() -> None:
    for call in (render, end_of_turn_id, lambda tokenizer: stop_token_ids(tokenizer, {})):
        with pytest.raises(ValueError, match="model.path=.*has no chat template"):
            call(byte_tokenizer(None))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        pytest.param(qwen, IM_END, id="chatml"),
        pytest.param(llama, EOT, id="llama3"),
        pytest.param(lambda: byte_tokenizer(PLAIN), None, id="none"),
        pytest.param(lambda: word_tokenizer(PLAIN), None, id="unknown word"),
        pytest.param(lambda: byte_tokenizer("{{ messages[0].content }}<|end|>"), None, id="drops the answer"),
    ],
)
def test_end_of_turn(make: Callable[[], PreTrainedTokenizerFast], expected: int | None) -> None:
    assert end_of_turn_id(make()) == expected


@pytest.mark.parametrize(
    ("make", "generation_config", "expected"),
    [
        pytest.param(qwen, {"eos_token_id": END}, (END, IM_END), id="base model"),
        pytest.param(qwen, {"eos_token_id": [IM_START, END]}, (END, IM_START, IM_END), id="list"),
        pytest.param(llama, {"eos_token_id": None}, (END, EOT), id="null"),
        pytest.param(llama, {}, (END, EOT), id="no key"),
        pytest.param(lambda: byte_tokenizer(PLAIN, eos_token="<|end|>"), {}, (END,), id="no end of turn"),
        pytest.param(lambda: byte_tokenizer(PLAIN), {"eos_token_id": 0}, (0,), id="id 0"),
    ],
)
def test_stop_tokens(
    make: Callable[[], PreTrainedTokenizerFast], generation_config: dict[str, Any], expected: tuple[int, ...]
) -> None:
    assert stop_token_ids(make(), generation_config) == expected


def test_stop_tokens_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        stop_token_ids(qwen(), {"eos_token_id": [END]})
    assert "stop token 256 '<|end|>' (generation config, tokenizer EOS)" in caplog.text
    assert "stop token 258 '<|im_end|>' (end of turn)" in caplog.text


def test_nothing_to_stop_at() -> None:
    with pytest.raises(ValueError, match="nothing ends a response; set eos_token_id"):
        stop_token_ids(byte_tokenizer(PLAIN), {})


def test_load_tokenizer(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path / "good")
    assert encode_prompts(load_tokenizer(str(tmp_path / "good")), ["x"], "y") == encode_prompts(
        llama(), ["x"], "y"
    )
    byte_tokenizer(None).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="bare: the tokenizer has no chat template"):
        load_tokenizer(str(tmp_path / "bare"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="model.path=.*empty: no tokenizer could be loaded"):
        load_tokenizer(str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "its files are no tokenizer's: KeyError 'added_tokens'"),
        ("[]", "its files are no tokenizer's: TypeError"),
        ("null", "its files are no tokenizer's: AttributeError"),
        ('{"added_tokens": [], "model": {"type": "WordLevel"}}', "tokenizer.json: missing field"),
        (
            '{"added_tokens": [], "model": {"type": "None", "vocab": {}}}',
            "tokenizer.json: data did not match",
        ),
        ("{", "Expecting property name enclosed in double quotes"),
    ],
)
def test_json_that_is_no_tokenizer(tmp_path: Path, content: str, reason: str) -> None:
    llama().save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value).startswith(f"model.path={tmp_path}: no tokenizer could be loaded ({reason}")
    assert "\n" not in str(error.value)


def test_remote_code_runs_only_when_allowed(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    marker = tmp_path / "was_run"
    (tmp_path / "own.py").write_text(
        "from transformers import PreTrainedTokenizerFast\n"
        f"open({str(marker)!r}, 'w').close()\n"
        "class Own(PreTrainedTokenizerFast):\n    pass\n"
    )
    settings = (
        '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": [null, "own.Own"]}, "eos_token": "<|end|>"}'
    )
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_tokenizer(str(tmp_path))
    assert not marker.exists()
    load_tokenizer(str(tmp_path), trust_remote_code=True)
    assert marker.exists()


def test_generation_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "eos_token_id": [7, 8]}')
    assert load_generation_config(str(tmp_path))["eos_token_id"] == [7, 8]
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 9}')
    assert load_generation_config(str(tmp_path))["eos_token_id"] == 9


def parquet_config(folder: Path, answers: list[str | None] | None = None, **data: Any) -> Config:
    """A run on four pairs whose questions have 1, 20, 1 and 1 letters, the third rephrasing 20."""
    words = {"original": ["a", 20 * "b", "c", "d"], "rephrased": ["A", "B", 20 * "C", "D"]}
    for view, questions in words.items():
        rows = [
            {"prompt": [{"content": text, "role": "user"}], "extra_info": {"index": i}}
            | ({} if answers is None else {"reward_model": {"ground_truth": answers[i]}})
            for i, text in enumerate(questions)
        ]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{view}.parquet")
    config = Config()
    config.data.original, config.data.rephrased = (str(folder / f"{view}.parquet") for view in words)
    config.data = replace(config.data, **({"system_prompt": "", "max_prompt_tokens": 100} | data))
    return config


def test_pairs_with_a_long_side_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokenizer = qwen()
    config = parquet_config(tmp_path)
    everything = build_pairs(config, tokenizer)
    assert [pair.pair_id for pair in everything] == [0, 1, 2, 3]
    assert not caplog.records
    config.data.max_prompt_tokens = len(everything[0].original_ids)
    assert [pair.pair_id for pair in build_pairs(config, tokenizer)] == [0, 3]
    assert (
        f"dropped 2 of 4 pairs: a prompt is longer than {config.data.max_prompt_tokens} tokens" in caplog.text
    )
    config.data.max_prompt_tokens -= 1
    with pytest.raises(ValueError, match=r"data.max_prompt_tokens=\d+: all 4 pairs have a longer prompt"):
        build_pairs(config, tokenizer)


def test_limit_counts_pairs_of_the_file(tmp_path: Path) -> None:
    assert [pair.pair_id for pair in build_pairs(parquet_config(tmp_path, limit=2), qwen())] == [0, 1]


@pytest.mark.parametrize("answers", [["", "", "", ""], [None, None, "1", ""], ["poison", "1", "2", "3"]])
def test_ground_truth_changes_nothing_but_the_answer(tmp_path: Path, answers: list[str | None]) -> None:
    absent = build_pairs(parquet_config(tmp_path), qwen())
    given = build_pairs(parquet_config(tmp_path, answers), qwen())
    assert [pair.answer for pair in given] == [answer or None for answer in answers]
    assert [replace(pair, answer=None) for pair in given] == absent


def test_synthetic_run() -> None:
    config = Config()
    config.data.source, config.data.synthetic_pairs, config.evaluation.limit = "synthetic", 30, 40
    tokenizer = qwen()
    pairs, questions = build_pairs(config, tokenizer), build_questions(config, tokenizer)
    assert [pair.original for pair in pairs] == [
        p.original for p in synthetic.make_pairs(30, config.run.seed)
    ]
    assert [question.question for question in questions] == [q.question for q in synthetic.held_out()[:40]]
    assert questions[3].prompt_ids == encode_prompts(tokenizer, [questions[3].question], SYSTEM_PROMPT)[0]
    assert (questions[3].question_id, questions[3].subject) == (3, synthetic.held_out()[3].subject)


def test_evaluation_questions(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = parquet_config(tmp_path, ["1", "2", "3", "4"])
    tokenizer = qwen()
    assert build_questions(config, tokenizer) == []
    config.evaluation.file = config.data.original
    assert [question.answer for question in build_questions(config, tokenizer)] == ["1", "2", "3", "4"]
    config.evaluation.limit = 3
    config.data.max_prompt_tokens = len(build_questions(config, tokenizer)[0].prompt_ids)
    assert [question.question_id for question in build_questions(config, tokenizer)] == [0, 2]
    assert "dropped 1 of 3 evaluation questions" in caplog.text
    config.data.max_prompt_tokens = 1
    with pytest.raises(ValueError, match="all 3 evaluation questions"):
        build_questions(config, tokenizer)
