"""Before and after of one run: a table with paired bootstrap intervals, and its curves.

    coreward summarize runs/quickstart

Prints the table and writes it to RUN/summary.md, the curves to RUN/curves.png.
"""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from megatron_coreward.reporting.changes import COLUMNS, evaluation_changes, table_row, training_changes
from megatron_coreward.reporting.curves import save_curves
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code
from megatron_coreward.utils.metrics import read_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="coreward summarize", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder (run.output_dir)")
    return exit_code(summarize, parser.parse_args(arguments).run)


def summarize(run: Path) -> int:
    changes, records = evaluation_changes(run), read_metrics(run)
    rows = [table_row(change) for change in [*changes, *training_changes(records)]]
    table = Table(*COLUMNS, title=f"{run}: before and after {int(records[-1]['step'])} steps")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [" | ".join(row) for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
    (run / "summary.md").write_text("".join(f"| {line} |\n" for line in lines))
    save_curves(records, run / "curves.png")
    Console().print(f"curves: {run / 'curves.png'}")
    return 0
