"""Checks existing question pairs and writes them without the faulty ones.

    coreward audit data/train_original.parquet data/train_rewrite.parquet
    coreward audit pairs.parquet --output rejects.parquet --write-clean data/clean

Reads both layouts that training reads: two aligned files, or one file with original_question and
rephrased_question. --write-clean writes files of the same names and columns without the rejected rows. How
often each reason is wrong: docs/evidence/rephrasing_checks.md.

Exit codes: 0 nothing rejected, or the clean files are written; 1 rejects; 2 wrong input.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_coreward.data.pair_files import write_table
from megatron_coreward.data.pairs import PairRecord, load_pairs
from megatron_coreward.rephrasing.audit import (
    Reject,
    audit,
    check_clean_folder,
    counts_of,
    rejects_table,
    write_clean,
)
from megatron_coreward.rephrasing.checks import REASONS
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code

CLEAN, REJECTS = 0, 1
KEYS = ("ORIGINAL", "REPHRASED")
SHOWN_CHARACTERS = 160


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward audit", description=__doc__)
    parser.add_argument("original", type=Path, help="original questions, or both wordings")
    parser.add_argument("rephrased", type=Path, nargs="?", help="rephrased questions")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        choices=REASONS,
        metavar="REASON",
        help=f"do not reject for this reason; may be repeated: {', '.join(REASONS)}",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rejects to this Parquet file")
    parser.add_argument("--write-clean", type=Path, metavar="DIR", help="write the rest as Parquet files")
    parser.add_argument("--examples", type=int, default=2, metavar="N", help="examples per reason (2)")
    parser.add_argument("--json", action="store_true", help="counts as JSON in place of the table")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    files = [file for file in (options.original, options.rephrased) if file is not None]
    console = Console(stderr=True)
    if options.write_clean:
        check_clean_folder(files, options.write_clean)
    pairs = load_pairs(str(options.original), str(options.rephrased or ""), KEYS)
    with console.status(f"checking {len(pairs):,} pairs"):
        rejects = audit(pairs, options.keep)
    if options.output:
        write_table(rejects_table(rejects), options.output)
    written = write_clean(files, options.write_clean, rejects) if options.write_clean else []
    if options.json:
        counts = {"pairs": len(pairs), "rejected": len(rejects), "reasons": counts_of(rejects)}
        sys.stdout.write(json.dumps(counts, indent=1) + "\n")
    elif not rejects:
        Console().print(f"no fault in {len(pairs):,} pairs", highlight=False)
    else:
        output = Console()
        output.print(counts_table(pairs, rejects))
        for line in example_lines(rejects, options.examples):
            output.print(line, markup=False, highlight=False, soft_wrap=True)
    for file in written:
        console.print(f"{len(pairs) - len(rejects):,} pairs are in {file}", highlight=False, soft_wrap=True)
    return REJECTS if rejects and not written else CLEAN


def shorten(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else flat[: SHOWN_CHARACTERS - 1] + "…"


def counts_table(pairs: Sequence[PairRecord], rejects: Sequence[Reject]) -> Table:
    table = Table(title=f"{len(rejects):,} of {len(pairs):,} pairs have a fault", title_justify="left")
    table.add_column("reason", no_wrap=True)
    table.add_column("pairs", justify="right")
    table.add_column("share", justify="right")
    table.add_column("meaning")
    for reason, count in counts_of(rejects).items():
        table.add_row(reason, f"{count:,}", f"{count / len(pairs):.2%}", REASONS[reason])
    return table


def example_lines(rejects: Sequence[Reject], examples: int) -> Iterator[str]:
    """The first `examples` pairs of every reason, both wordings shortened."""
    for reason in counts_of(rejects):
        faulty = [
            (reject.pair, fault) for reject in rejects for fault in reject.findings if fault.reason == reason
        ]
        for pair, fault in faulty[:examples]:
            yield f"{reason}, row {pair.pair_id}{': ' if fault.detail else ''}{shorten(fault.detail)}"
            yield f"    {shorten(pair.original)}"
            yield f"  > {shorten(pair.rephrased)}"
