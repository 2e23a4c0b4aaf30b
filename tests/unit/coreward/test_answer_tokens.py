"""From the characters of an answer to the tokens that hold them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.coreward.answer_tokens import answer_tokens
from tests.support.models import byte_tokenizer

TOKENIZER = byte_tokenizer()


def decode(token_ids):
    return TOKENIZER.decode(token_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize(
    ("pieces", "masked"),
    [
        (["12", "+35", "=", r"\boxed", "{", "4", "7", "}", "."], ["4", "7"]),
        (["12", r" \boxed{4", "7}"], [r" \boxed{4", "7}"]),  # tokens that straddle a brace hold a part of it
        ([r"\boxed{", "", "47", "", "}", ""], ["47"]),  # special tokens have no text
        ([r"\boxed{1}", r" \boxed{", "47", "}"], ["47"]),
        ([r"\boxed{", "2", r"} and \boxed{", "3", "}"], ["2", "3"]),
        (["I do not know", "."], []),
        ([r"\boxed{", "47"], []),
        ([], []),
    ],
)
def test_by_hand(pieces, masked):
    def joined(token_ids):
        return "".join(pieces[i] for i in token_ids)

    ids = range(len(pieces))
    positions = answer_tokens(joined(ids), ids, joined, "math")
    assert [pieces[i] for i in positions] == masked


@given(st.text(max_size=20), st.text(alphabet="0123456789½é数𝟙", min_size=1, max_size=9), st.text(max_size=5))
def test_tokens_of_bytes(before, answer, after):
    """A character may be several tokens, which are masked together; a stop token follows."""
    before, after = (re.sub(r"[\\{}]", "", part) for part in (before, after))
    text = rf"{before} x\boxed{{{answer}}}{after}"
    ids = [*TOKENIZER.encode(text, add_special_tokens=False), TOKENIZER.eos_token_id]
    begin = len(rf"{before} x\boxed{{".encode())
    for equality in ("math", "exact"):
        masked = answer_tokens(text, ids, decode, equality)
        assert masked == tuple(range(begin, begin + len(answer.encode())))
