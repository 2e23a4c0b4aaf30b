"""Cuts a Parquet file of questions into shards, and joins the pair files made from them.

    coreward shards cut questions.parquet --part 0 --of 8 --output 0.parquet
    coreward shards join pairs/shard_* --output pairs

For job arrays (examples/gpu/rephrase.sbatch). A shard is a run of rows; sizes differ by one row at most.
The joined original.parquet, rephrased.parquet and rejects.parquet are in the order of the folders given, the
first two still aligned row by row; the column `row` of rejects.parquet counts within its shard.

Exit codes: 0 done, 2 wrong input.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from megatron_coreward.data.preparation.shards import cut, join
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(run, parse_args(arguments))


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog="coreward shards", description=__doc__)
    actions = parser.add_subparsers(dest="action", required=True)
    cutting = actions.add_parser("cut", help="one shard of a file", description=__doc__)
    cutting.add_argument("questions", metavar="QUESTIONS")
    cutting.add_argument("--part", type=int, required=True, help="which one, from 0")
    cutting.add_argument("--of", type=int, required=True, help="how many there are")
    cutting.add_argument("--output", type=Path, required=True, metavar="FILE")
    joining = actions.add_parser("join", help="the pairs of all shards", description=__doc__)
    joining.add_argument(
        "folders", type=Path, nargs="+", metavar="FOLDER", help="outputs of coreward rephrase"
    )
    joining.add_argument("--output", type=Path, required=True, metavar="DIR")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> int:
    if options.action == "cut":
        cut(options.questions, options.part, options.of, options.output)
    else:
        join(options.folders, options.output)
    return 0
