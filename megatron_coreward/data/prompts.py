"""Prompts as token ids, made once: chat template, stop tokens, over-length policy.

A prompt is the model's chat template over [system, user] with the generation prompt added. The ids are made
here and never re-tokenised, so no engine can add a second BOS; templates that print today's date see a fixed
one. The prompt is the paper's; the stop tokens and the fixed date are ours.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_coreward.config.schema import Config, ModelConfig
from megatron_coreward.data.columns import NamedColumns
from megatron_coreward.data.pairs import (
    PROBE_KEYS,
    PairRecord,
    Question,
    check_wordings_differ,
    load_pairs,
    load_questions,
)
from megatron_coreward.data.synthetic_tasks import TASKS
from megatron_coreward.data.templates import (
    apply_template,
    check_prompts,
    require_template,
    set_template,
    turns_of,
)
from megatron_coreward.types import QuestionPair
from megatron_coreward.utils.logging import warn

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluationQuestion(Question):
    """A question with its prompt."""

    prompt_ids: tuple[int, ...] = ()


class _BareErrors:
    """Makes a ValueError of a bare Exception, and of no subclass: tokenizers raises it for a tokenizer.json
    that is valid JSON and no tokenizer."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if kind is Exception:
            raise ValueError(f"tokenizer.json: {error}") from error


def read_tokenizer(
    folder: Path, model: ModelConfig, vocab: int | None = None
) -> tuple["PreTrainedTokenizerBase", tuple[int, ...]]:
    """The tokenizer of a model's folder, with `model.chat_template` if that is set, and its stop ids.

    Raises ValueError as load_tokenizer and stop_token_ids do, and if the model's configuration ends responses
    with a token that its vocabulary, of `vocab` tokens, does not hold.
    """
    tokenizer = load_tokenizer(str(folder), model.trust_remote_code, model.chat_template)
    generation = load_generation_config(str(folder), model.trust_remote_code)
    if vocab is not None:
        _check_stop_ids(folder, vocab, generation)
    return tokenizer, stop_token_ids(tokenizer, generation)


def _check_stop_ids(folder: Path, vocab: int, generation_config: Mapping[str, Any]) -> None:
    configured = generation_config.get("eos_token_id")
    for token_id in configured if isinstance(configured, list) else [configured]:
        if token_id is not None and not (type(token_id) is int and 0 <= token_id < vocab):
            raise ValueError(
                f"eos_token_id of {folder} (model.path: generation_config.json, or config.json) is "
                f"{configured!r}, but {token_id!r} is no token of the model's vocabulary: from 0 to "
                f"{vocab - 1} (vocab_size). Mend it there."
            )


def load_tokenizer(
    path: str, trust_remote_code: bool = False, chat_template: str = ""
) -> "PreTrainedTokenizerBase":
    """The tokenizer of model.path, with model.chat_template if that is set.

    Raises ValueError if it cannot be loaded or has no chat template.
    """
    from transformers import AutoTokenizer  # slow to import, and not needed to check a configuration

    try:
        with _BareErrors():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # of malformed files
        reason = " ".join(str(error).split())
        if not isinstance(error, (OSError, ValueError)):
            reason = f"its files are no tokenizer's: {type(error).__name__} {reason}"
        raise ValueError(
            f"model.path={path}: no tokenizer could be loaded ({reason}); set model.path to a Hugging Face "
            "folder or hub id with tokenizer files"
        ) from error
    if chat_template:
        set_template(tokenizer, chat_template)
    require_template(tokenizer)
    return tokenizer


def load_generation_config(path: str, trust_remote_code: bool = False) -> dict[str, Any]:
    """generation_config.json of model.path, or the same fields of its config.json where there is none."""
    from transformers import AutoConfig, GenerationConfig

    try:
        return GenerationConfig.from_pretrained(path).to_dict()
    except OSError:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
        return GenerationConfig.from_model_config(config).to_dict()


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase",
    questions: Sequence[str],
    system_prompt: str,
    thinking: bool | None = None,
) -> list[tuple[int, ...]]:
    """Token ids of each question's prompt. An empty system prompt leaves the system turn out.

    `thinking` is passed to templates that take `enable_thinking` (Qwen3's); None leaves them their default.

    Raises ValueError if the tokenizer has no chat template, one that refuses these turns, or one that leaves
    questions or the system prompt out (templates.check_prompts).
    """
    require_template(tokenizer)
    if not questions:
        return []
    chats = [turns_of(question, system_prompt) for question in questions]
    options = {"add_generation_prompt": True, **({} if thinking is None else {"enable_thinking": thinking})}
    prompts = [tuple(ids) for ids in apply_template(tokenizer, chats, tokenize=True, **options)]
    shown = _some(questions)
    texts = apply_template(tokenizer, [chats[i] for i in shown], tokenize=False, **options)
    named = [(questions[i], text) for i, text in zip(shown, texts, strict=True)]
    check_prompts(tokenizer, questions, prompts, named, system_prompt)
    return prompts


