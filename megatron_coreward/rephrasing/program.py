"""A whole run of rephrasing: its input read and checked, then batch by batch through a model."""

import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from sys import float_info
from typing import Any

import pyarrow as pa
from rich.console import Console

from megatron_coreward.config.fields import MIN_TEMPERATURE
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config
from megatron_coreward.data.columns import INDEX_COLUMNS
from megatron_coreward.data.pair_files import ViewRow, view_table
from megatron_coreward.data.pairs import load_originals, load_pairs
from megatron_coreward.data.tables import is_parquet, read_parquet
from megatron_coreward.grading.grader import Grader
from megatron_coreward.rephrasing.attempts import INSTRUCTION, rephrase
from megatron_coreward.rephrasing.drawing import Drawer, Rephraser
from megatron_coreward.rephrasing.endpoint import EndpointDrawer
from megatron_coreward.rephrasing.local import LocalDrawer
from megatron_coreward.rephrasing.store import Store, digest
from megatron_coreward.roles import Communicator
from megatron_coreward.types import Sampling
from megatron_coreward.utils.folders import FolderLock, errors_on_all_ranks

_LEAST, _MOST = float_info.min, float_info.max
_COUNTS = "batch attempts answer_samples max_prompt_tokens max_response_tokens api_concurrency"
_LIMITS = [
    (_COUNTS, 1, _MOST, "at least 1"),
    ("limit top_k", 0, _MOST, "at least 0, which is no limit"),
    ("top_p", _LEAST, 1, "above 0 and at most 1"),
    ("api_timeout", _LEAST, _MOST, "above 0"),
    ("temperature", MIN_TEMPERATURE, _MOST, f"at least {MIN_TEMPERATURE}: another attempt has to differ"),
]
"""Options, their least and largest value, and how to say that."""
_WITHOUT_EFFECT = ["output", "questions", "overrides", "api", "api_key_env", "api_concurrency", "api_timeout"]
"""Options that do not decide the results. The same model may be had at another address."""

KEY = "QUESTIONS"
"""The argument as messages name it."""


@dataclass(frozen=True)
class Job:
    """The input of a run, read and checked before the model starts."""

    options: Namespace
    config: Config
    drawer: Drawer
    table: pa.Table
    questions: list[str]

    @property
    def batches(self) -> list[range]:
        """The rows of each batch."""
        size, count = self.options.batch, len(self.questions)
        return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]

    def identity(self) -> dict[str, Any]:
        """All that decides the results; a run only continues with the same."""
        chosen = {name: value for name, value in vars(self.options).items() if name not in _WITHOUT_EFFECT}
        return {
            **dict(sorted(chosen.items())),
            **self.drawer.identity,
            "equality": self.config.reward.equality,
            "instruction": digest(INSTRUCTION),
            "questions": digest("\0".join(self.questions)),
        }


def prepare(options: Namespace, world_size: int) -> Job:
    """Reads and checks all input.

    Raises:
        ValueError: the first thing that is wrong with it.
    """
    given = vars(options)
    for names, least, most, allowed in _LIMITS:
        for name in names.split():
            if not least <= given[name] <= most:
                raise ValueError(f"--{name.replace('_', '-')} is {given[name]}, but must be {allowed}")
    if bool(options.model) == bool(options.api):
        raise ValueError("either --model (a model to load here) or --api (an endpoint's address) is needed")
    keys = {
        "model.path": options.model or options.api_model,
        "run.seed": options.seed,
        "data.max_prompt_tokens": options.max_prompt_tokens,
        "rollout.max_response_tokens": options.max_response_tokens,
    }
    config = load_config([], [f"{key}={value}" for key, value in keys.items()] + options.overrides)
    limit: int | None = options.limit or None
    table, questions = read_questions(options.questions)
    make: Callable[[Namespace, Config, int], Drawer] = EndpointDrawer if options.api else LocalDrawer
    return Job(options, config, make(options, config, world_size), table.slice(0, limit), questions[:limit])


def read_questions(path: str) -> tuple[pa.Table, list[str]]:
    """The file's rows as a table that the pair files are made of, and its questions.

    A Parquet file with indices as it is; of any other the rows are numbered.
    """
    if is_parquet(path):
        table = read_parquet(path, KEY)
        if any(column.partition(".")[0] in table.column_names for column in INDEX_COLUMNS):
            return table, load_originals(path, KEY)
    records = load_pairs(path, keys=(KEY, KEY), rephrased_needed=False)
    rows = [ViewRow(r.pair_id, r.original, r.answer, r.level, r.subject) for r in records]
    return view_table(rows, Path(path).stem, "train"), [record.original for record in records]


def run(job: Job, comm: Communicator, console: Console) -> dict[str, Any]:
    """The content of report.json, on all ranks. A collective; rank 0 writes, and prints its progress."""
    from megatron_coreward.utils.distributed import shutdown

    count, store, lock, done = len(job.batches), None, None, set[int]()
    with errors_on_all_ranks(comm):
        if comm.rank == 0:
            lock = FolderLock(job.options.output)
            store = Store(job.options.output, job.identity())
            done = store.done(count)
    done = comm.broadcast(done)
    pending = [number for number in range(count) if number not in done]
    if pending:
        if comm.rank == 0 and done:
            console.print(f"going on: {len(done)} of {count} batches are done", highlight=False)
        draw_batches(job, pending, store, comm, console)
    report: dict[str, Any] = {}
    with errors_on_all_ranks(comm):
        if store is not None:
            report = store.finish(job.table, store.read(count))
    report = comm.broadcast(report)
    if lock is not None:
        lock.release()
    if pending:
        job.drawer.close()
    else:
        shutdown()
    return report


def draw_batches(
    job: Job, pending: Sequence[int], store: Store | None, comm: Communicator, console: Console
) -> None:
    """Rephrases the pending batches one by one, each on disk before the next begins."""
    options, reward = job.options, job.config.reward
    wordings = Sampling(options.temperature, options.max_response_tokens, options.top_p, options.top_k)
    is_greedy = options.answer_samples == 1
    answers = Sampling(0.0 if is_greedy else options.temperature, options.max_response_tokens)
    job.drawer.start(comm)
    if store is not None:
        store.begin()
    grader = Grader(reward.equality, reward.timeout_s, reward.workers)
    rephraser = Rephraser(job.drawer, comm, grader, wordings, answers, options.answer_samples)
    compare = rephraser.compare if options.check_answers else None
    started = time.perf_counter()
    for finished, number in enumerate(pending, start=1):
        questions = {row: job.questions[row] for row in job.batches[number]}
        results = rephrase(questions, options.attempts, rephraser.draw, compare, options.keep)
        with errors_on_all_ranks(comm):
            if store is not None:
                store.write(number, results)
        if comm.rank == 0:
            left = (time.perf_counter() - started) / finished * (len(pending) - finished)
            accepted = sum(not result.reasons for result in results)
            console.print(
                f"batch {number + 1} of {len(job.batches)}: {accepted} of {len(results)} accepted; about "
                f"{timedelta(seconds=round(left))} left",
                highlight=False,
            )
