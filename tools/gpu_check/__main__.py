"""What this machine's GPUs make of the project, in a few minutes: docs/gpu/gpu_check.md.

    python -m tools.gpu_check [--budget 300] [--only NAME ...] [--output FOLDER]

Each check is a process of its own within its share of the budget. The report goes to stdout, check by check
and a summary at the end, and to report.md and report.json in FOLDER. Exit code 0: all that is possible
here passed; 1: a check failed; 2: wrong arguments; 3: passed, but there is no GPU here.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tools.gpu_check import report
from tools.gpu_check.runner import FAILED, Outcome, check_loopback, choose, run_all
from tools.gpu_check.table import CHECKS, Check

NO_GPU = 3


def main(arguments: Sequence[str] | None = None, checks: Sequence[Check] = CHECKS) -> int:
    parser = argparse.ArgumentParser(
        prog="gpu-check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for all checks (300)")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="run these, after `machine`")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"), help="folder of report and logs")
    options = parser.parse_args(arguments)
    try:
        chosen = choose(checks, options.only)
        check_loopback()
    except ValueError as error:
        parser.error(str(error))
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    _say(report.title())
    outcomes: list[Outcome] = []
    for outcome in run_all(chosen, options.budget, output):
        outcomes.append(outcome)
        report.write(output, outcomes, options.budget)
        _say(report.section(outcome))
    _say(report.summary(outcomes))
    if any(outcome.status == FAILED for outcome in outcomes):
        return 1
    return 0 if outcomes[0].figures["GPUs"] else NO_GPU


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
