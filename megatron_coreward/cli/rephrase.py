"""Puts questions into other words, checks each wording, and draws again what fails a check.

    coreward rephrase data/math/train.parquet --model Qwen/Qwen3-4B --output pairs
    coreward rephrase train.parquet --output pairs --api URL --api-model NAME

Batch by batch is on disk: the same command goes on after a kill. Exit codes: 0 done, 1 no question could be
rephrased, 2 wrong input.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_coreward.config.option_hints import as_override
from megatron_coreward.rephrasing.attempts import GENERATION_REASONS
from megatron_coreward.rephrasing.checks import REASONS
from megatron_coreward.rephrasing.endpoint import KEY_VARIABLE
from megatron_coreward.rephrasing.program import prepare, run
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code, setup_logging

DONE, NOTHING = 0, 1
MEANINGS = REASONS | GENERATION_REASONS


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 no question could be rephrased, 2 wrong input."""
    return exit_code(rephrase, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward rephrase", description=__doc__, instead=as_override)
    add = parser.add_argument
    add("questions", metavar="QUESTIONS", help="file of questions: Parquet, JSONL, JSON or CSV")
    add("--output", type=Path, required=True, metavar="DIR", help="of the pairs, rejects and report")
    add("--model", help="folder or hub id that vLLM loads here, or:")
    add("--api", metavar="URL", help="an OpenAI-compatible endpoint")
    add("--api-model", metavar="NAME", help="the endpoint's name of the model")
    add("--api-key-env", default=KEY_VARIABLE, metavar="NAME", help=f"variable with its key ({KEY_VARIABLE})")
    add("--api-concurrency", type=int, default=16, metavar="N", help="requests at once (16)")
    add("--api-timeout", type=float, default=600.0, metavar="S", help="seconds for each (600)")
    add("--api-extra", metavar="JSON", help="more fields of each request")
    add("--limit", type=int, default=0, metavar="N", help="only the first N questions; 0 = all")
    add("--check-answers", action="store_true", help="both wordings must get one answer")
    add("--attempts", type=int, default=3, metavar="N", help="draws per question before it is rejected (3)")
    add("--batch", type=int, default=256, metavar="N", help="questions per batch (256)")
    add("--keep", action="append", default=[], choices=MEANINGS, metavar="REASON",
        help=f"no fault; may be repeated: {', '.join(MEANINGS)}")  # fmt: skip
    add("--answer-samples", type=int, default=4, metavar="N", help="answers per wording, which vote (4)")
    add("--temperature", type=float, default=0.7, metavar="X", help="of the rephrasings (0.7)")
    add("--top-p", type=float, default=0.8, metavar="X", help="of the rephrasings (0.8)")
    add("--top-k", type=int, default=0, metavar="N", help="of the rephrasings; 0 = off")
    add("--thinking", action="store_true", help="let a model think that can (with --model)")
    add("--max-prompt-tokens", type=int, default=2048, metavar="N", help="longer ones are rejected (2048)")
    add("--max-response-tokens", type=int, default=2048, metavar="N", help="generation limit (2048)")
    add("--seed", type=int, default=1, metavar="N", help="of the first attempt (1)")
    add("overrides", nargs="*", metavar="key=value", help="keys of a run: rollout, model, reward")
    return parser.parse_intermixed_args(arguments)


def rephrase(options: argparse.Namespace) -> int:
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    console = setup_logging(rank)
    job = prepare(options, world_size)
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize  # slow to import

    if options.model:
        initialize()
    report = run(job, TorchCommunicator(), console)
    if rank == 0:
        Console().print(report_table(report, options.output), highlight=False, soft_wrap=True)
    return DONE if report["accepted"] else NOTHING


def report_table(report: dict[str, Any], folder: Path) -> Table | str:
    """Why questions were rejected; one sentence if none was."""
    title = f"{report['accepted']:,} of {report['questions']:,} questions rephrased, in {folder}"
    drawn = ", ".join(f"{count:,} at attempt {n}" for n, count in report["accepted_at_attempt"].items())
    if not report["accepted"]:
        title += ". A larger model may do it, here or by --api; or bring your own, or train without"
    if not report["reasons"]:
        return f"{title}: {drawn}."
    table = Table("rejected for", "questions", "meaning", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for reason, count in report["reasons"].items():
        table.add_row(reason, f"{count:,}", MEANINGS[reason])
    table.caption = f"accepted: {drawn or 'none'}"
    return table
