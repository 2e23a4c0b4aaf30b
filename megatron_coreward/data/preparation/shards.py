"""Cuts a Parquet file of questions into shards for a job array, and joins the pair files made from them.

A shard is a run of rows; sizes differ by one row at most.
"""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.data.pair_files import write_table
from megatron_coreward.data.tables import read_parquet
from megatron_coreward.rephrasing.store import ORIGINAL, REJECTS, REPHRASED, REPORT


def cut(questions: str, part: int, of: int, output: Path) -> None:
    """Writes rows of shard `part` of `of`.

    Raises:
        ValueError: no such shard, or a file that cannot be read.
    """
    if not 0 <= part < of:
        raise ValueError(f"--part is {part}, but must be at least 0 and below --of ({of})")
    table = read_parquet(questions, "QUESTIONS")
    if of > table.num_rows:
        raise ValueError(f"--of is {of}, but {questions} has {table.num_rows} rows: a shard would be empty")
    begin, end = (table.num_rows * bound // of for bound in (part, part + 1))
    output.parent.mkdir(parents=True, exist_ok=True)
    write_table(table.slice(begin, end - begin), output)


def join(folders: Sequence[Path], output: Path) -> None:
    """Writes the pair files of all `folders`, one after the other, into `output`.

    Raises:
        ValueError: a folder is not finished, or a file cannot be read.
    """
    for folder in folders:
        if not (folder / REPORT).is_file():  # written last
            raise ValueError(f"{folder} has no {REPORT}: it is not finished; run its task again")
    output.mkdir(parents=True, exist_ok=True)
    for name in (ORIGINAL, REPHRASED, REJECTS):
        files = [folder / name for folder in folders if (folder / name).is_file()]
        if files:
            write_table(pa.concat_tables([pq.read_table(file) for file in files]), output / name)
