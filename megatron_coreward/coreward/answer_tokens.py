"""Which tokens of a response stand in the boxes of its answer: what `algorithm.mask_answer` leaves out."""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence

from megatron_coreward.grading.answers import answer_spans

Decode = Callable[[Sequence[int]], str]
"""From token ids to their text, as in Response.text."""
_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What a character decodes to until its last byte."""


def answer_tokens(text: str, token_ids: Sequence[int], decode: Decode, equality: str) -> tuple[int, ...]:
    """Positions, in order, of the tokens that hold a character between the braces of the answer's boxes.

    The first tokens of a response are decoded, a few times by bisection: a token alone may be a part of a
    character, and a tokenizer may drop the space before it. `text` is what all of them decode to, but for one
    that stopped the response.
    """

    def text_to(position: int) -> str:
        return decode(token_ids[: position + 1])

    places = range(len(token_ids))
    positions: set[int] = set()
    for begin, end in answer_spans(text, equality):
        first = bisect_right(places, begin, key=lambda i: len(text_to(i)))
        last = bisect_left(places, end, key=lambda i: len(text_to(i).rstrip(_UNFINISHED)))
        positions.update(places[first : last + 1])
    return tuple(sorted(positions))
