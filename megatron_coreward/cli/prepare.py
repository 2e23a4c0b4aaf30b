"""Turns public math data, or your own, into the Parquet files that training, evaluation and rephrasing read.

    coreward prepare math MATH/ --output data/math  # train/, test/ of JSON files
    coreward prepare math train-00000-of-00001.parquet --output data/math
    coreward prepare gsm8k gsm8k/main --output data/gsm8k
    coreward prepare dapo dapo-math-17k.parquet --latin --output data/dapo
    coreward prepare own mine.jsonl --holdout 50 --output data/mine
    coreward prepare own my.csv --question-column q --answer-column a --output mine

INPUT is a file or a folder of Parquet, JSON, JSONL or CSV files on this machine; nothing is downloaded. Names
of folders and files that begin with train, test or validation tell the split. OUTPUT gets one file per split
and report.json, and appears only when all of it is complete. Dropped rows are counted by reason: no question,
no answer, duplicates, contradictory answers, questions of the test split or of --exclude files.

Exit codes: 0 done, 2 wrong input.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_coreward.data.columns import NamedColumns
from megatron_coreward.data.preparation.formats import CONVERTERS, Converter, from_columns
from megatron_coreward.data.preparation.splits import (
    Split,
    check_output,
    check_rows,
    find_inputs,
    hold_out,
    read_splits,
    separate,
    write,
)
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code

DONE = 0


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward prepare", description=__doc__)
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, description in {
        "math": "Hendrycks MATH: its folder, or tables with problem, solution or answer, level, type",
        "gsm8k": "question, and answer with the number after ####",
        "dapo": "DAPO-Math-17k, as released or processed",
        "own": "any file with a column of questions, and of answers and rephrasings where there are some",
    }.items():
        command = formats.add_parser(name, help=description, description=__doc__)
        command.add_argument("input", type=Path, metavar="INPUT", help="file or folder")
        command.add_argument("--output", type=Path, required=True, metavar="DIR")
        command.add_argument("--overwrite", action="store_true", help="replace an earlier output")
        command.add_argument("--split", help="the split of all of INPUT; otherwise names tell it")
        command.add_argument(
            "--holdout", type=int, default=0, metavar="N", help="make N random rows the test split"
        )
        command.add_argument("--seed", type=int, default=1, help="of --holdout (1)")
        command.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="FILE",
            help="leave out questions of this file, a benchmark for example; may be repeated",
        )
        command.add_argument("--keep-unanswered", action="store_true", help="training needs no answers")
        command.add_argument("--latin", action="store_true", help="drop questions in other scripts")
    own = formats.choices["own"]
    usual = "without it the names that training reads"
    own.add_argument("--question-column", metavar="NAME", help=usual)
    own.add_argument("--rephrased-column", metavar="NAME", help=f"{usual}, where there are some")
    own.add_argument(
        "--answer-column", metavar="NAME", help=f"the answer, or a solution with \\boxed{{}} or ####; {usual}"
    )
    own.add_argument("--level-column", metavar="NAME")
    own.add_argument("--subject-column", metavar="NAME")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    check_output(options.output, options.overwrite)
    convert, unanswered = converter(options), options.keep_unanswered
    with Console(stderr=True).status(f"reading {options.input}"):
        splits = read_splits(find_inputs(options.input, options.split), convert, unanswered, options.latin)
        if options.holdout:
            hold_out(splits, options.holdout, options.seed)
        separate(splits, options.exclude)
        check_rows(splits, options.input)
        write(splits, options.output, options.format)
    Console().print(report_table(splits, options.output))
    return DONE


def converter(options: argparse.Namespace) -> Converter:
    if options.format in CONVERTERS:
        return CONVERTERS[options.format]
    named = NamedColumns(
        options.question_column or "", options.rephrased_column or "", options.answer_column or ""
    )
    return from_columns(named, options.level_column, options.subject_column)


def report_table(splits: dict[str, Split], folder: Path) -> Table:
    table = Table("split", "rows", "", "first", title=f"written to {folder}", title_justify="left")
    table.columns[1].justify = "right"
    for name, split in splits.items():
        table.add_row(name, f"{split.read:,}", "read", "")
        for reason, count in split.dropped.items():
            table.add_row("", f"-{count:,}", f"dropped: {reason}", split.first[reason])
        table.add_row("", f"{len(split.kept):,}", "kept", "", end_section=True)
    return table
