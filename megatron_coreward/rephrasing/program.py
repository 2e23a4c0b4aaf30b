"""A whole run of rephrasing: its input read and checked, then batch by batch through the rollout engine."""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console

from megatron_coreward.config.fields import MIN_TEMPERATURE
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import find_folder
from megatron_coreward.config.schema import Config
from megatron_coreward.data.pairs import load_originals
from megatron_coreward.data.prompts import load_generation_config, load_tokenizer, stop_token_ids
from megatron_coreward.data.tables import read_json, read_parquet
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import INSTRUCTION, Compare, rephrase
from megatron_coreward.rephrasing.drawing import Rephraser, Settings
from megatron_coreward.rephrasing.store import Store
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Sampling
from megatron_coreward.utils.folders import FolderLock, errors_on_all_ranks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from megatron_coreward.rollout.engine import VllmEngine

AT_LEAST_ONE = ("batch", "attempts", "answer_samples", "max_prompt_tokens", "max_response_tokens")


@dataclass(frozen=True)
class Job:
    """The input of a run, read and checked before the engine starts."""

    options: argparse.Namespace
    config: Config
    folder: Path
    tokenizer: "PreTrainedTokenizerBase"
    stop_ids: tuple[int, ...]
    table: pa.Table
    questions: list[str]

    @property
    def batches(self) -> list[range]:
        """The rows of each batch."""
        size, count = self.options.batch, len(self.questions)
        return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]

    def settings(self) -> Settings:
        options = self.options
        tokens = options.max_response_tokens
        return Settings(
            seed=options.seed,
            max_prompt_tokens=options.max_prompt_tokens,
            rephrasing=Sampling(options.temperature, tokens, options.top_p, options.top_k),
            answers=Sampling(0.0 if options.answer_samples == 1 else options.temperature, tokens),
            answer_samples=options.answer_samples,
            thinking=options.thinking,
        )

    def identity(self) -> dict[str, Any]:
        """All that decides the results; a run only continues with the same."""
        chosen = {
            name: value
            for name, value in sorted(vars(self.options).items())
            if name not in ("output", "questions", "overrides")
        }
        weights = [f"{file.name} {file.stat().st_size}" for file in sorted(self.folder.glob("*.*"))]
        return chosen | {
            "dtype": self.config.model.dtype,
            "equality": self.config.reward.equality,
            "model_files": digest("\n".join(weights)),
            "instruction": digest(INSTRUCTION),
            "questions": digest("\0".join(self.questions)),
        }


def digest(text: str) -> str:
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).hexdigest()


def check_options(options: argparse.Namespace) -> None:
    for name in AT_LEAST_ONE:
        if vars(options)[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {vars(options)[name]}, but must be at least 1")
    if options.limit < 0 or options.top_k < 0:
        raise ValueError("--limit and --top-k must not be negative; 0 is no limit")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"--top-p is {options.top_p}, but must be above 0 and at most 1")
    if not MIN_TEMPERATURE <= options.temperature < math.inf:
        raise ValueError(
            f"--temperature is {options.temperature}, but must be at least {MIN_TEMPERATURE} and not 0, "
            f"since another attempt has to differ"
        )


def prepare(options: argparse.Namespace, world_size: int) -> Job:
    """Reads and checks all input.

    Raises:
        ValueError: the first thing that is wrong with it.
    """
    check_options(options)
    keys = {
        "model.path": options.model,
        "run.seed": options.seed,
        "data.max_prompt_tokens": options.max_prompt_tokens,
        "rollout.max_response_tokens": options.max_response_tokens,
    }
    config = load_config([], [f"{key}={value}" for key, value in keys.items()] + options.overrides)
    table = read_parquet(options.questions, "QUESTIONS")
    questions = load_originals(options.questions, "QUESTIONS")
    if world_size % config.rollout.tensor_parallel_size:
        raise ValueError(
            f"rollout.tensor_parallel_size={config.rollout.tensor_parallel_size} must divide the number of "
            f"ranks, {world_size}"
        )
    folder = find_folder(options.model)
    check_context(folder, options)
    tokenizer = load_tokenizer(str(folder), config.model.trust_remote_code, config.model.chat_template)
    generation = load_generation_config(str(folder), config.model.trust_remote_code)
    limit = options.limit or len(questions)
    return Job(
        options,
        config,
        folder,
        tokenizer,
        stop_token_ids(tokenizer, generation),
        table.slice(0, limit),
        questions[:limit],
    )


def check_context(folder: Path, options: argparse.Namespace) -> None:
    """Prompt and response must fit the context that config.json states, where it states one."""
    settings = read_json(str(folder / "config.json"), "--model")
    text_settings = settings.get("text_config") or settings
    context = text_settings.get("max_position_embeddings")
    needed = options.max_prompt_tokens + options.max_response_tokens
    if context and needed > context:
        raise ValueError(
            f"--max-prompt-tokens + --max-response-tokens = {needed}, but the context of {options.model} is "
            f"{context}; lower either"
        )


def run(job: Job, comm: Communicator, console: Console) -> dict[str, Any]:
    """The content of report.json, on all ranks. A collective; rank 0 writes, and prints its progress."""
    from megatron_coreward.utils.distributed import shutdown

    batches, store, engine, lock = job.batches, None, None, None
    done: set[int] = set()
    with errors_on_all_ranks(comm):
        if comm.rank == 0:
            lock = FolderLock(job.options.output)
            store = Store(job.options.output, job.identity())
            done = store.done(len(batches))
    done = comm.broadcast(done)
    pending = [number for number in range(len(batches)) if number not in done]
    if pending:
        if comm.rank == 0 and done:
            console.print(f"going on: {len(done)} of {len(batches)} batches are done", highlight=False)
        engine = draw_batches(job, pending, store, comm, console)
    report: dict[str, Any] = {}
    with errors_on_all_ranks(comm):
        if store is not None:
            report = store.finish(job.table, store.read(len(batches)))
    report = comm.broadcast(report)
    if lock is not None:
        lock.release()
    if engine is not None:
        engine.close()
    else:
        shutdown()
    return report


def draw_batches(
    job: Job, pending: Sequence[int], store: Store | None, comm: Communicator, console: Console
) -> "VllmEngine":
    """Rephrases the pending batches one by one; the engine has to be closed by the caller."""
    from megatron_coreward.rollout.engine import VllmEngine

    options, reward = job.options, job.config.reward
    engine = VllmEngine(job.config, str(job.folder), job.stop_ids, options.seed)
    with Grader(reward.equality, reward.timeout_s, reward.workers) as grader:
        rephraser = Rephraser(engine, comm, job.tokenizer, grader, job.settings())
        compare: Compare | None = rephraser.compare if options.check_answers else None
        started = time.perf_counter()
        for finished, number in enumerate(pending, start=1):
            questions = {row: job.questions[row] for row in job.batches[number]}
            results = rephrase(questions, options.attempts, rephraser.draw, compare, options.keep)
            with errors_on_all_ranks(comm):
                if store is not None:
                    store.write(number, results)
            if comm.rank == 0:
                left = (time.perf_counter() - started) / finished * (len(pending) - finished)
                accepted = sum(not result.findings for result in results)
                console.print(
                    f"batch {number + 1} of {len(job.batches)}: {accepted} of {len(results)} accepted; about "
                    f"{timedelta(seconds=round(left))} left",
                    highlight=False,
                )
    return engine
