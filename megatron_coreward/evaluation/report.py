"""What an evaluation leaves behind: summary.json, a table for people, and every response.

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

from megatron_coreward.evaluation.measures import Scores, by_group, estimates
from megatron_coreward.evaluation.outcomes import GREEDY, SAMPLED, EvalResult, Row
from megatron_coreward.grading.grader import NO_ANSWER

SUMMARY_FILE, TABLES_FILE = "summary.json", "summary.md"
WIDTH = 120
"""Columns of the tables where the output is no terminal."""

Summary = dict[str, Any]


def benchmark_summary(
    scores: Scores, rows: Sequence[Row], ks: Sequence[int], seeds: Sequence[int], dropped: int
) -> Summary:
    """One benchmark's part of summary.json, from the rows of all ranks. The first seed draws the bootstrap.

    `outcomes` has an entry per seed that EvalResult.from_summary({"outcomes": entry}) reads, for `compare`.
    """
    values = scores.by_question(ks)
    best = {name: v for name, v in values.items() if name in headline(scores.sampled_SQK.shape[2], ks)}
    labels = {row["question_id"]: row for row in rows}
    questions = [labels[question_id] for question_id in scores.question_ids_Q.tolist()]
    return {
        "questions": len(questions),
        "dropped": dropped,
        "metrics": estimates(values, seeds[0]),
        "levels": by_group(best, [row["level"] for row in questions], seeds[0]),
        "subjects": by_group(best, [row["subject"] for row in questions], seeds[0]),
        "responses": {kind: _response_figures(rows, kind) for kind in (GREEDY, SAMPLED)},
        "outcomes": list(_outcomes(scores, seeds)),
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


def _outcomes(scores: Scores, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    samples = scores.sampled_SQK.shape[2]
    if not len(scores.sampled_SQK):
        yield {"question_id": scores.question_ids_Q.tolist(), "greedy": scores.greedy_Q.astype(int).tolist()}
        return
    values = scores.by_question([samples])
    voted_SQ = values[f"maj@{samples}" if samples > 1 else "avg@1"]
    for seed, sampled_QK, voted_Q in zip(seeds, scores.sampled_SQK, voted_SQ, strict=True):
        result = EvalResult(scores.question_ids_Q, scores.greedy_Q, sampled_QK, voted_Q.astype(bool))
        yield {"seed": seed, **result.outcomes()}


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
        [[name, _count(found), *_cells(found, names)] for name, found in benchmarks.items()],
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
            for name, found in benchmarks.items()
            for kind, f in found["responses"].items()
            if f
        ],
    )
    return [grid for grid in (main, *_every_k(benchmarks, ks), *groups, responses) if grid.rows]


def _every_k(benchmarks: dict[str, Summary], ks: Sequence[int]) -> Iterator[Grid]:
    for kind, measured in (("pass", ks), ("maj", [k for k in ks if k > 1])):
        names = [f"{kind}@{k}" for k in measured]
        if len(names) > 1:
            rows = [[name, *_cells(found, names)] for name, found in benchmarks.items()]
            yield Grid(f"{kind}@k", ["benchmark", *names], rows)


def _group_rows(benchmarks: dict[str, Summary], key: str, names: Sequence[str]) -> list[list[str]]:
    return [
        [name, group, str(part["questions"]), *_cells(part, names)]
        for name, found in benchmarks.items()
        for group, part in found[key].items()
    ]


def _count(found: Summary) -> str:
    return f"{found['questions']}" + (f"\n{found['dropped']} too long" if found["dropped"] else "")


def _cells(found: Summary, names: Sequence[str]) -> list[str]:
    return [_cell(found["metrics"][name]) for name in names]


def _cell(estimate: dict[str, Any]) -> str:
    lines = [f"{estimate['value']:.3f}", f"{estimate['low']:.3f} to {estimate['high']:.3f}"]
    return "\n".join([*lines, f"± {estimate['spread']:.3f}"] if "spread" in estimate else lines)


def show(summary: Summary) -> None:
    """Prints the tables."""
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
