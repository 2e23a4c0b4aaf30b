"""Is this machine fit for a run? A table with a remedy for every line that is not.

    coreward doctor --folder runs  # one machine
    torchrun --nproc-per-node 8 tools/doctor.py  # and the network between ranks
    coreward doctor --json  # for a cluster's own checks

Exit code 1 if anything failed; warnings alone are 0. Only rank 0 prints.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from megatron_coreward.doctor.checks import FAILED, OK, WARNING, Finding, findings

STYLES = {OK: "green", WARNING: "yellow", FAILED: "red"}


def table(seen: Sequence[Finding]) -> Table:
    shown = Table("check", "", "seen", "what to do", title="doctor", title_justify="left")
    for finding in seen:
        style = STYLES[finding.status]
        shown.add_row(finding.name, f"[{style}]{finding.status}[/]", finding.seen, finding.remedy)
    return shown


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(prog="coreward doctor", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where runs will be written")
    parser.add_argument(
        "--skip-step", action="store_true", help="leave out the training step of a tiny model"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds that this step may take")
    parser.add_argument("--json", action="store_true", help="findings as JSON")
    options = parser.parse_args(arguments)
    seen = list(findings(options.folder, not options.skip_step, options.timeout))
    if dist.is_initialized():
        dist.destroy_process_group()
    if int(os.environ.get("RANK", 0)) == 0:
        if options.json:
            sys.stdout.write(json.dumps([asdict(finding) for finding in seen], indent=2) + "\n")
        else:
            Console().print(table(seen))
    return 1 if any(finding.status == FAILED for finding in seen) else 0
