"""The arguments of a training run, supervised or not, for the program that starts its ranks and for each."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.option_hints import as_override
from megatron_coreward.config.schema import Config
from megatron_coreward.utils.arguments import Parser

HELP = """
    coreward train examples/quickstart/config.yaml --ranks 2
    coreward train run.yaml optimizer.lr=1e-6 run.output_dir=runs/second
    coreward train run.yaml --dry-run

Trains a model without labels, as the YAML files say; later files and keys win. A file has at least model.path
and data.original. All keys: docs/config.md. The run resumes with run.resume=true.

Exit codes: 0 done, 2 wrong input, 3 stopped and saved (Ctrl-C or an alarm: the step is completed first), 4
loss or gradient not finite, 5 a rank stalled, 1 anything else. The last line says why.
"""


@dataclass(frozen=True)
class TrainOptions:
    """What the command line says."""

    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    dry_run: bool
    ranks: int | None
    """None: one for each GPU, or one."""
    max_restarts: int

    def config(self) -> Config:
        """Raises ValueError as load_config does."""
        return load_config(self.files, self.overrides)

    def of_a_rank(self) -> list[str]:
        """The arguments of a single rank."""
        return [*(f"--config={file}" for file in self.files), *self.overrides]


def parse_train(arguments: Sequence[str] | None) -> TrainOptions:
    parser = _parser("coreward train", HELP)
    parser.add_argument("--dry-run", action="store_true", help="check all, show the plan, build nothing")
    parser.add_argument(
        *("--max-restarts",), type=int, default=0, metavar="N",
        help="after a crash start all ranks again, N times; use run.auto_resume=true",
    )  # fmt: skip
    return _read(parser, arguments)


def parse_sft(arguments: Sequence[str] | None, description: str) -> TrainOptions:
    """As parse_train, without what makes no sense for a short run that leaves no checkpoints."""
    parser = _parser("coreward sft", description)
    parser.set_defaults(dry_run=False, max_restarts=0)
    return _read(parser, arguments)


def _parser(program: str, description: str) -> Parser:
    parser = Parser(prog=program, description=description, instead=as_override)
    parser.add_argument(
        *("words",), nargs="*", metavar="FILE|key=value", help="YAML files, and keys such as run.steps=20"
    )
    parser.add_argument("--ranks", type=_count, metavar="N", help="processes: one per GPU, else 1")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="the same as FILE")
    return parser


def _read(parser: Parser, arguments: Sequence[str] | None) -> TrainOptions:
    """A word that ends in .yaml or .yml or is a file is a configuration, any other a key with its value."""
    options = parser.parse_intermixed_args(arguments)
    files = [word for word in options.words if word.endswith((".yaml", ".yml")) or os.path.isfile(word)]
    return TrainOptions(
        files=tuple(map(Path, [*options.config, *files])),
        overrides=tuple(word for word in options.words if word not in files),
        dry_run=options.dry_run,
        ranks=options.ranks,
        max_restarts=options.max_restarts,
    )


def _count(text: str) -> int:
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"it is {text!r}, but must be a number from 1 on")
    return number
