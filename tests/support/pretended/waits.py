"""Counts where the host would wait for the device: by kind, and by the line of the project that asked."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

PROJECT, MEGATRON = "megatron_coreward/", "megatron/core/"


@dataclass(frozen=True)
class Wait:
    """`kind` is what made the host wait, `place` the line that asked: file:line function."""

    kind: str
    place: str


@dataclass
class Waits:
    """The waits so far."""

    counts: Counter[Wait] = field(default_factory=Counter)

    def add(self, kind: str) -> None:
        self.counts[Wait(kind, place())] += 1

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def by_kind(self) -> dict[str, int]:
        kinds: Counter[str] = Counter()
        for wait, count in self.counts.items():
            kinds[wait.kind] += count
        return dict(kinds)

    def at(self, text: str) -> int:
        """Waits whose place or kind holds `text`."""
        return sum(count for wait, count in self.counts.items() if text in f"{wait.kind} {wait.place}")

    def table(self) -> str:
        """A line for each place, the most frequent first."""
        return "\n".join(
            f"{count:5} {wait.kind:24} {wait.place}" for wait, count in self.counts.most_common()
        )

    @contextmanager
    def counted(self) -> Iterator["Waits"]:
        """Only those inside; the counts from before come on top afterwards."""
        before, self.counts = self.counts, Counter()
        inside = Waits(self.counts)
        try:
            yield inside
        finally:
            self.counts = before + inside.counts


def place() -> str:
    """The innermost line of the project, and in brackets that of Megatron-Core below it."""
    frame: FrameType | None = sys._getframe(1)
    below = ""
    while frame:
        name = frame.f_code.co_filename
        if PROJECT in name and "/tests/" not in name:
            line = f"{name.split(PROJECT)[-1]}:{frame.f_lineno} {frame.f_code.co_name}"
            return f"{line} [{below}]" if below else line
        if not below and MEGATRON in name:
            below = f"{name.split(MEGATRON)[-1]}:{frame.f_lineno}"
        frame = frame.f_back
    return f"[{below}]" if below else "tests"
