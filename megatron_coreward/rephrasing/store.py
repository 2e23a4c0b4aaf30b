"""The folder of a rephrasing run: batches as they are done, then the pair files.

    settings.json                the run's settings; going on with others is refused
    batches/batch_000000.parquet one file per batch, complete or absent, so that a kill loses one batch
    original.parquet, rephrased.parquet    accepted pairs, aligned, with all columns of the input
    rejects.parquet, report.json           the others with their faults; counts

Only one process may write: hold utils.folders.FolderLock.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.data.pair_files import with_questions, write_table
from megatron_coreward.rephrasing.attempts import Rephrasing
from megatron_coreward.utils.folders import publish_file, temporary_name

SETTINGS, BATCHES, REPORT = "settings.json", "batches", "report.json"
ORIGINAL, REPHRASED, REJECTS = "original.parquet", "rephrased.parquet", "rejects.parquet"
_TYPES = {"row": pa.int64(), "attempts": pa.int64(), "reasons": pa.list_(pa.string())}
_TYPES |= {"details": pa.list_(pa.string()), "original": pa.string(), "rephrased": pa.string()}


def digest(text: str) -> str:
    return blake2b(text.encode("utf-8", errors="surrogatepass"), digest_size=8).hexdigest()


class Store:
    """The folder of one run.

    Args:
        settings: everything that decides the results, JSON-able. They are written by `begin`.

    Raises:
        ValueError: the folder holds a run with other settings, or something else.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, settings
        file = folder / SETTINGS
        others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        if not file.is_file() and others:
            raise ValueError(
                f"--output {folder} holds something else ({others[0]}, ...); choose another folder"
            )
        known = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else settings
        changes = [f"{k} is {v!r} and was {known.get(k)!r}" for k, v in settings.items() if known.get(k) != v]
        if changes:
            raise ValueError(
                f"--output {folder} holds a run with other settings ({'; '.join(changes)}); go on with "
                "those, or choose another folder"
            )

    def begin(self) -> None:
        _write_json(self.settings, self.folder / SETTINGS)
        (self.folder / BATCHES).mkdir(exist_ok=True)

    def done(self, batches: int) -> set[int]:
        """The numbers of those of `batches` batches that are done."""
        return {batch for batch in range(batches) if self._file(batch).is_file()}

    def write(self, batch: int, results: Sequence[Rephrasing]) -> None:
        write_table(_to_table(results), self._file(batch))

    def read(self, batches: int) -> list[Rephrasing]:
        """The results of all batches."""
        tables = [pq.read_table(self._file(batch)) for batch in range(batches)]
        return [Rephrasing(**row) for table in tables for row in table.to_pylist()]

    def finish(self, questions: pa.Table, results: Sequence[Rephrasing]) -> dict[str, Any]:
        """Writes the pair files from the input's table and all results; returns what report.json says.

        Without an accepted pair there are no pair files: training could not read them.
        """
        accepted = [result for result in results if not result.reasons]
        rejects = [result for result in results if result.reasons]
        if accepted:
            originals = questions.take([result.row for result in accepted])
            write_table(originals, self.folder / ORIGINAL)
            rephrased = with_questions(originals, [result.rephrased for result in accepted])
            write_table(rephrased, self.folder / REPHRASED)
        write_table(_to_table(rejects), self.folder / REJECTS)
        report = {
            "questions": len(results),
            "accepted": len(accepted),
            "accepted_at_attempt": dict(sorted(Counter(result.attempts for result in accepted).items())),
            "rejected": len(rejects),
            "reasons": dict(Counter(reason for result in rejects for reason in result.reasons).most_common()),
        }
        _write_json(report, self.folder / REPORT)
        return report

    def _file(self, batch: int) -> Path:
        return self.folder / BATCHES / f"batch_{batch:06d}.parquet"


def _write_json(content: dict[str, Any], path: Path) -> None:
    new = temporary_name(path)
    new.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    publish_file(new, path)


def _to_table(results: Sequence[Rephrasing]) -> pa.Table:
    return pa.Table.from_pylist([asdict(result) for result in results], schema=pa.schema(_TYPES))
