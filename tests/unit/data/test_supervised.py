"""Questions with responses: how they are read, what ends a response, and which are left out."""

import json
import logging
from pathlib import Path

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config
from megatron_coreward.data import synthetic, wordings
from megatron_coreward.data.prompts import encode_prompts
from megatron_coreward.data.supervised import Example, build_examples, encode_examples, example_texts
from tests.unit.data.test_prompts import CHATML, END, EOT, IM_END, PLAIN, byte_tokenizer, llama, qwen

QUESTION, RESPONSE = "1+1?", "It is \\boxed{2}."


def written(folder: Path, *records: object, **overrides: object) -> Config:
    path = folder / "examples.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    keys = {"model.path": "unread", "data.original": str(path), "data.system_prompt": "Think."}
    return load_config([], keys | {f"data.{key}": value for key, value in overrides.items()})


@pytest.mark.parametrize(
    ("record", "overrides"),
    [
        ({"question": QUESTION, "response": RESPONSE, "answer": "2"}, {}),
        ({"prompt": [{"role": "user", "content": QUESTION}], "completion": RESPONSE}, {}),
        ({"problem": QUESTION, "solution": RESPONSE}, {}),
        ({"question": QUESTION, "response": " ", "solution": RESPONSE}, {}),
        ({"text": QUESTION, "question": "another", "response": RESPONSE}, {"question_column": "text"}),
        (
            {"question": QUESTION, "response": "another", "reply": {"text": RESPONSE}},
            {"response_column": "reply.text"},
        ),
    ],
)
def test_a_response_is_a_text_in_a_column_of_its_own(record, overrides, tmp_path: Path) -> None:
    assert example_texts(written(tmp_path, record, **overrides)) == [(QUESTION, RESPONSE)]


@pytest.mark.parametrize(
    ("records", "overrides", "message"),
    [
        (
            [{"question": QUESTION, "answer": "2"}],
            {},
            "no responses: no column 'response' or 'completion' or 'solution' among question, answer; "
            "supervised training needs one for every question; data.response_column=NAME takes another",
        ),
        (
            [{"question": QUESTION, "response": RESPONSE}],
            {"response_column": "reply"},
            "no column 'reply' among question, response; data.response_column names it",
        ),
        (
            [{"question": QUESTION, "response": given} for given in (RESPONSE, None, "", ["2"], 2)],
            {},
            "line 2 has no response: column 'response' is null, line 3 has no response: column 'response' "
            "is blank, line 4 has no response: column 'response' is a list of 1 values, not text, and 1 more "
            "reasons; every record needs one",
        ),
        ([{"question": None, "response": RESPONSE}], {}, "no question"),
    ],
)
def test_what_is_no_response_is_refused(records, overrides, message, tmp_path: Path) -> None:
    with pytest.raises(ValueError) as refused:
        example_texts(written(tmp_path, *records, **overrides))
    assert message in str(refused.value) and str(refused.value).startswith("data.original=")


def test_synthetic_examples_follow_the_seed_and_a_limit_takes_the_first() -> None:
    keys = {"model.path": "unread", "data.source": "synthetic", "data.synthetic_pairs": 9, "run.seed": 4}
    assert example_texts(load_config([], keys)) == synthetic.supervised_examples(9, seed=4)
    other = load_config([], keys | {"data.synthetic_task": "wordings"})
    assert example_texts(other) == wordings.supervised_examples(9, seed=4)
    limited = load_config([], keys | {"data.limit": 2})
    assert example_texts(limited) == synthetic.supervised_examples(9, seed=4)[:2]


def test_prompts_are_those_of_sampling_and_a_response_gets_an_end_and_no_beginning() -> None:
    tokenizer = llama()
    [first, second] = encode_examples(tokenizer, [(QUESTION, "2"), ("2+2?", RESPONSE)], "Think.", EOT)
    assert (first.pair_id, second.pair_id) == (0, 1)
    assert [first.prompt_ids, second.prompt_ids] == encode_prompts(tokenizer, [QUESTION, "2+2?"], "Think.")
    assert tokenizer.decode(second.response_ids) == RESPONSE + "<|eot|>"


@pytest.mark.parametrize(
    ("tokenizer", "stop_ids", "end"),
    [
        (qwen(), (END, IM_END), IM_END),  # the template's turn ends before the document does
        (byte_tokenizer(PLAIN, eos_token="<|end|>"), (EOT, END), END),
        (byte_tokenizer(PLAIN), (EOT,), EOT),
    ],
    ids=["end of turn", "EOS", "stop id"],
)
def test_a_response_ends_as_a_turn_does(tokenizer, stop_ids, end, tmp_path: Path) -> None:
    config = written(tmp_path, {"question": QUESTION, "response": RESPONSE})
    [example] = build_examples(config, tokenizer, stop_ids)
    assert example.response_ids == (*tokenizer.encode(RESPONSE, add_special_tokens=False), end)


def test_long_examples_are_left_out_and_never_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    texts = [("?" * 9, "2" * 4), ("?" * 9, "2" * 5), ("?" * 10, "2" * 4)]
    config = written(tmp_path, *({"question": q, "response": r} for q, r in texts))
    tokenizer = byte_tokenizer(CHATML)
    whole: list[Example] = encode_examples(tokenizer, texts, "Think.", IM_END)
    config.data.max_prompt_tokens = len(whole[0].prompt_ids)
    config.rollout.max_response_tokens = 5
    with caplog.at_level(logging.WARNING):
        assert build_examples(config, tokenizer, ()) == whole[:1]
    assert "dropped 2 of 3 examples: prompt or response is longer than data.max_prompt_tokens=" in caplog.text
    config.rollout.max_response_tokens = 4
    with pytest.raises(ValueError, match=r"max_response_tokens=4: all 3 examples have a longer prompt or"):
        build_examples(config, tokenizer, ())
