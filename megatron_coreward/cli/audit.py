"""coreward audit original.parquet rephrased.parquet
coreward audit pairs.parquet --write-clean data/clean --keep length

What is wrong with question pairs, in two aligned files or one of pairs.
--write-clean writes the same files without the rejected rows.

  --keep REASON       what a pair is not rejected for; may be repeated:
                      {reasons}
  --output FILE       writes the rejects to this Parquet file
  --write-clean DIR   writes the pairs without the rejects
  --examples N        examples shown per reason (2)
  --json              counts as JSON in place of the table

Exit codes: 0 nothing is rejected, or the clean files are written; 1 rejects;
2 wrong input.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from textwrap import wrap

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
from megatron_coreward.utils.logging import exit_code

CLEAN, REJECTS = 0, 1
KEYS = ("ORIGINAL", "REPHRASED")
SHOWN_CHARACTERS = 160


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    reasons = f"\n{' ' * 22}".join(wrap(", ".join(REASONS), 56))
    parser = argparse.ArgumentParser(
        usage="coreward audit ORIGINAL [REPHRASED] [options]",
        description=(__doc__ or "").format(reasons=reasons),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    add = partial(parser.add_argument, help=argparse.SUPPRESS)
    add("original", type=Path)
    add("rephrased", type=Path, nargs="?")
    add("--keep", action="append", default=[], choices=REASONS, metavar="REASON")
    add("--output", type=Path)
    add("--write-clean", type=Path)
    add("--examples", type=int, default=2)
    add("--json", action="store_true")
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
    else:
        output = Console()
        if rejects:
            output.print(counts_table(pairs, rejects))
        else:
            output.print(f"None of {len(pairs):,} pairs has a fault.", highlight=False)
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
