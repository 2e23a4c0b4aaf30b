"""The chat template of a tokenizer: applying it, and checking that no prompt loses what was put into it.

A template that expects another form of turns renders without an error and leaves the question out; a run on
such prompts trains on noise. Errors name the template, and the option that helps.
"""

import logging
import unicodedata
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError, TemplateSyntaxError

from megatron_coreward.config.chat_template import CHAT_TEMPLATE_FILE, PLAIN, template_text
from megatron_coreward.utils.logging import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_IS_GIVEN = "is_model_chat_template"
Turns = list[dict[str, str]]

# Llama 3 templates take `date_string` (this is their own default), others call `strftime_now`.
FIXED_DATE: dict[str, Any] = {"date_string": "26 Jul 2024", "strftime_now": datetime(2024, 7, 26).strftime}


def require_template(tokenizer: "PreTrainedTokenizerBase") -> None:
    if tokenizer.chat_template is None:
        raise ValueError(
            f"model.path={tokenizer.name_or_path}: the tokenizer has no chat template; set "
            f"model.chat_template to a Jinja file or to {PLAIN} (a simple one), or use a model whose "
            f"folder has one ({CHAT_TEMPLATE_FILE}, or chat_template in tokenizer_config.json)"
        )


def set_template(tokenizer: "PreTrainedTokenizerBase", given: str) -> None:
    """Gives the tokenizer the template of model.chat_template. Raises ValueError as template_text does."""
    tokenizer.chat_template = template_text(given)
    tokenizer.init_kwargs[_IS_GIVEN] = True  # for messages; nothing else reads it


def turns_of(question: str, system_prompt: str) -> Turns:
    """The turns of a prompt. An empty system prompt leaves the system turn out."""
    system = [{"role": "system", "content": system_prompt}] if system_prompt else []
    return [*system, {"role": "user", "content": question}]


def apply_template(
    tokenizer: "PreTrainedTokenizerBase", chats: Sequence[Turns], *, tokenize: bool, **options: Any
) -> list[Any]:
    """Every chat as token ids, or as text, with the fixed date and `options` for the template.

    Raises ValueError if there is no template, or one that has a mistake or refuses these turns.
    """
    require_template(tokenizer)
    try:
        return tokenizer.apply_chat_template(
            list(chats), tokenize=tokenize, return_dict=False, **FIXED_DATE, **options
        )
    except TemplateSyntaxError as error:
        raise _bad_template(
            tokenizer, f"has a syntax error in line {error.lineno} ({error.message})", "mend the template"
        ) from error
    except (TemplateError, TypeError) as error:
        roles = ", ".join(turn["role"] for turn in chats[0])
        raise _bad_template(
            tokenizer,
            f"refuses the turns [{roles}] ({error})",
            "if it takes no system turn, set data.system_prompt to an empty string; else mend the template",
        ) from error


def _bad_template(tokenizer: "PreTrainedTokenizerBase", problem: str, advice: str) -> ValueError:
    path = tokenizer.name_or_path
    own_file = (Path(path) / CHAT_TEMPLATE_FILE).is_file()
    place = CHAT_TEMPLATE_FILE if own_file else "chat_template in tokenizer_config.json"
    place = "model.chat_template" if tokenizer.init_kwargs.get(_IS_GIVEN) else place
    return ValueError(f"model.path={path}: its chat template ({place}) {problem}; {advice}")


def check_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    prompts: Sequence[Sequence[int]],
    texts: Sequence[tuple[str, str]],
    system_prompt: str,
) -> None:
    """Raises ValueError if a prompt is empty, loses its question or the system turn, or all are the same.

    Args:
        prompts: token ids of every question's prompt; compared as ids, which costs little.
        texts: some of the questions, each with its prompt as text.
    """
    other = "use a template that takes turns of {role, content} with text"
    if not all(prompts):
        raise _bad_template(tokenizer, "renders an empty prompt", other)
    for question, text in texts:
        if _bare(question) not in _bare(text):
            raise _bad_template(
                tokenizer, f"loses the question: {_short(question)} becomes {_short(text)}", other
            )
        if _bare(system_prompt) not in _bare(text):
            raise _bad_template(
                tokenizer,
                f"drops the system turn: {_short(system_prompt)} is not in {_short(text)}",
                "set data.system_prompt to an empty string and ask for the box in the questions, or use a "
                "template that takes a system turn",
            )
    different = len({_folded(question) for question in questions})
    distinct = len(set(map(tuple, prompts)))
    if distinct == 1 < different:
        raise ValueError(
            f"model.path={tokenizer.name_or_path}: the prompts of all {different} different questions have "
            "the same token ids; use a tokenizer that knows the words of the questions"
        )
    if distinct < different:
        warn(
            *(logger, "unknown words", "model.path (its tokenizer)"),
            "model.path=%s: %d of %d different questions have the token ids of another one: the tokenizer "
            "does not know their words",
            *(tokenizer.name_or_path, different - distinct, different),
        )


def _bare(text: str) -> str:
    """A text without white space, which templates trim."""
    return "".join(text.split())


def _folded(text: str) -> str:
    """What is left of a text under a tokenizer's normalisation."""
    return _bare(unicodedata.normalize("NFKC", text)).casefold()


def _short(text: str, length: int = 60) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= length else f"{flat[:length]}...")
