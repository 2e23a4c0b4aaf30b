"""Is this machine fit for a run? A table with a remedy for every line that is not.

    coreward doctor --folder runs  # one machine
    torchrun --nproc-per-node 8 tools/doctor.py  # and the network between ranks
    coreward doctor --json  # for a cluster's own checks

Looks at Python, the packages, devices, disk and network, and trains one step of a tiny model. Only rank 0
prints. Exit codes: 0 fit (warnings may remain), 1 not fit, 2 wrong use.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from megatron_coreward.doctor.gpu_software import gpu_software
from megatron_coreward.doctor.packages import FAILED, OK, WARNING, Finding, complete, packages, system
from megatron_coreward.utils.arguments import Parser

STYLES = {OK: "green", WARNING: "yellow", FAILED: "red"}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="coreward doctor", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where runs will be written")
    parser.add_argument(
        "--skip-step", action="store_true", help="leave out the training step of a tiny model"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds that this step may take")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    options = parser.parse_args(arguments)
    is_first = int(os.environ.get("RANK", 0)) == 0
    seen = [*system(), *packages(), *gpu_software()] if is_first else []
    if complete():
        seen += checked(options)
    if is_first:
        show(seen, options.json)
    return 1 if any(finding.status == FAILED for finding in seen) else 0


def checked(options: argparse.Namespace) -> list[Finding]:
    """What the checks find that need the packages. A collective of all ranks."""
    from megatron_coreward.doctor.checks import findings
    from megatron_coreward.utils.distributed import shutdown

    seen = list(findings(options.folder, not options.skip_step, options.timeout))
    shutdown()
    return seen


def show(seen: Sequence[Finding], as_json: bool) -> None:
    """A table, or a line for each finding where the package for tables may be missing."""
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in seen], indent=2) + "\n")
    elif not complete():
        for finding in seen:
            remedy = f" -> {finding.remedy}" if finding.remedy else ""
            sys.stdout.write(f"{finding.status:8} {finding.name}: {finding.seen}{remedy}\n")
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table("check", "", "seen", "what to do", title="doctor", title_justify="left")
        for finding in seen:
            style = STYLES[finding.status]
            table.add_row(finding.name, f"[{style}]{finding.status}[/]", finding.seen, finding.remedy)
        Console().print(table)
