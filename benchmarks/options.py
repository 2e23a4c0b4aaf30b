"""What every row's program has in common: three of its options, and what becomes of its record."""

import argparse
from pathlib import Path

from rich.console import Console

from benchmarks.record import Record
from benchmarks.results import figures


def row_parser(about: str, repeats: int, tiny: str) -> argparse.ArgumentParser:
    """A parser with --repeats, --tiny and --output; `about` is the program's docstring."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=at_least_one, default=repeats, metavar="N", help=f"default {repeats}")
    made.add_argument("--tiny", action="store_true", help=tiny)
    made.add_argument("--output", type=Path, metavar="FILE.json", help="where to keep the figures as JSON")
    return made


def at_least_one(text: str) -> int:
    """An option's value; argparse names the option beside the message.

    Raises:
        ArgumentTypeError: it is not a whole number, or below 1.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text} given, allowed are whole numbers from 1 on")
    return int(text)


def leave(record: Record, output: Path | None) -> None:
    """Shows the record's figures, and writes them where `--output` says."""
    Console(soft_wrap=True).print(figures(record), markup=False, highlight=False)
    if output:
        record.write(output)
