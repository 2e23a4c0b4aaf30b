"""Faults of question pairs that exist already, and copies of their files without the faulty rows."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from megatron_coreward.data.pair_files import write_table
from megatron_coreward.data.pairs import PairRecord
from megatron_coreward.data.tables import read_table
from megatron_coreward.rephrasing.checks import REASONS, Finding, check


@dataclass(frozen=True)
class Reject:
    """A pair with its faults."""

    pair: PairRecord
    findings: tuple[Finding, ...]


def audit(pairs: Sequence[PairRecord], keep: Sequence[str] = ()) -> list[Reject]:
    """Pairs with a fault other than the reasons in `keep`, in order, with those faults."""
    rejects = []
    for pair in pairs:
        findings = check(pair.original, pair.rephrased)
        if faults := tuple(finding for finding in findings if finding.reason not in keep):
            rejects.append(Reject(pair, faults))
    return rejects


def rejects_table(rejects: Sequence[Reject]) -> pa.Table:
    """One row per rejected pair; `row` counts from 0 in the files read."""
    text = pa.string()
    columns = {
        "row": (pa.int64(), [reject.pair.pair_id for reject in rejects]),
        "reasons": (pa.list_(text), [[fault.reason for fault in reject.findings] for reject in rejects]),
        "details": (pa.list_(text), [[fault.detail for fault in reject.findings] for reject in rejects]),
        "original": (text, [reject.pair.original for reject in rejects]),
        "rephrased": (text, [reject.pair.rephrased for reject in rejects]),
        "answer": (text, [reject.pair.answer for reject in rejects]),
        "level": (text, [reject.pair.level for reject in rejects]),
        "type": (text, [reject.pair.subject for reject in rejects]),
    }
    return pa.table({name: pa.array(values, type=kind) for name, (kind, values) in columns.items()})


def counts_of(rejects: Sequence[Reject]) -> dict[str, int]:
    """Rejected pairs by reason, in the order of REASONS; a pair may have several."""
    counts = Counter(fault.reason for reject in rejects for fault in reject.findings)
    return {reason: counts[reason] for reason in REASONS if counts[reason]}


def check_clean_folder(files: Sequence[Path], folder: Path) -> None:
    if folder.resolve() in {file.resolve().parent for file in files}:
        raise ValueError(
            f"--write-clean {folder} is the folder of the files themselves, which would be overwritten; "
            f"choose another folder"
        )
    if len({file.name for file in files}) < len(files):
        raise ValueError(
            f"--write-clean needs files of different names, but both are {files[0].name}; rename one"
        )


def write_clean(files: Sequence[Path], folder: Path, rejects: Sequence[Reject]) -> list[Path]:
    """Parquet copies of the files without the rejected rows, in `folder`, under their names."""
    bad = {reject.pair.pair_id for reject in rejects}
    written = []
    for file in files:
        table = read_table(str(file), "file")
        mask = pa.array([row not in bad for row in range(table.num_rows)])
        if len(bad) == table.num_rows:
            raise ValueError(f"--write-clean {folder}: every pair is rejected, so nothing is left to write")
        folder.mkdir(parents=True, exist_ok=True)
        written.append(folder / file.with_suffix(".parquet").name)
        write_table(table.filter(mask), written[-1])
    return written
