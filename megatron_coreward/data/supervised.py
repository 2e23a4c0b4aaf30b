"""Questions with the responses that a model is to give to them, as token ids: the data of `coreward sft`.

A response is followed by the token that ends a turn, so that the model learns to stop. Prompts are made as
for sampling (prompts.py).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from megatron_coreward.config.schema import Config
from megatron_coreward.data.pairs import load_examples
from megatron_coreward.data.prompts import encode_prompts, end_of_turn_id, named_columns
from megatron_coreward.data.synthetic_tasks import TASKS
from megatron_coreward.utils.logging import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Example:
    """A question and its response, tokenised; the response has its end token. `pair_id` is the row number."""

    pair_id: int
    prompt_ids: tuple[int, ...]
    response_ids: tuple[int, ...]


def example_texts(config: Config) -> list[tuple[str, str]]:
    """(question, response) of data.original, or data.synthetic_pairs of data.synthetic_task; then data.limit.

    Raises ValueError as load_examples does.
    """
    data = config.data
    if data.source == "synthetic":
        texts = TASKS[data.synthetic_task].supervised_examples(data.synthetic_pairs, config.run.seed)
    else:
        texts = load_examples(data.original, named_columns(config), data.response_column)
    return texts[: data.limit or None]


def encode_examples(
    tokenizer: "PreTrainedTokenizerBase", texts: Sequence[tuple[str, str]], system_prompt: str, end_id: int
) -> list[Example]:
    """The tokens of (question, response); `end_id` ends each response.

    Raises ValueError as encode_prompts does.
    """
    prompts = encode_prompts(tokenizer, [question for question, _ in texts], system_prompt)
    return [
        Example(row, prompt, (*tokenizer.encode(response, add_special_tokens=False), end_id))
        for row, (prompt, (_, response)) in enumerate(zip(prompts, texts, strict=True))
    ]


def build_examples(
    config: Config, tokenizer: "PreTrainedTokenizerBase", stop_ids: Sequence[int]
) -> list[Example]:
    """The examples of a run: source, then data.limit, then the over-length policy.

    A response ends with the template's end of turn, else with the tokenizer's EOS, else with the first of
    `stop_ids`. Too long ones are dropped and not cut, since a cut response would teach not to stop.

    Raises ValueError as example_texts and encode_prompts do, and if no example is left.
    """
    ends = (end_of_turn_id(tokenizer), tokenizer.eos_token_id, *stop_ids)
    end_id = next(token_id for token_id in ends if token_id is not None)
    longest, limit = config.data.max_prompt_tokens, config.rollout.max_response_tokens
    examples = encode_examples(tokenizer, example_texts(config), config.data.system_prompt, end_id)
    kept = [e for e in examples if len(e.prompt_ids) <= longest and len(e.response_ids) <= limit]
    given = f"data.max_prompt_tokens={longest}, rollout.max_response_tokens={limit}"
    if not kept:
        raise ValueError(
            f"{given}: all {len(examples)} examples have a longer prompt or response; raise the limits"
        )
    if len(kept) < len(examples):
        warn(
            *(logger, "examples left out", "data.max_prompt_tokens and rollout.max_response_tokens"),
            "dropped %d of %d examples: prompt or response is longer than %s",
            *(len(examples) - len(kept), len(examples), given),
        )
    return kept
