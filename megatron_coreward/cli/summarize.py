"""Before and after of one run: a table with paired bootstrap intervals, and its curves.

    coreward summarize runs/quickstart --by subject

Prints the table and writes it to RUN/summary.md, the curves to RUN/curves.png.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from rich.console import Console
from rich.table import Table

from megatron_coreward.config.loading import load_config
from megatron_coreward.data.prompts import evaluation_questions
from megatron_coreward.reporting.changes import (
    COLUMNS,
    changes_by,
    evaluation_changes,
    table_row,
    training_changes,
)
from megatron_coreward.reporting.curves import save_curves
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.run_names import CONFIG_FILE

Group = Literal["level", "subject"]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="coreward summarize", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder (run.output_dir)")
    parser.add_argument("--by", choices=get_args(Group), help="level or subject: also the measures of each")
    options = parser.parse_args(arguments)
    return exit_code(summarize, options.run, options.by)


def summarize(run: Path, by: Group | None = None) -> int:
    changes, records = evaluation_changes(run), read_metrics(run)
    if by is not None:
        changes += changes_by(labels(run, by), run)
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


def labels(run: Path, by: Group) -> dict[int, str]:
    """The level or subject of each evaluation question of a run, by its id.

    Raises ValueError if the questions cannot be read again, or none has one.
    """
    config = run / CONFIG_FILE
    questions = evaluation_questions(load_config([config]))
    found = {q.question_id: q.level if by == "level" else q.subject for q in questions}
    if not any(found.values()):
        raise ValueError(f"the evaluation questions of {config} have no {by}; leave --by {by} out")
    return found
