"""argparse whose --help begins with an example and fits a screen, and whose errors are one line, the last.

The description is the docstring of a program: its indented lines are the examples. What does not fit into
--help is named in its last lines, and explained by --help-all.
"""

import argparse
import difflib
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from megatron_coreward.utils.failures import REFUSED, end

LINES, COLUMNS = 24, 80
"""Of a terminal as it opens."""
NAMES = 24
"""Columns for the names of the options."""


class Parser(argparse.ArgumentParser):
    """`instead` says how an option that there is none of, with its value, is written as something else.

    `moved` are options of earlier versions, with the keys that say the same.
    """

    def __init__(
        self,
        *,
        instead: Callable[[str, str], str] | None = None,
        moved: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(**settings, add_help=False)
        self._instead = instead
        self._moved = moved or {}
        self._given: Sequence[str] = ()
        self.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
        self.add_argument("--help-all", action=_HelpAll, nargs=0, help=argparse.SUPPRESS)

    def parse_known_args(self, args=None, namespace=None):
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """The first LINES lines of what there is to say, with the names of the options that are left out."""
        lines, rows = self._introduction(), self._rows()
        shown = len(rows)
        while shown and len(lines) + len(self._shown(rows, shown)) > LINES:
            shown -= 1
        return "\n".join([*lines, *self._shown(rows, shown)]) + "\n"

    def format_help_all(self) -> str:
        rows = self._rows()
        return "\n".join([*self._introduction(), *self._shown(rows, len(rows))]) + "\n"

    def error(self, message: str) -> NoReturn:
        unknown = next((word for word in self._given if word in message.split() and word[:2] == "--"), None)
        if message.startswith("unrecognized arguments") and unknown is not None:
            name, _, value = unknown.partition("=")
            after = self._given[self._given.index(unknown) + 1 :]
            value = value or next((word for word in after[:1] if not word.startswith("--")), "")
            message = f"there is no option {name}{self._remedy(name, value)}"
        raise SystemExit(end(f"{message} ({self.prog} --help)", REFUSED))

    def _remedy(self, name: str, value: str) -> str:
        if name in self._moved:
            return f": write {self._moved[name]}={value or 'VALUE'}"
        options = [option for action in self._actions for option in action.option_strings]
        near = difflib.get_close_matches(name, options, n=1, cutoff=0.75)
        if near:
            return f"; did you mean {near[0]}?"
        return f": {self._instead(name, value)}" if self._instead else ""

    def _introduction(self) -> list[str]:
        """The examples, those of a subcommand alone where it has some, and the text."""
        text = (self.description or "").splitlines()
        examples = [line.strip() for line in text if line.startswith("    ")]
        own = [example for example in examples if f"{example} ".startswith(f"{self.prog} ")]
        paragraphs = "\n".join(line for line in text if not line.startswith("    ")).split("\n\n")
        wrapped = [textwrap.wrap(" ".join(paragraph.split()), COLUMNS) for paragraph in paragraphs]
        return [*(own or examples), "", *(line for lines in wrapped if lines for line in [*lines, ""])]

    def _rows(self) -> list[tuple[str, list[str]]]:
        """Every argument with its lines: positional ones and commands first, then what is required."""
        rows = []
        order = sorted(self._actions, key=lambda action: (bool(action.option_strings), not action.required))
        for action in order:
            if isinstance(action, argparse._SubParsersAction):
                for choice in action._choices_actions:
                    rows.append((choice.dest, _row(choice.dest, choice.help or "")))
            elif action.help is not argparse.SUPPRESS:
                metavar = action.metavar or ("" if action.nargs == 0 else action.dest.upper())
                if not action.option_strings:
                    rows.append((str(metavar), _row(str(metavar), action.help or "")))
                else:
                    name = action.option_strings[-1]
                    rows.append((name, _row(f"{name} {metavar}".strip(), action.help or "")))
        return rows

    def _shown(self, rows: Sequence[tuple[str, list[str]]], number: int) -> list[str]:
        lines = [line for _, row in rows[:number] for line in row]
        if number == len(rows):
            return lines
        names = f"More, explained by {self.prog} --help-all: {', '.join(name for name, _ in rows[number:])}"
        return [*lines, *textwrap.wrap(names, COLUMNS, break_on_hyphens=False)]


class _HelpAll(argparse.Action):
    def __call__(self, parser, namespace, values, option_string=None):
        assert isinstance(parser, Parser), "an action of Parser"
        sys.stdout.write(parser.format_help_all())
        parser.exit()


def _row(names: str, text: str) -> list[str]:
    lines = textwrap.wrap(text, COLUMNS - NAMES) or [""]
    first = f"  {names}"
    if len(first) > NAMES - 2:
        return [first, *(" " * NAMES + line for line in lines)]
    return [f"{first:{NAMES}}{lines[0]}".rstrip(), *(" " * NAMES + line for line in lines[1:])]
