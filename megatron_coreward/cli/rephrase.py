"""Rephrases questions with any model that vLLM loads, checks every rephrasing, and writes aligned pair files.

    coreward rephrase data/math/train.parquet --model Qwen/Qwen3-32B --output pairs
    torchrun --nproc-per-node 8 tools/rephrase_questions.py ...  # several ranks

QUESTIONS is a file of `coreward prepare`, or any Parquet file with prompt and extra_info.index. What fails
a check (docs/data.md) is drawn again with another seed. Work is done in batches, each on disk before the next
begins; the same command goes on after a kill. Under torchrun the ranks share the work. --check-answers: the
model must give both wordings one answer.

Exit codes: 0 done, 1 no question could be rephrased, 2 wrong input.
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
from megatron_coreward.rephrasing.program import prepare, run
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code, setup_logging

DONE, NOTHING = 0, 1
MEANINGS = REASONS | GENERATION_REASONS


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(rephrase, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward rephrase", description=__doc__, instead=as_override)
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


def rephrase(options: argparse.Namespace) -> int:
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize

    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    console = setup_logging(rank)
    job = prepare(options, world_size)
    initialize()
    report = run(job, TorchCommunicator(), console)
    if rank == 0:
        Console().print(report_table(report, options.output))
    return DONE if report["accepted"] else NOTHING


def report_table(report: dict[str, Any], folder: Path) -> Table:
    title = f"{report['accepted']:,} of {report['questions']:,} questions rephrased, in {folder}"
    table = Table("rejected for", "questions", "meaning", title=title, title_justify="left")
    table.columns[1].justify = "right"
    for reason, count in report["reasons"].items():
        table.add_row(reason, f"{count:,}", MEANINGS[reason])
    drawn = ", ".join(f"{count:,} at attempt {n}" for n, count in report["accepted_at_attempt"].items())
    table.caption = f"accepted: {drawn or 'none'}"
    return table
