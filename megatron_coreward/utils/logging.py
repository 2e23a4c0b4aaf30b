"""One logger set-up for all entry points: rank 0 tells the story, other ranks only trouble.

Imports the standard library only: without the other packages a program still says that they are missing.
"""

import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVarTuple

from megatron_coreward.utils.failures import FILE_ONLY, REFUSED, Failure, end
from megatron_coreward.utils.run_names import LOG_FILE

if TYPE_CHECKING:
    from rich.console import Console

PACKAGE = "megatron_coreward"
FORMAT = "%(asctime)s %(levelname)s %(message)s"
TIME_FORMAT = "%H:%M:%S"
TIME_WIDTH = len("00:00:00 ")
"""Characters before a message on a terminal."""

_REPEATED = "repeated_at_the_end"
"""The attribute of such a log record."""

Arguments = TypeVarTuple("Arguments")


class TerminalHandler(logging.Handler):
    """Messages on a console that a live display may share: the time, and from WARNING on the level.

    Long ones are wrapped by the terminal itself, so that a command in them can be copied.
    """

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", TIME_FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        text, style = self.format(record), ""
        if record.levelno >= logging.WARNING:
            text = f"{text[:TIME_WIDTH]}{record.levelname} {text[TIME_WIDTH:]}"
            style = "red" if record.levelno >= logging.ERROR else "yellow"
        self._console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def setup_logging(rank: int = 0, output_dir: Path | None = None) -> "Console":
    """Sends this package's messages to stderr and, on rank 0, to `output_dir`/train.log.

    Rank 0 shows messages from INFO on, other ranks from WARNING on, with their rank. Returns the console
    that a live display (run/progress.py) has to share with the messages. Call it before megatron,
    transformers or vllm are imported: it quiets them.
    """
    from rich.console import Console

    console = Console(stderr=True)
    _quiet_third_parties()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if handler.get_name() == PACKAGE:  # ours, of an earlier call
            root.removeHandler(handler)
            handler.close()
    handlers: list[logging.Handler] = []
    if rank == 0 and console.is_terminal:
        handlers.append(TerminalHandler(console))
    else:
        handlers.append(logging.StreamHandler(sys.stderr))
        rank_tag = "" if rank == 0 else f"[rank {rank}] "
        handlers[0].setFormatter(logging.Formatter(rank_tag + FORMAT, datefmt=TIME_FORMAT))
    handlers[0].addFilter(lambda record: record.name != FILE_ONLY)
    if rank != 0:  # what `warn` says is about the input, which is the same on every rank
        handlers[0].addFilter(lambda record: _REPEATED not in vars(record))
    if rank == 0 and output_dir is not None:
        output_dir.mkdir(parents=True, exist_ok=True)
        handlers.append(logging.FileHandler(output_dir / LOG_FILE))
        handlers[-1].setFormatter(logging.Formatter(FORMAT, datefmt=TIME_FORMAT))
    for handler in handlers:
        handler.set_name(PACKAGE)
        root.addHandler(handler)
    logging.getLogger(PACKAGE).setLevel(logging.INFO if rank == 0 else logging.WARNING)
    return console


def warn(logger: logging.Logger, name: str, key: str, text: str, *values: object) -> None:
    """A warning that a run repeats in its last line, as `name` and the `key` to look at."""
    logger.warning(text, *values, extra={_REPEATED: (name, key)})


class _Collector(logging.Handler):
    """Keeps what `warn` says and passes everything else by."""

    def __init__(self) -> None:
        super().__init__()
        self.said: dict[str, str] = {}

    def emit(self, record: logging.LogRecord) -> None:
        if _REPEATED in vars(record):
            name, key = vars(record)[_REPEATED]
            self.said[name] = key


@contextmanager
def repeated_warnings() -> Iterator[dict[str, str]]:
    """The name and key of every `warn` of this package while the context lasts."""
    handler = _Collector()
    logging.getLogger(PACKAGE).addHandler(handler)
    try:
        yield handler.said
    finally:
        logging.getLogger(PACKAGE).removeHandler(handler)


def exit_code(program: Callable[[*Arguments], int | Callable[[], int]], *arguments: *Arguments) -> int:
    """What `program` returns; or the code of what ended it, after one line about that.

    Wrong input is a ValueError or OSError of `program`, on every rank or the only one. A program that goes on
    to where these are no longer the input's fault returns that work, and is done when it is.
    """
    try:
        try:
            work = program(*arguments)
        except (ValueError, OSError) as error:
            raise Failure(str(error), REFUSED) from error
        return work if isinstance(work, int) else work()
    except Failure as failure:
        return end(str(failure), failure.code)


def _quiet_third_parties() -> None:
    """Keeps their errors, drops their news. A variable or level the user has set wins."""
    # Both configure their own loggers on import, from these variables.
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("megatron").setLevel(logging.ERROR)
    # That there is no Triton without a GPU is no fault, but is read as one.
    logging.getLogger("torch._library.triton").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"(megatron|transformers|vllm)\b")
    # Megatron's checkpoints are made of it; what torch plans for it is no news for a run.
    warnings.filterwarnings("ignore", message=".*ShardedTensor", category=FutureWarning)
