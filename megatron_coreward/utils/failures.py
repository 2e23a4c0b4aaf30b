"""How a program ends that cannot go on: one sentence and an exit code, once, whichever rank is first.

Each rank leaves its sentence in a file of its own, where torchrun looks for its "root cause". Who has started
the ranks (launch/ranks.py, examples/gpu) reads the files, and says the first one last. Without such a
starter a program says it itself. Imports the standard library only, since a missing package ends here too.
"""

import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType

ERROR, REFUSED, STOPPED, NOT_FINITE, STALLED = 1, 2, 3, 4, 5
"""Exit codes: unexpected; wrong input, as argparse has it; saved and can be resumed; loss or gradient NaN or
infinite; a rank stalled."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable in which torchrun and launch/ranks.py give each rank a file for its reason."""
STARTER = "COREWARD_STARTER"
"""Variable with the name of what has started the ranks, and says the reason when all of them have ended."""
RANKS = "launch/ranks.py"
"""Such a name. It ends all ranks when one fails, and so those that end alike must not seem to."""
FILE_ONLY = "megatron_coreward.failure"
"""Logger of what the console gets by other ways (utils/logging.py)."""
logging.getLogger(FILE_ONLY).addHandler(logging.NullHandler())  # or it would write to stderr without others


class Failure(Exception):
    """Ends the program with a sentence and an exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Reason:
    """Why a rank ended. `time` is in seconds since the epoch."""

    sentence: str
    code: int
    time: float
    trace: str = ""


def end(sentence: str, code: int, trace: str = "") -> int:
    """Leaves the reason for the starter, and says it if nobody else will; returns the exit code of this rank.

    A refusal is raised on every rank, and rank 0 says it; what else ends a rank may be its own trouble. What
    a restart follows is said at once, or it would never be.
    """
    reason = Reason(one_line(sentence), code, time.time(), trace)
    _leave(reason)
    logging.getLogger(FILE_ONLY).error("%s%s", trace, reason.sentence)
    restarts_left = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) - int(
        os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)
    )
    again = restarts_left > 0 and code in (ERROR, STALLED)
    own_trouble = code in (ERROR, STALLED) or int(os.environ.get("RANK", 0)) == 0
    if own_trouble and (again or STARTER not in os.environ):
        say(reason)
    agreed = code in (STOPPED, NOT_FINITE) and os.environ.get(STARTER) == RANKS
    return 0 if agreed else code


def run_program(module: str, arguments: Sequence[str]) -> int:
    """Runs the `main` of a module, or says which package it lacks. Whatever ends the program ends it here."""
    sys.excepthook = end_unexpected
    try:
        return import_module(module).main(arguments)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == __name__.partition(".")[0]:
            raise
        return end(
            f"{sys.executable} has no package {package!r}: run `. .venv/bin/activate` in the project's "
            "folder, or call .venv/bin/coreward (make setup makes .venv)",
            ERROR,
        )


def say(reason: Reason) -> None:
    """The traceback if there is one, and last the sentence, on stderr."""
    sys.stderr.write(reason.trace)
    print_error(reason.sentence)


def print_error(error: Exception | str) -> None:
    """One line, red on a terminal."""
    line = f"error: {one_line(str(error))}"
    coloured = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    sys.stderr.write(f"\033[31m{line}\033[0m\n" if coloured else f"{line}\n")
    sys.stderr.flush()


def one_line(text: str) -> str:
    return " ".join(text.split())


def end_unexpected(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """sys.excepthook of the programs: the traceback, and last one line about it."""
    if issubclass(kind, KeyboardInterrupt):
        end("interrupted", ERROR)
        return
    first_line = next(iter(str(error).strip().splitlines()), "")
    end(f"{kind.__name__}: {first_line}", ERROR, "".join(traceback.format_exception(kind, error, trace)))


def read_reasons(attempt: Path) -> list[Reason]:
    """What the ranks of one attempt left in torchrun's folder of logs, the earliest first."""
    contents = [json.loads(file.read_text()) for file in attempt.glob("*/error.json")]
    return sorted((Reason(**content["reason"]) for content in contents), key=lambda reason: reason.time)


def _leave(reason: Reason) -> None:
    """Writes this rank's file, which appears when it is complete: the starter may end the rank at any time.

    A rank's first reason stays; what follows in the course of its end is a consequence.
    """
    name = os.environ.get(ERROR_FILE)
    if not name or Path(name).exists():
        return
    for_torchrun = {"message": reason.sentence, "extraInfo": {"timestamp": reason.time}}
    new = Path(f"{name}.new")
    new.write_text(json.dumps({"message": for_torchrun, "reason": asdict(reason)}))
    new.replace(name)
