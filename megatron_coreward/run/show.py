"""Shows a run's rollouts and figures readably, also while it goes on.

    coreward show runs/quickstart                     # the newest step
    coreward show runs/quickstart --step 12 --pair 7  # one pair, responses in full
    coreward show runs/quickstart --follow            # every step as it is written
    coreward show runs/quickstart --metrics           # figures of the last steps

Reads files only: no torch, no model.
"""

import argparse
import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from megatron_coreward.run.rollouts import read_rollouts, rollout_steps
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.folders import is_held
from megatron_coreward.utils.logging import exit_code
from megatron_coreward.utils.metrics import read_metrics, three_digits
from megatron_coreward.utils.run_names import METRICS_FILE, ROLLOUTS

TAIL_CHARACTERS = 160
"""How much of a response's end is shown next to its answer; with --pair all of it."""
POLL_SECONDS = 1.0
GAP = 2
"""Spaces between the columns of --metrics."""

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, _parser().parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    console = Console()
    check_run_folder(options.run)
    if options.metrics:
        console.print(metrics_table(read_metrics(options.run), options.steps, console.width))
    elif options.follow:
        with contextlib.suppress(KeyboardInterrupt):  # the way to end it before the run ends
            follow(console, options)
    else:
        show_step(console, options, _chosen_step(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="coreward show", description=__doc__)
    parser.add_argument("run", type=Path, help="run folder (run.output_dir)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--step", type=int, help="this step")
    which.add_argument("--latest", action="store_true", help="the newest step (the default)")
    which.add_argument("--follow", action="store_true", help="every step as it comes, until the run ends")
    which.add_argument("--metrics", action="store_true", help="a table of the figures instead of rollouts")
    parser.add_argument("--pair", type=int, help="only this pair, with its responses in full")
    parser.add_argument("--pairs", type=int, default=3, help="pairs to show per step (default 3, 0 = all)")
    parser.add_argument("--steps", type=int, default=6, help="steps in the table of --metrics (default 6)")
    return parser


def check_run_folder(folder: Path) -> None:
    """ValueError unless `folder` holds figures or rollouts."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the run folder (run.output_dir of the config)")
    if not (folder / METRICS_FILE).exists() and not rollout_steps(folder):
        raise ValueError(
            f"{folder} is not a run folder: it has neither {METRICS_FILE} nor {ROLLOUTS}/step_*.parquet; "
            "give run.output_dir of the config"
        )


def _chosen_step(options: argparse.Namespace) -> int:
    if options.step is not None:
        return options.step
    steps = rollout_steps(options.run)
    if not steps:
        raise ValueError(f"{options.run} has no rollouts yet; they need logging.rollouts=true and one step")
    return steps[-1]


def follow(console: Console, options: argparse.Namespace) -> None:
    """Shows the newest step, then each new one, until the run has ended."""
    shown = -1
    while True:
        at_work = is_held(options.run)  # asked first: the last step is shown even if the run ends meanwhile
        new = [step for step in rollout_steps(options.run) if step > shown]
        for step in new[-1:] if shown < 0 else new:
            show_step(console, options, step)
            shown = step
        if not at_work:
            console.print(f"the run has ended: no process is at work in {options.run}", highlight=False)
            return
        time.sleep(POLL_SECONDS)


def show_step(console: Console, options: argparse.Namespace, step: int) -> None:
    rows = read_rollouts(options.run, step)
    by_pair = {pair_id: list(group) for pair_id, group in groupby(rows, key=lambda row: row["pair_id"])}
    console.rule(f"step {step}: {len(rows)} responses to {len(by_pair)} pairs")
    if options.pair is not None:
        if options.pair not in by_pair:
            raise ValueError(f"pair {options.pair} is not in step {step}; it has {_listing(list(by_pair))}")
        console.print(pair_panel(by_pair[options.pair], in_full=True))
        return
    chosen = list(by_pair.values())[: options.pairs or None]
    for pair_rows in chosen:
        console.print(pair_panel(pair_rows))
    if len(chosen) < len(by_pair):
        hidden = len(by_pair) - len(chosen)
        console.print(f"{hidden} more pairs: --pairs 0 shows all, --pair ID one in full", style="dim")


def _listing(numbers: Sequence[int], most: int = 20) -> str:
    return ", ".join(map(str, numbers[:most])) + (", ..." if len(numbers) > most else "")


def pair_panel(rows: Sequence[Row], in_full: bool = False) -> Panel:
    """One pair: per view the question, the votes, the label it was judged by, and every response."""
    parts: list[Text | Table] = []
    for view, group in groupby(rows, key=lambda row: row["view"]):
        responses = list(group)
        parts.append(_heading(view, responses))
        parts.append(_responses_table(responses, in_full))
    truth = rows[0]["ground_truth"]
    if truth is not None:
        parts.append(Text(f"ground truth {truth} (diagnostics only, not seen by the reward)", style="dim"))
    return Panel(Group(*parts), title=f"pair {rows[0]['pair_id']}", title_align="left")


def _heading(view: str, responses: Sequence[Row]) -> Text:
    votes = Counter(row["answer"] or "none" for row in responses)
    label = responses[0]["pseudo_label"]
    heading = Text()
    heading.append(f"{view}  ", style="bold")
    heading.append(responses[0]["question"])
    heading.append("\nvotes ", style="dim")
    heading.append(", ".join(f"{answer} x{count}" for answer, count in votes.most_common()))
    heading.append("   judged by ", style="dim")
    rewarded = any(row["reward"] for row in responses)
    unlabelled = "a measure of each response, no label" if rewarded else "no label: reward 0 for all"
    heading.append(f"label {label}" if label else unlabelled, style="bold")
    return heading


def _responses_table(responses: Sequence[Row], in_full: bool) -> Table:
    table = Table(box=None, padding=(0, 1), expand=True)
    for name in ("#", "reward", "adv.", "tokens", "logp"):
        table.add_column(name, justify="right")
    table.add_column("answer", overflow="fold")
    table.add_column("response" if in_full else "end of the response", ratio=1, overflow="fold")
    for row in responses:
        text = row["text"].strip()
        if not in_full:
            text = ("..." if len(text) > TAIL_CHARACTERS else "") + text[-TAIL_CHARACTERS:].replace("\n", " ")
        cut = "+" if row["finish_reason"] == "length" else ""
        logp = "" if row["mean_logp"] is None else f"{row['mean_logp']:.2f}"
        table.add_row(
            *(str(row["sample"]), f"{row['reward']:.2f}", f"{row['advantage']:+.2f}"),
            *(f"{row['response_tokens']}{cut}", logp),
            *(Text(row["answer"] or "none"), Text(text)),
            style="green" if row["advantage"] > 0 else "red" if row["advantage"] < 0 else None,
        )
    return table


def metrics_table(records: Sequence[dict[str, float]], columns: int, width: int) -> Table:
    """Figures by row, by column at most `columns` of the last steps, as many as `width` characters hold."""
    if not records:
        raise ValueError(f"{METRICS_FILE} has no figures yet; the first step writes some")
    names = sorted({name for record in records[-columns:] for name in record} - {"step"})
    recent = [
        [str(int(record["step"])), *(three_digits(record[name]) if name in record else "" for name in names)]
        for record in records[-columns:]
    ]
    label = max(map(len, names), default=0)
    column = max(len(cell) for cells in recent for cell in cells)
    recent = recent[-max(1, (width - label) // (column + GAP)) :]
    table = Table(box=None, padding=(0, 0, 0, GAP), pad_edge=False)
    table.add_column("step", overflow="fold")
    for cells in recent:
        table.add_column(cells[0], justify="right", no_wrap=True, min_width=column)
    for name, *cells in zip(names, *(cells[1:] for cells in recent), strict=True):
        table.add_row(name, *cells)
    return table
