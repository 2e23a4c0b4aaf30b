"""Cuts a Parquet file of questions into shards, and joins the pair files made from them.

    coreward shards cut data/math/train.parquet --part 0 --of 8 --output pairs/questions/0.parquet
    coreward shards join pairs/shard_* --output pairs

For job arrays (examples/launch/rephrase.sbatch). A shard is a run of rows; sizes differ by one row at most.
The joined original.parquet, rephrased.parquet and rejects.parquet are in the order of the folders given, the
first two still aligned row by row; the column `row` of rejects.parquet counts within its shard.

Exit codes: 0 done, 2 wrong input.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.data.pair_files import write_table
from megatron_coreward.data.tables import read_parquet
from megatron_coreward.rephrasing.store import ORIGINAL, REJECTS, REPHRASED, REPORT
from megatron_coreward.utils.logging import print_error

REFUSED = 2


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


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    actions = parser.add_subparsers(dest="action", required=True)
    cutting = actions.add_parser("cut", help="one shard of a file")
    cutting.add_argument("questions", metavar="QUESTIONS")
    cutting.add_argument("--part", type=int, required=True, help="which one, from 0")
    cutting.add_argument("--of", type=int, required=True, help="how many there are")
    cutting.add_argument("--output", type=Path, required=True, metavar="FILE")
    joining = actions.add_parser("join", help="the pairs of all shards")
    joining.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="outputs of rephrase_questions.py"
    )
    joining.add_argument("--output", type=Path, required=True, metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        if options.action == "cut":
            cut(options.questions, options.part, options.of, options.output)
        else:
            join(options.folders, options.output)
    except (ValueError, OSError) as error:
        print_error(error)
        return REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())
