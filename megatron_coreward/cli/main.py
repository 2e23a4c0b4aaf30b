"""`coreward COMMAND ...`: one name for the programs of the package, and the way they all end.

    coreward train examples/quickstart/config.yaml --ranks 2
    coreward report runs/quickstart --output report.html

`coreward COMMAND --help` explains each. Imports the standard library only: without the other packages it
says where they may be, instead of a traceback.
"""

import difflib
import os
import sys
from collections.abc import Sequence

from megatron_coreward import __version__
from megatron_coreward.utils.failures import REFUSED, end, run_program

COMMANDS = {
    "train": ("megatron_coreward.cli.train", "Co-Reward and its baselines, from one YAML file"),
    "evaluate": ("megatron_coreward.evaluation.program", "pass@1, pass@k and maj@k of a model on questions"),
    "show": ("megatron_coreward.run.show", "a run's questions, answers, votes and figures"),
    "summarize": ("megatron_coreward.cli.summarize", "a run's evaluations before and after"),
    "report": ("megatron_coreward.cli.report", "one HTML page about runs, or their curves"),
    "sft": ("megatron_coreward.cli.sft", "supervised training on questions with responses"),
    "prepare": ("megatron_coreward.cli.prepare", "public math data, or your own, as training files"),
    "rephrase": ("megatron_coreward.cli.rephrase", "rephrasings of questions by a model"),
    "audit": ("megatron_coreward.cli.audit", "what is wrong with rephrasings"),
    "shards": ("megatron_coreward.cli.shards", "cut questions for a job array, join its pairs"),
    "convert": ("megatron_coreward.cli.convert", "Hugging Face folders <-> checkpoints"),
    "plan": ("megatron_coreward.cli.plan", "which layouts fit, and how many GPUs a model needs"),
    "doctor": ("megatron_coreward.cli.doctor", "whether this machine is fit for a run"),
    "ask": ("megatron_coreward.cli.ask", "your own question to a model: answers and vote"),
}
"""Command -> the module whose `main` it runs, and what it is for."""
OTHER_NAMES = {
    **{"summarize_run": "summarize", "plot": "report", "plot_run": "report", "audit_pairs": "audit"},
    **{"convert_checkpoint": "convert", "prepare_math": "prepare", "rephrase_questions": "rephrase"},
    **{"eval": "evaluate", "test": "evaluate", "check": "doctor", "export": "convert"},
    **{"supervised": "sft", "grpo": "train", "rl": "train", "run": "train", "fit": "train"},
}
"""What earlier versions and other libraries call a command."""
SLOW = ("train", "sft", "evaluate", "convert", "doctor")
"""Commands that take seconds before their first own word."""


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    command = given[0] if given else ""
    if command in COMMANDS:
        if (
            command in SLOW
            and "RANK" not in os.environ
            and sys.stderr.isatty()
            and not {"-h", "--help", "--help-all"} & set(given)
        ):
            sys.stderr.write(f"coreward {command}: loading PyTorch\n")
        return run_program(COMMANDS[command][0], given[1:])
    if command in ("", "-h", "--help", "help"):
        sys.stdout.write(usage())
        return 0 if command else REFUSED
    if command in ("--version", "-V", "version"):
        sys.stdout.write(f"coreward {__version__}\n")
        return 0
    near = difflib.get_close_matches(command, COMMANDS, n=1) or [OTHER_NAMES.get(command, "")]
    hint = f"did you mean coreward {near[0]}?" if near[0] else f"there are {', '.join(COMMANDS)}"
    return end(f"there is no command {command!r}; {hint}", REFUSED)


def usage() -> str:
    """An example, and a line for each command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {purpose}\n" for name, (_, purpose) in COMMANDS.items()]
    example = "coreward train examples/quickstart/config.yaml --ranks 2\n\n"
    return "".join(
        [example, "usage: coreward COMMAND ...\n\n", *lines, "\ncoreward COMMAND --help explains each.\n"]
    )


if __name__ == "__main__":
    sys.exit(main())
