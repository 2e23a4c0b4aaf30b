"""One HTML page about one or more runs: curves, before and after, settings that differ, rollouts to read.

    coreward report runs/quickstart --output report.html
    coreward report runs/first runs/second --output both.html
    coreward report runs/quickstart --output curves.png  # the curves, as a picture

The page needs no server and no network. It holds the figures of every step, and the responses to some pairs
of some steps (--pairs, --steps), evenly spread, and says how many of how many.

Exit codes: 0 written; 2 wrong input.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from megatron_coreward.reporting.curves import save_curves
from megatron_coreward.reporting.page import write_page
from megatron_coreward.reporting.runs import Run, check_folders, read_run, run_names
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code
from megatron_coreward.utils.metrics import read_metrics

DONE = 0
PICTURE = ".png"
LARGE_PAGE_BYTES = 100_000_000


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(report, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward report", description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder (run.output_dir)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("report.html"),
        help="page to write; NAME.png: the curves of one run as a picture",
    )
    parser.add_argument(
        "--steps", type=int, default=6, help="steps per run with rollouts to read (default 6, 0 = all)"
    )
    parser.add_argument("--pairs", type=int, default=6, help="pairs per such step (default 6, 0 = all)")
    return parser.parse_args(arguments)


def report(options: argparse.Namespace) -> int:
    check_options(options)
    check_folders(options.runs)
    if options.output.suffix == PICTURE:
        save_curves(read_metrics(options.runs[0]), options.output)
        return DONE
    runs = [
        read_run(folder, name, options.steps, options.pairs)
        for folder, name in zip(options.runs, run_names(options.runs), strict=True)
    ]
    write_page(runs, options.output)
    show_size(Console(), options.output, runs)
    return DONE


def check_options(options: argparse.Namespace) -> None:
    if options.steps < 0 or options.steps == 1:
        raise ValueError(
            f"--steps is {options.steps}, but the first and the last step are always shown: "
            "give 2 or more, or 0 for all"
        )
    if options.pairs < 0:
        raise ValueError(f"--pairs is {options.pairs}, but must be 1 or more, or 0 for all")
    if options.output.suffix == PICTURE and len(options.runs) > 1:
        raise ValueError(
            f"--output {options.output} is a picture, which shows one run, but {len(options.runs)} are "
            "given: name one run, or a page (.html)"
        )
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; give the name of a file")
    folder = options.output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output {options.output}: {folder} cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--output {options.output}: {folder} is not writable; choose another folder")


def show_size(console: Console, path: Path, runs: Sequence[Run]) -> None:
    size = path.stat().st_size
    console.print(f"{path}: {size / 1e6:.1f} MB", highlight=False, markup=False, soft_wrap=True)
    for run in runs:
        pairs = sum(len(step["pairs"]) for step in run.rollouts)
        line = f"  {run.name}: rollouts of {pairs} pairs in {len(run.rollouts)} of {run.rollout_steps} steps"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if size > LARGE_PAGE_BYTES:
        console.print("a browser may be slow with this page: lower --steps or --pairs", style="yellow")
