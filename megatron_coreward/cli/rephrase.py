"""Rephrases questions with any model that vLLM loads, checks every rephrasing, and writes aligned pair files.

    python tools/rephrase_questions.py data/math/train.parquet --model Qwen/Qwen3-32B --output data/math/pairs
    torchrun --nproc-per-node 8 tools/rephrase_questions.py ... rollout.tensor_parallel_size=4
    python tools/rephrase_questions.py ... --check-answers        the model must give both wordings one answer

QUESTIONS is a file of tools/prepare_math.py, or any Parquet file with prompt and extra_info.index. What fails
a check (docs/data.md) is drawn again with another seed. Work is done in batches, each on disk before the next
begins; the same command goes on after a kill. Under torchrun the ranks share the work.

Exit codes: 0 done, 1 no question could be rephrased, 2 wrong input.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import find_folder
from megatron_coreward.config.schema import Config
from megatron_coreward.data.pairs import load_originals
from megatron_coreward.data.prompts import load_generation_config, load_tokenizer, stop_token_ids
from megatron_coreward.data.tables import read_json, read_parquet
from megatron_coreward.grading.grader import Grader
from megatron_coreward.preflight.checks import RANGES
from megatron_coreward.rephrasing.attempts import GENERATION_REASONS, INSTRUCTION, Compare, rephrase
from megatron_coreward.rephrasing.checks import REASONS
from megatron_coreward.rephrasing.drawing import Rephraser, Settings
from megatron_coreward.rephrasing.store import Store
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Sampling
from megatron_coreward.utils.folders import FolderLock, errors_on_all_ranks
from megatron_coreward.utils.logging import print_error, setup_logging

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from megatron_coreward.rollout.engine import VllmEngine

DONE, NOTHING, REFUSED = 0, 1, 2
_TEMPERATURE = RANGES["evaluation.temperature"]
MEANINGS = REASONS | GENERATION_REASONS
AT_LEAST_ONE = ("batch", "attempts", "answer_samples", "max_prompt_tokens", "max_response_tokens")


@dataclass(frozen=True)
class Job:
    """Everything that is known before the engine starts."""

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
        """What decides the results; a run goes on only with the same."""
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


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("questions", metavar="QUESTIONS", help="Parquet file with prompt and extra_info.index")
    add("--model", required=True, help="folder or hub id")
    add("--output", type=Path, required=True, metavar="DIR")
    add("--limit", type=int, default=0, metavar="N", help="only the first N questions; 0 = all")
    add("--batch", type=int, default=256, metavar="N", help="questions per batch (256)")
    add("--attempts", type=int, default=3, metavar="N", help="draws per question before it is rejected (3)")
    add("--keep", action="append", default=[], choices=MEANINGS, metavar="REASON",
        help=f"no fault; may be repeated: {', '.join(MEANINGS)}")  # fmt: skip
    add(
        "--check-answers", action="store_true", help="reject where the model answers the wordings differently"
    )
    add(
        "--answer-samples",
        type=int,
        default=4,
        metavar="N",
        help="answers per wording, which vote; 1 = greedy",
    )
    add("--temperature", type=float, default=0.7, help="of the rephrasings (0.7)")
    add("--top-p", type=float, default=0.8, help="of the rephrasings (0.8)")
    add("--top-k", type=int, default=0, help="of the rephrasings; 0 = off")
    add("--thinking", action="store_true", help="let a model think that can (Qwen3)")
    add(
        "--max-prompt-tokens",
        type=int,
        default=2048,
        help="a question with a longer prompt is rejected (2048)",
    )
    add("--max-response-tokens", type=int, default=2048, help="of a rephrasing or an answer (2048)")
    add("--seed", type=int, default=1)
    add("overrides", nargs="*", metavar="key.sub=value", help="keys of the config: rollout, model, reward")
    return parser.parse_intermixed_args(arguments)


def check_options(options: argparse.Namespace) -> None:
    for name in AT_LEAST_ONE:
        if vars(options)[name] < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {vars(options)[name]}, but must be at least 1")
    if options.limit < 0 or options.top_k < 0:
        raise ValueError("--limit and --top-k must not be negative; 0 is no limit")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"--top-p is {options.top_p}, but must be above 0 and at most 1")
    if options.temperature not in _TEMPERATURE or options.temperature == 0:
        raise ValueError(
            f"--temperature is {options.temperature}, but must be {_TEMPERATURE} and not 0, "
            f"since another attempt has to differ"
        )


def prepare(options: argparse.Namespace, world_size: int) -> Job:
    """Reads and checks all input. Raises ValueError for the first thing found wrong."""
    check_options(options)
    keys = {
        "model.path": options.model,
        "run.seed": options.seed,
        "data.max_prompt_tokens": options.max_prompt_tokens,
        "rollout.max_response_tokens": options.max_response_tokens,
    }
    config = load_config(None, [f"{key}={value}" for key, value in keys.items()] + options.overrides)
    table = read_parquet(options.questions, "QUESTIONS")
    questions = load_originals(options.questions, "QUESTIONS")
    if world_size % config.rollout.tensor_parallel_size:
        raise ValueError(
            f"rollout.tensor_parallel_size={config.rollout.tensor_parallel_size} must divide the number of "
            f"ranks, {world_size}"
        )
    folder = find_folder(options.model)
    check_context(folder, options)
    tokenizer = load_tokenizer(str(folder), config.model.trust_remote_code)
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


def run(job: Job, comm: Communicator, console: Console) -> int:
    """The exit code. A collective over all ranks; rank 0 writes and prints."""
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
    code = DONE
    with errors_on_all_ranks(comm):
        if store is not None:
            report = store.finish(job.table, store.read(len(batches)))
            Console().print(report_table(report, job.options.output))
            code = DONE if report["accepted"] else NOTHING
    code = comm.broadcast(code)
    if lock is not None:
        lock.release()
    if engine is not None:
        engine.close()
    else:
        shutdown()
    return code


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


def report_table(report: dict[str, Any], folder: Path) -> Table:
    title = f"{report['accepted']:,} of {report['questions']:,} questions rephrased, in {folder}"
    table = Table("rejected for", "questions", "meaning", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for reason, count in report["reasons"].items():
        table.add_row(reason, f"{count:,}", MEANINGS[reason])
    drawn = ", ".join(f"{count:,} at attempt {n}" for n, count in report["accepted_at_attempt"].items())
    table.caption = f"accepted: {drawn or 'none'}"
    return table


def main(arguments: Sequence[str] | None = None) -> int:
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize

    options = parse_args(arguments)
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    console = setup_logging(rank)
    try:
        job = prepare(options, world_size)
        initialize()
        return run(job, TorchCommunicator(), console)
    except (ValueError, OSError) as error:
        if rank == 0:
            print_error(error)
        return REFUSED


if __name__ == "__main__":
    sys.exit(main())
