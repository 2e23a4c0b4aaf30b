"""Before and after of one run: a table with paired bootstrap intervals, and its curves.

    python tools/summarize_run.py RUN

Prints the table and writes it to RUN/summary.md, the curves to RUN/curves.png.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from plot_run import draw
from rich.console import Console
from rich.table import Table

from megatron_coreward.evaluation.outcomes import EvalResult, compare
from megatron_coreward.run_folder import EVALUATIONS
from megatron_coreward.utils.metrics import read_metrics

COLUMNS = ("measure", "before", "after", "change", "95% interval")
TRAINING_FIGURES = {
    "vote accuracy, original questions": "diagnostics/original/label_accuracy",
    "vote accuracy, rephrased questions": "diagnostics/rephrased/label_accuracy",
    "agreement of the two votes": "coreward/agreement",
    "mean reward": "reward/mean",
    "log-prob gap to vLLM, mean (nats)": "mismatch/mean_abs",
    "log-prob gap to vLLM, largest (nats)": "mismatch/max_abs",
}
AVERAGED_STEPS = 10
SEED = 1


def evaluation_rows(folder: Path) -> list[tuple[str, ...]]:
    """One row per measure of the first and the last evaluation."""
    files = sorted((folder / EVALUATIONS).glob("step_*.json"))
    if len(files) < 2:
        raise ValueError(f"{folder / EVALUATIONS} holds {len(files)} evaluations; before and after need two")
    before, after = (EvalResult.from_summary(json.loads(f.read_text())) for f in (files[0], files[-1]))
    old, new = before.metrics(), after.metrics()
    return [
        (
            name.removeprefix("eval/"),
            f"{old[name]:.3f}",
            f"{new[name]:.3f}",
            f"{change.value:+.3f}",
            f"{change.low:+.3f} to {change.high:+.3f}",
        )
        for name, change in compare(before, after, SEED).items()
    ]


def training_rows(records: Sequence[dict[str, float]]) -> list[tuple[str, ...]]:
    """Means over the first and the last ten steps."""
    rows = []
    for label, name in TRAINING_FIGURES.items():
        values = [record[name] for record in records if name in record]
        if values:
            first, last = values[:AVERAGED_STEPS], values[-AVERAGED_STEPS:]
            rows.append((label, f"{sum(first) / len(first):.3g}", f"{sum(last) / len(last):.3g}", "", ""))
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run folder (run.output_dir)")
    options = parser.parse_args(arguments)
    try:
        rows = evaluation_rows(options.run)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    records = read_metrics(options.run)
    rows += training_rows(records)
    table = Table(*COLUMNS, title=f"{options.run}: before and after {int(records[-1]['step'])} steps")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    lines = [" | ".join(row) for row in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
    (options.run / "summary.md").write_text("".join(f"| {line} |\n" for line in lines))
    draw(records).savefig(options.run / "curves.png", dpi=130)
    Console().print(f"curves: {options.run / 'curves.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
