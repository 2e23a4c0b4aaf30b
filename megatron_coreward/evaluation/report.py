"""The files that an evaluation writes: summary.json, a table for people, and every response.

OUTPUT/summary.json     measures with intervals, by level and subject, and the outcome of every question
       summary.md       the tables that are printed
       NAME.parquet     one row per response of the benchmark NAME
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from megatron_coreward.evaluation.measures import GREEDY, SAMPLED, Row, Scores, by_group, estimates
from megatron_coreward.grading.grader import NO_ANSWER

SUMMARY_FILE, TABLES_FILE = "summary.json", "summary.md"
WIDTH = 120
"""Columns of the tables where the output is no terminal."""

Summary = dict[str, Any]


def benchmark_summary(
    scores: Scores, rows: Sequence[Row], ks: Sequence[int], seeds: Sequence[int], dropped: int
) -> Summary:
    """A benchmark's entry in summary.json, from the rows of all ranks. The first seed draws the bootstrap.

    Scores.from_outcomes reads the entries of `outcomes`, for `compare`.
    """
    values = scores.by_question(ks)
    best = {name: v for name, v in values.items() if name in headline(scores.samples, ks)}
    labels = {row["question_id"]: row for row in rows}
    questions = [labels[question_id] for question_id in scores.question_ids_Q.tolist()]
    outcomes = scores.outcomes()
    return {
        "questions": len(questions),
        "dropped": dropped,
        "metrics": estimates(values, seeds[0]),
        "levels": by_group(best, [row["level"] for row in questions], seeds[0]),
        "subjects": by_group(best, [row["subject"] for row in questions], seeds[0]),
        "responses": {kind: _response_figures(rows, kind) for kind in (GREEDY, SAMPLED)},
        "outcomes": [{"seed": s, **entry} for s, entry in zip(seeds, outcomes, strict=True)]
        if ks
        else outcomes,
    }


def headline(samples: int, ks: Sequence[int]) -> list[str]:
    """The measures that get a column of their own. `ks` are sorted; there are none if nothing is sampled."""
    if not ks:
        return ["greedy_pass@1"]
    return [
        "greedy_pass@1",
        f"avg@{samples}",
        *(f"{kind}@{ks[-1]}" for kind in ("pass", "maj") if ks[-1] > 1),
    ]


def _response_figures(rows: Sequence[Row], decoding: str) -> dict[str, float]:
    """Shares of responses without an answer and cut off at the limit, and mean tokens; empty if none."""
    drawn = [row for row in rows if row["decoding"] == decoding]
    figures = {
        "no_answer": [row["answer_class"] == NO_ANSWER for row in drawn],
        "cut_off": [row["finish_reason"] == "length" for row in drawn],
        "mean_tokens": [row["response_tokens"] for row in drawn],
    }
    return {name: float(np.mean(values)) for name, values in figures.items() if values}


@dataclass(frozen=True)
class Grid:
    """A table; a cell is one or several lines."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def rich(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        rows = [self.columns, ["---"] * len(self.columns), *self.rows]
        lines = ["| " + " | ".join(cell.replace("\n", "<br>") for cell in row) + " |" for row in rows]
        return "\n".join([f"**{self.title}**", "", *lines, ""])


def grids(summary: Summary) -> list[Grid]:
    """Benchmarks with a row each; then every k, levels, subjects and responses, where there are any."""
    benchmarks, samples, ks = summary["benchmarks"], summary["samples"], summary["ks"]
    names = headline(samples, ks)
    title = f"{summary['model']}: 95% intervals over questions"
    if samples:
        title += f", {samples} samples at temperature {summary['temperature']:g}"
    if len(summary["seeds"]) > 1:
        title += f", ± spread over {len(summary['seeds'])} seeds"
    main = Grid(
        title,
        ["benchmark", "questions", *names],
        [[name, _count(benchmark), *_cells(benchmark, names)] for name, benchmark in benchmarks.items()],
    )
    groups = [
        Grid(f"by {what}", ["benchmark", what, "questions", *names], _group_rows(benchmarks, key, names))
        for what, key in (("level", "levels"), ("subject", "subjects"))
    ]
    responses = Grid(
        "responses",
        ["benchmark", "decoding", "no answer", "cut off at the limit", "mean tokens"],
        [
            [name, kind, f"{f['no_answer']:.1%}", f"{f['cut_off']:.1%}", f"{f['mean_tokens']:.0f}"]
            for name, benchmark in benchmarks.items()
            for kind, f in benchmark["responses"].items()
            if f
        ],
    )
    return [grid for grid in (main, *_every_k(benchmarks, ks), *groups, responses) if grid.rows]


def _every_k(benchmarks: dict[str, Summary], ks: Sequence[int]) -> Iterator[Grid]:
    for kind, measured in (("pass", ks), ("maj", [k for k in ks if k > 1])):
        names = [f"{kind}@{k}" for k in measured]
        if len(names) > 1:
            rows = [[name, *_cells(benchmark, names)] for name, benchmark in benchmarks.items()]
            yield Grid(f"{kind}@k", ["benchmark", *names], rows)


def _group_rows(benchmarks: dict[str, Summary], key: str, names: Sequence[str]) -> list[list[str]]:
    return [
        [name, label, str(group["questions"]), *_cells(group, names)]
        for name, benchmark in benchmarks.items()
        for label, group in benchmark[key].items()
    ]


def _count(benchmark: Summary) -> str:
    return f"{benchmark['questions']}" + (
        f"\n{benchmark['dropped']} too long" if benchmark["dropped"] else ""
    )


def _cells(measured: Summary, names: Sequence[str]) -> list[str]:
    return [_cell(measured["metrics"][name]) for name in names]


def _cell(estimate: dict[str, Any]) -> str:
    lines = [f"{estimate['value']:.3f}", f"{estimate['low']:.3f} to {estimate['high']:.3f}"]
    return "\n".join([*lines, f"± {estimate['spread']:.3f}"] if "spread" in estimate else lines)


def print_tables(summary: Summary) -> None:
    """The tables on stdout."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for grid in grids(summary):
        console.print(grid.rich())


def write_summary(folder: Path, summary: Summary) -> None:
    """summary.json and summary.md."""
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
    (folder / TABLES_FILE).write_text("\n".join(grid.markdown() for grid in grids(summary)))


def write_rows(folder: Path, name: str, rows: Sequence[Row]) -> None:
    """NAME.parquet, in order of questions."""
    ordered = sorted(rows, key=lambda row: (row["question_id"], row["decoding"], row["seed"], row["sample"]))
    pq.write_table(pa.Table.from_pylist(ordered), folder / f"{name}.parquet", compression="zstd")
