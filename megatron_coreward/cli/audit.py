"""Checks existing question pairs and writes them without the faulty ones.

    coreward audit train_original.parquet train_rewrite.parquet
    coreward audit pairs.parquet --output rejects.parquet --write-clean data/clean --keep length

Reads both layouts that training reads: two aligned files, or one file with original_question and
rephrased_question. --write-clean writes files of the same names and columns without the rejected rows. How
often each reason is wrong: docs/data.md.

Exit codes: 0 nothing rejected, or the clean files are written; 1 rejects; 2 wrong input.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.table import Table

from megatron_coreward.data.pair_files import write_table
from megatron_coreward.data.pairs import PairRecord, load_pairs
from megatron_coreward.data.tables import read_parquet
from megatron_coreward.rephrasing.checks import REASONS, Finding, check
from megatron_coreward.utils.logging import print_error

CLEAN, REJECTS, REFUSED = 0, 1, 2
KEYS = ("ORIGINAL", "REPHRASED")
SHOWN_CHARACTERS = 160


@dataclass(frozen=True)
class Reject:
    """A pair with its faults."""

    pair: PairRecord
    findings: tuple[Finding, ...]


def audit(pairs: Sequence[PairRecord], keep: Sequence[str] = ()) -> list[Reject]:
    """Pairs with a fault other than the reasons in `keep`, in order, with those faults."""
    found = (
        (pair, [one for one in check(pair.original, pair.rephrased) if one.reason not in keep])
        for pair in pairs
    )
    return [Reject(pair, tuple(findings)) for pair, findings in found if findings]


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """One row per rejected pair; `row` counts from 0 in the files read."""
    text = pa.string()
    columns = {
        "row": (pa.int64(), [one.pair.pair_id for one in rejects]),
        "reasons": (pa.list_(text), [[found.reason for found in one.findings] for one in rejects]),
        "details": (pa.list_(text), [[found.detail for found in one.findings] for one in rejects]),
        "original": (text, [one.pair.original for one in rejects]),
        "rephrased": (text, [one.pair.rephrased for one in rejects]),
        "answer": (text, [one.pair.answer for one in rejects]),
        "level": (text, [one.pair.level for one in rejects]),
        "type": (text, [one.pair.subject for one in rejects]),
    }
    return pa.table({name: pa.array(values, type=kind) for name, (kind, values) in columns.items()})


def counts_of(rejects: Sequence[Reject]) -> dict[str, int]:
    """Rejected pairs by reason, in the order of REASONS; a pair may have several."""
    counts = Counter(found.reason for one in rejects for found in one.findings)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def check_clean_folder(files: Sequence[Path], folder: Path) -> None:
    if folder.resolve() in {file.resolve().parent for file in files}:
        raise ValueError(
            f"--write-clean {folder} is the folder of the files themselves, which would be overwritten; "
            f"choose another folder"
        )
    if len({file.name for file in files}) < len(files):
        raise ValueError(
            f"--write-clean needs files of different names, but both are {files[0].name}; rename one"
        )


def write_clean(files: Sequence[Path], folder: Path, rejects: Sequence[Reject]) -> list[Path]:
    """Copies of the files without the rejected rows, in `folder`, under their names."""
    bad = {one.pair.pair_id for one in rejects}
    written = []
    for file in files:
        table = read_parquet(str(file), "file")
        mask = pa.array([row not in bad for row in range(table.num_rows)])
        if len(bad) == table.num_rows:
            raise ValueError(f"--write-clean {folder}: every pair is rejected, so nothing is left to write")
        folder.mkdir(parents=True, exist_ok=True)
        write_table(table.filter(mask), folder / file.name)
        written.append(folder / file.name)
    return written


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
        found = [
            (one.pair, finding) for one in rejects for finding in one.findings if finding.reason == reason
        ]
        for pair, finding in found[:examples]:
            yield f"{reason}, row {pair.pair_id}{': ' if finding.detail else ''}{shorten(finding.detail)}"
            yield f"    {shorten(pair.original)}"
            yield f"  > {shorten(pair.rephrased)}"


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("original", type=Path, help="original questions, or both wordings (Parquet)")
    parser.add_argument("rephrased", type=Path, nargs="?", help="rephrased questions (Parquet)")
    parser.add_argument(
        "--keep",
        action="append",
        default=[],
        choices=REASONS,
        metavar="REASON",
        help=f"do not reject for this reason; may be repeated: {', '.join(REASONS)}",
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the rejects to this Parquet file")
    parser.add_argument("--write-clean", type=Path, metavar="DIR", help="write the pairs without the rejects")
    parser.add_argument("--examples", type=int, default=2, metavar="N", help="examples per reason (2)")
    parser.add_argument("--json", action="store_true", help="counts as JSON in place of the table")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_args(arguments)
    files = [file for file in (options.original, options.rephrased) if file is not None]
    console = Console(stderr=True)
    try:
        if options.write_clean:
            check_clean_folder(files, options.write_clean)
        pairs = load_pairs(str(options.original), str(options.rephrased or ""), KEYS)
        with console.status(f"checking {len(pairs):,} pairs"):
            rejects = audit(pairs, options.keep)
        if options.output:
            write_table(rejects_table(rejects), options.output)
        written = write_clean(files, options.write_clean, rejects) if options.write_clean else []
    except (ValueError, OSError) as error:
        print_error(error)
        return REFUSED
    if options.json:
        counts = {"pairs": len(pairs), "rejected": len(rejects), "reasons": counts_of(rejects)}
        sys.stdout.write(json.dumps(counts, indent=1) + "\n")
    else:
        output = Console()
        output.print(counts_table(pairs, rejects))
        for line in example_lines(rejects, options.examples):
            output.print(line, markup=False, highlight=False, soft_wrap=True)
    for file in written:
        console.print(f"{len(pairs) - len(rejects):,} pairs are in {file}", highlight=False, soft_wrap=True)
    return REJECTS if rejects and not written else CLEAN


if __name__ == "__main__":
    sys.exit(main())
