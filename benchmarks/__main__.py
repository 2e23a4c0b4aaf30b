"""Runs the rows of the suite one after the other, and writes the table of results.

    python -m benchmarks                    make bench: the short rows, measured anew
    python -m benchmarks --all              make bench-all: every row whose JSON file is not there yet
    python -m benchmarks --rows sync update these rows, measured anew
    python -m benchmarks --table            only benchmarks/RESULTS.md, from the JSON files
    python -m benchmarks --compare OLD.json NEW.json
    python -m benchmarks --rows sync --tiny shows only that a row runs; no table, no files

A row is a program of its own that leaves one JSON file in `--folder`. The machine should have nothing else to
do. `--compare` exits with 1 where something has become slower beyond the spread.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks.options import at_least_one
from benchmarks.record import Record, machine, slower, versions
from benchmarks.results import page, plot
from benchmarks.suite import ROWS, Row

TABLE = Path(__file__).parent / "RESULTS.md"
FOLDER = Path("build/bench")
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    console = Console(soft_wrap=True)
    if options.compare:
        found = slower(*(Record.read(path) for path in options.compare))
        console.print("\n".join(found) or "nothing has become slower beyond the spread", markup=False)
        return int(bool(found))
    failed = [] if options.table else run(options, console)
    if not options.tiny:
        files = {row.name: options.folder / f"{row.name}.json" for row in ROWS}
        records = {name: Record.read(file) for name, file in files.items() if file.is_file()}
        TABLE.write_text(page(ROWS, records, TABLE.read_text() if TABLE.is_file() else ""))
        for row in ROWS:
            if row.name in records and records[row.name].curve:
                plot(records[row.name], row.title, TABLE.with_name(f"{row.name}.svg"))
        console.print(f"the table is in {TABLE}")
    if failed:
        console.print(
            f"failed: {', '.join(failed)}; run again: python -m benchmarks --rows {' '.join(failed)}"
        )
    return int(bool(failed))


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS])
    made.add_argument("--all", action="store_true", help="every row; one with a JSON file is not run again")
    made.add_argument("--folder", type=Path, default=FOLDER, help="of the JSON files")
    made.add_argument("--repeats", type=at_least_one, help="instead of the row's own number")
    made.add_argument("--tiny", action="store_true", help="small sizes and one repeat")
    made.add_argument("--table", action="store_true", help="run nothing")
    made.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"))
    return made


def run(options: argparse.Namespace, console: Console) -> list[str]:
    """Runs what is asked for; the names of the rows that failed."""
    console.print("; ".join(f"{name} {value}" for name, value in (machine() | versions()).items()))
    failed = []
    with tempfile.TemporaryDirectory() as scratch:
        for row in ROWS:
            output = (Path(scratch) if options.tiny else options.folder).resolve() / f"{row.name}.json"
            if not wanted(row, options, output):
                continue
            console.rule(row.title)
            started = time.perf_counter()
            if not measure(row, output, options):
                failed.append(row.name)
            console.print(f"{row.name}: {time.perf_counter() - started:.0f} s")
    return failed


def wanted(row: Row, options: argparse.Namespace, output: Path) -> bool:
    if options.rows:
        return row.name in options.rows
    return not output.is_file() if options.all else row.short


def environment() -> dict[str, str]:
    """The shell's, without its numbers of threads: a row says itself how many it has, or has all cores."""
    return {name: value for name, value in os.environ.items() if name not in THREADS}


def measure(row: Row, output: Path, options: argparse.Namespace) -> bool:
    """Runs the row's program, and writes its name and command into its file; whether it succeeded."""
    command = [*row.command, *(["--tiny"] if options.tiny else [])]
    command += ["--repeats", str(options.repeats or (1 if options.tiny else row.repeats))]
    programs = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    output.unlink(missing_ok=True)
    started = subprocess.run(
        [*programs[command[0]], *command[1:], "--output", str(output)],
        env=environment() | {"CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    if started.returncode or not output.is_file():
        return False
    record = Record.read(output)
    record.row, record.command = row.name, " ".join(command)
    record.write(output)
    return True


if __name__ == "__main__":
    sys.exit(main())
