"""Asks a model questions of your own: its samples, their answers and the vote.

    coreward ask --model RUN/hf "What is 12 plus 30?"
    coreward ask --checkpoint RUN/checkpoints/step_000040 --samples 16 "..." "..."
    coreward ask --model RUN/hf - < questions.txt                a question a line

Exit codes: 0 done, 2 wrong input (one line says what). More: docs/evaluation.md.
"""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_coreward.config.keys import section_meanings
from megatron_coreward.config.option_hints import as_override
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code, setup_logging

if TYPE_CHECKING:
    from megatron_coreward.evaluation.asking import Asked

TAIL_CHARACTERS = 160
"""How much of a response's end is shown; with --full all of it."""
STDIN = "-"
NO_ANSWER = "no answer"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    setup_logging(int(os.environ.get("RANK", 0)))
    return exit_code(run, options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="coreward ask", description=__doc__, instead=as_override)
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", default="", metavar="DIR", help="Hugging Face folder or hub id")
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="a checkpoint of a run, or of convert")
    add("--samples", metavar="N", help="responses per question (8)")
    add("--greedy", action="store_true", help="one greedy response per question instead")
    add("--full", action="store_true", help="whole responses, not only their ends")
    add("--scratch", type=Path, metavar="DIR", help="where --checkpoint is exported for the time being")
    add(
        *("questions",),
        nargs="+",
        metavar="question",
        help=f"{STDIN} reads a question from each line of stdin; key=value sets any key of docs/config.md: "
        "evaluation.temperature=0.6, data.system_prompt=",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Reads, asks, prints. Raises ValueError for wrong input."""
    from megatron_coreward.evaluation.asking import ask_model, read_asked  # imports torch

    world_size = int(os.environ.get("WORLD_SIZE", 1))
    sections = "|".join(section_meanings())
    given = [text for text in options.questions if re.match(rf"({sections})\.\w+=", text)]
    if options.samples is not None:
        if options.greedy:
            raise ValueError("--greedy draws one response: leave out --samples, or leave it out")
        given.insert(0, f"evaluation.samples={options.samples}")
    questions = _questions([text for text in options.questions if text not in given], world_size)
    model, prompted = read_asked(
        questions, options.model, options.checkpoint, options.scratch, given, world_size
    )
    console = Console()
    return ask_model(
        model, prompted, partial(show, console=console, full=options.full), greedy=options.greedy
    )


def _questions(given: Sequence[str], world_size: int) -> list[str]:
    if STDIN not in given:
        return list(given)
    if world_size > 1:
        raise ValueError(f"{STDIN} reads the stdin of one process, and there are {world_size}")
    lines = [line.strip() for line in sys.stdin if line.strip()]
    at = given.index(STDIN)
    return [*given[:at], *lines, *given[at + 1 :]]


def show(asked: "Asked", console: Console, *, full: bool) -> None:
    """A row for each response, and the vote below."""
    console.print(Text(asked.question, style="bold"))
    table = Table()
    table.add_column("sample", justify="right")
    table.add_column("answer")
    table.add_column("response" if full else "end of the response", overflow="fold")
    for row in asked.rows:
        text = row["text"].strip() if full else _end(row["text"])
        cut = " [cut off]" if row["finish_reason"] == "length" else ""
        table.add_row(str(row["sample"]), Text(row["answer"] or NO_ANSWER), Text(f"{text}{cut}"))
    console.print(table)
    total = len(asked.rows)
    if total > 1:
        shares = [
            f"{' = '.join(forms) if forms != [''] else NO_ANSWER} ({count} of {total}, {count / total:.0%})"
            for _, forms, count in asked.answers()
        ]
        console.print(Text(f"vote: {', '.join(shares)}"), soft_wrap=True)
    if asked.vote.label is None:
        console.print(
            Text(r"Nothing is boxed. Only the last \boxed{} is read as the answer."), soft_wrap=True
        )
    console.print()


def _end(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TAIL_CHARACTERS else f"...{flat[-TAIL_CHARACTERS:]}"
