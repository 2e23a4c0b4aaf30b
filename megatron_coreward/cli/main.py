"""`coreward COMMAND ...`: one name for the programs of the package.

    coreward show runs/quickstart --latest
    coreward report runs/quickstart --output report.html

`coreward COMMAND --help` explains each.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

from megatron_coreward.utils.logging import REFUSED

COMMANDS = {
    "train": ("megatron_coreward.train", "Co-Reward and its baselines, from one YAML file"),
    "evaluate": ("megatron_coreward.evaluation.program", "pass@1, pass@k and maj@k of a model on questions"),
    "show": ("megatron_coreward.run.show", "a run's questions, answers, votes and figures"),
    "summarize": ("megatron_coreward.cli.summarize", "a run's evaluations before and after"),
    "report": ("megatron_coreward.cli.report", "one HTML page about runs, or their curves"),
    "prepare": ("megatron_coreward.cli.prepare", "public math data, or your own, as training files"),
    "rephrase": ("megatron_coreward.cli.rephrase", "rephrasings of questions by a model"),
    "audit": ("megatron_coreward.cli.audit", "what is wrong with rephrasings"),
    "shards": ("megatron_coreward.cli.shards", "cut questions for a job array, join its pairs"),
    "convert": ("megatron_coreward.cli.convert", "Hugging Face folders <-> checkpoints"),
    "plan": ("megatron_coreward.cli.plan", "memory, traffic and time of a layout"),
    "doctor": ("megatron_coreward.cli.doctor", "whether this machine is fit for a run"),
    "ask": ("megatron_coreward.cli.ask", "your own question to a model: answers and vote"),
}
"""Command -> the module whose `main` it runs, and what it is for."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else ""
    if command in COMMANDS:
        return import_module(COMMANDS[command][0]).main(given[1:])
    if command in ("", "-h", "--help"):
        sys.stdout.write(usage())
        return 0 if command else REFUSED
    sys.stderr.write(f"error: there is no command {command!r}; there are {', '.join(COMMANDS)}\n")
    return REFUSED


def usage() -> str:
    """A line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  coreward {name:{width}}  {purpose}\n" for name, (_, purpose) in COMMANDS.items()]
    return "".join(["usage: coreward COMMAND ...\n\n", *lines, "\ncoreward COMMAND --help explains each.\n"])