def _some(questions: Sequence[str]) -> list[int]:
    """Rows of a few questions that a check looks at: the first, the last and the longest."""
    longest = max(range(len(questions)), key=lambda row: len(questions[row]))
    return sorted({0, longest, len(questions) - 1})


def end_of_turn_id(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token that ends an assistant turn in the chat template; None if nothing does.

    It is the first added token in what follows the turn's text, as in `answer<|im_end|>`. Its own text must
    stand there: a tokenizer may turn a mere line break into its token for unknown words.
    """
    answer = "ANSWER"
    turns = [{"role": "user", "content": "QUESTION"}, {"role": "assistant", "content": answer}]
    [rendered] = apply_template(tokenizer, [turns], tokenize=False)
    _, separator, tail = rendered.rpartition(answer)
    if not separator:
        return None
    added = {token_id: token.content for token_id, token in tokenizer.added_tokens_decoder.items()}
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return next((token_id for token_id in ids if token_id in added and added[token_id] in tail), None)


def stop_token_ids(
    tokenizer: "PreTrainedTokenizerBase", generation_config: Mapping[str, Any]
) -> tuple[int, ...]:
    """Ids that end a response, sorted: generation config, tokenizer EOS and the template's end-of-turn token.

    A base model's EOS is often not its template's end-of-turn token; one that stopped at EOS only would run
    on to the limit. Raises ValueError if there is none.
    """
    configured = generation_config.get("eos_token_id")
    sources = {
        "generation config": configured if isinstance(configured, list) else [configured],
        "tokenizer EOS": [tokenizer.eos_token_id],
        "end of turn": [end_of_turn_id(tokenizer)],
    }
    stops: dict[int, list[str]] = {}
    for source, ids in sources.items():
        for token_id in ids:
            if token_id is not None:
                stops.setdefault(token_id, []).append(source)
    if not stops:
        raise ValueError(
            f"model.path={tokenizer.name_or_path}: nothing ends a response; set eos_token_id in "
            "generation_config.json or eos_token in tokenizer_config.json"
        )
    for token_id, names in sorted(stops.items()):
        logger.info("stop token %d %r (%s)", token_id, tokenizer.decode([token_id]), ", ".join(names))
    return tuple(sorted(stops))


def build_pairs(
    config: Config,
    tokenizer: "PreTrainedTokenizerBase",
    *,
    rephrased_needed: bool = True,
    truth_needed: bool = False,
    box_needed: bool = False,
) -> list[QuestionPair]:
    r"""The training pairs of a run with their prompts: source, then data.limit, then the over-length policy.

    With `truth_needed` pairs without a ground truth are dropped as well; with `box_needed` prompts that do
    not ask for `\boxed` get a warning. Where no rephrasings are needed and there are none, those prompts are
    empty.

    Raises ValueError as load_pairs and encode_prompts do, for rephrasings that are needed and are the
    originals, and if no pair is left.
    """
    data = config.data
    records = pair_records(config, rephrased_needed=rephrased_needed, truth_needed=truth_needed)
    pairs = _prompted(records, config, tokenizer)
    if box_needed and data.source != "synthetic":  # models for those problems box without being asked
        _warn_of_no_box(tokenizer, [record.original for record in records], data.system_prompt)
    _report_dropped("pairs", len(records), len(pairs), data.max_prompt_tokens)
    return pairs


def build_probe(config: Config, tokenizer: "PreTrainedTokenizerBase") -> list[QuestionPair]:
    """The pairs of the probe with their prompts, without ground truths; empty if the run has none.

    Raises ValueError as build_pairs does, and if there are fewer than monitor.pairs.
    """
    records, wanted = probe_records(config), config.monitor.pairs
    pairs = [replace(pair, answer=None) for pair in _prompted(records, config, tokenizer)]
    if records and len(pairs) < wanted:
        source = f"monitor.original={name}" if (name := config.monitor.original) else "data.source=synthetic"
        raise ValueError(
            f"monitor.pairs is {wanted}, but {source} gives {len(pairs)} pairs with prompts of up to "
            f"{config.data.max_prompt_tokens} tokens (data.max_prompt_tokens). Lower monitor.pairs, or name "
            "a larger file in monitor.original."
        )
    return pairs[:wanted]


def probe_records(config: Config) -> list[PairRecord]:
    """All pairs that a probe may ask, before they are tokenised; empty where monitor.every is 0."""
    monitor = config.monitor
    if not monitor.every:
        return []
    if not monitor.original:
        return TASKS[config.data.synthetic_task].probe_pairs()
    named = replace(named_columns(config), answer="")
    records = load_pairs(monitor.original, monitor.rephrased, PROBE_KEYS, named=named)
    check_wordings_differ(records, monitor.original, monitor.rephrased, PROBE_KEYS)
    return records


def _prompted(
    records: Sequence[PairRecord], config: Config, tokenizer: "PreTrainedTokenizerBase"
) -> list[QuestionPair]:
    """The pairs of which neither prompt is too long; those of rephrasings are empty where there are none."""
    data = config.data
    originals = encode_prompts(tokenizer, [record.original for record in records], data.system_prompt)
    rephrasings: list[tuple[int, ...]] = [()] * len(records)
    if any(record.rephrased for record in records):
        rephrasings = encode_prompts(tokenizer, [record.rephrased for record in records], data.system_prompt)
    return [
        QuestionPair(
            pair_id=record.pair_id,
            original=record.original,
            rephrased=record.rephrased,
            original_ids=original_ids,
            rephrased_ids=rephrased_ids,
            answer=record.answer,
            level=record.level,
            subject=record.subject,
        )
        for record, original_ids, rephrased_ids in zip(records, originals, rephrasings, strict=True)
        if max(len(original_ids), len(rephrased_ids)) <= data.max_prompt_tokens
    ]


def pair_records(config: Config, *, rephrased_needed: bool, truth_needed: bool) -> list[PairRecord]:
    """The pairs of build_pairs before they are tokenised. Raises ValueError as it does."""
    data = config.data
    if data.source == "synthetic":
        records = TASKS[data.synthetic_task].make_pairs(data.synthetic_pairs, config.run.seed)
    else:
        records = load_pairs(
            *(data.original, data.rephrased),
            named=named_columns(config),
            rephrased_needed=rephrased_needed,
            truth_needed=truth_needed,
        )
        if rephrased_needed:
            check_wordings_differ(records, data.original, data.rephrased)
    records = records[: data.limit] if data.limit else records
    return _with_truth(records, data.original) if truth_needed else records


def named_columns(config: Config) -> NamedColumns:
    data = config.data
    return NamedColumns(data.question_column, data.rephrased_column, data.answer_column)


def _warn_of_no_box(
    tokenizer: "PreTrainedTokenizerBase", questions: Sequence[str], system_prompt: str
) -> None:
    chats = [turns_of(questions[row], system_prompt) for row in _some(questions)]
    texts = apply_template(tokenizer, chats, tokenize=False, add_generation_prompt=True)
    if not any(r"\boxed" in text for text in texts):
        warn(
            *(logger, "no box is asked for", "data.system_prompt"),
            r"no prompt asks for \boxed{}, and only boxed answers are read: set data.system_prompt to ask",
        )


def _with_truth(records: list[PairRecord], source: str) -> list[PairRecord]:
    kept = [record for record in records if record.answer]
    if not kept:
        raise ValueError(
            f"data.original={source}: none of {len(records)} pairs has a ground truth, which the reward "
            "method needs; choose a label-free reward.method, or data with answers"
        )
    if len(kept) < len(records):
        warn(
            *(logger, "pairs without a ground truth left out", "data.original"),
            *("dropped %d of %d pairs without a ground truth", len(records) - len(kept), len(records)),
        )
    return kept


def build_questions(config: Config, tokenizer: "PreTrainedTokenizerBase") -> list[EvaluationQuestion]:
    """The evaluation questions of a run with their prompts; empty if the run has none.

    As build_pairs: source, then evaluation.limit, then the over-length policy.
    """
    return with_prompts(evaluation_questions(config), config, tokenizer)


def evaluation_questions(config: Config) -> list[Question]:
    """The first evaluation.limit questions of evaluation.file, or of the held-out synthetic problems."""
    if config.evaluation.file:
        questions = load_questions(config.evaluation.file, named=named_columns(config))
    elif config.data.source == "synthetic":
        questions = TASKS[config.data.synthetic_task].held_out(config.evaluation.synthetic_split)
    else:
        questions = []
    return questions[: config.evaluation.limit or None]


def with_prompts(
    questions: Sequence[Question], config: Config, tokenizer: "PreTrainedTokenizerBase"
) -> list[EvaluationQuestion]:
    """The questions whose prompt is not too long. Raises ValueError if there were some and none is left."""
    data = config.data
    prompts = encode_prompts(tokenizer, [record.question for record in questions], data.system_prompt)
    kept = [
        EvaluationQuestion(
            record.question_id, record.question, record.answer, record.level, record.subject, prompt_ids
        )
        for record, prompt_ids in zip(questions, prompts, strict=True)
        if len(prompt_ids) <= data.max_prompt_tokens
    ]
    if questions:
        _report_dropped("evaluation questions", len(questions), len(kept), data.max_prompt_tokens)
    return kept


def _report_dropped(what: str, given: int, kept: int, limit: int) -> None:
    if not kept:
        raise ValueError(
            f"data.max_prompt_tokens={limit}: all {given} {what} have a longer prompt; raise the limit"
        )
    if kept < given:
        warn(
            *(logger, f"{what} left out", "data.max_prompt_tokens"),
            *("dropped %d of %d %s: a prompt is longer than %d tokens", given - kept, given, what, limit),
        )
