"""The report in Markdown and JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tools.gpu_check.runner import FAILED, PASSED, Outcome


def summary(outcomes: Sequence[Outcome]) -> str:
    """What was found, in a table."""
    lines = ["## Summary", "", "| check | result | seconds | |", "|---|---|---|---|"]
    for outcome in outcomes:
        seconds = f"{outcome.seconds:.0f}" if outcome.seconds else ""
        lines.append(f"| {outcome.name} | {outcome.status} | {seconds} | {outcome.reason or outcome.about} |")
    counts = {status: sum(o.status == status for o in outcomes) for status in (PASSED, FAILED)}
    others = len(outcomes) - sum(counts.values())
    line = f"{counts[PASSED]} passed, {counts[FAILED]} failed, {others} not possible here."
    return "\n".join([*lines, "", f"{line} {place(outcomes)}"]) + "\n"


def place(outcomes: Sequence[Outcome]) -> str:
    """Where the figures come from."""
    machine = outcomes[0].figures
    if not machine:
        return "The machine could not be described."
    if not machine["GPUs"]:
        return "No GPU: everything ran on the CPU, which shows that the checks run and nothing of a GPU."
    return f"On {machine['GPUs']} x {machine['GPU 0']}."


def section(outcome: Outcome) -> str:
    """One check."""
    lines = [f"## {outcome.name}: {outcome.status}", "", f"{outcome.about}."]
    if outcome.reason:
        lines += ["", f"{outcome.reason[0].upper()}{outcome.reason[1:]}."]
    if outcome.figures:
        lines += ["", "| | |", "|---|---|"]
        lines += [f"| {name} | {_shown(value)} |" for name, value in outcome.figures.items()]
    if outcome.log_end:
        lines += ["", "```", outcome.log_end, "```"]
    return "\n".join(lines) + "\n"


def _shown(value: float | str) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def title() -> str:
    return f"# GPU check of {datetime.now(UTC):%Y-%m-%d %H:%M} UTC\n"


def write(output: Path, outcomes: Sequence[Outcome], budget_s: float) -> None:
    """Writes report.md and report.json; called after every check, so that a killed run leaves a report."""
    pieces = [title(), summary(outcomes), *map(section, outcomes)]
    (output / "report.md").write_text("\n".join(pieces))
    report = {"budget_s": budget_s, "checks": [asdict(outcome) for outcome in outcomes]}
    (output / "report.json").write_text(json.dumps(report, indent=2) + "\n")
