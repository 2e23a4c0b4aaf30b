"""coreward rephrase data/math/train.parquet --model Qwen/Qwen3-4B --output pairs
coreward rephrase data/math/train.parquet --output pairs \\
    --api http://localhost:8000/v1 --api-model Qwen/Qwen3-4B

Puts each question into other words, checks them, and draws again what fails.
Batch by batch is on disk: the same command goes on after a kill.

  --model MODEL          folder or hub id that vLLM loads here
  --api URL              or an OpenAI-compatible endpoint, with --api-model NAME
  --api-key-env NAME     variable that holds its key (OPENAI_API_KEY)
  --api-concurrency N    requests at once (16)
  --api-timeout S        seconds for each (600)
  --api-extra JSON       more fields of each request
  --limit N, --batch N   first N questions (all); per batch (256)
  --attempts N, --seed N draws per question before it is rejected (3); seed (1)
  --keep REASON          what a wording is not rejected for; may be repeated
  --check-answers        both wordings must get one answer, by the majority of
  --answer-samples N     this many (4)
  --temperature X, --top-p X, --top-k N   of the wordings (0.7, 0.8, off)
  --max-prompt-tokens N, --max-response-tokens N     (2048, 2048)
  --thinking             lets a model think that can (with --model)
"""

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_coreward.rephrasing.attempts import GENERATION_REASONS
from megatron_coreward.rephrasing.checks import REASONS
from megatron_coreward.rephrasing.endpoint import KEY_VARIABLE
from megatron_coreward.rephrasing.program import prepare, run
from megatron_coreward.utils.logging import exit_code, setup_logging

DONE, NOTHING = 0, 1
MEANINGS = REASONS | GENERATION_REASONS
DEFAULTS: dict[str, str | int | float | None] = {
    **{"model": None, "api": None, "api-model": None, "api-key-env": KEY_VARIABLE, "api-extra": None},
    **{"api-concurrency": 16, "api-timeout": 600.0},
    **{"limit": 0, "batch": 256, "attempts": 3, "seed": 1, "answer-samples": 4},
    **{"temperature": 0.7, "top-p": 0.8, "top-k": 0},
    **{"max-prompt-tokens": 2048, "max-response-tokens": 2048},
}
USAGE = "coreward rephrase QUESTIONS --output DIR --model MODEL ... [key=value]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 done, 1 no question could be rephrased, 2 wrong input."""
    return exit_code(rephrase, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        usage=USAGE, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    add = partial(parser.add_argument, help=argparse.SUPPRESS)
    add("questions")
    add("overrides", nargs="*")
    add("--output", type=Path, required=True)
    add("--keep", action="append", default=[], choices=MEANINGS, metavar="REASON")
    for name in ("--check-answers", "--thinking"):
        add(name, action="store_true")
    for name, default in DEFAULTS.items():
        add(f"--{name}", default=default, type=str if default is None else type(default))
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
    if not report["reasons"]:
        return f"{title}: {drawn}."
    table = Table("rejected for", "questions", "meaning", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for reason, count in report["reasons"].items():
        table.add_row(reason, f"{count:,}", MEANINGS[reason])
    table.caption = f"accepted: {drawn or 'none'}"
    return table
