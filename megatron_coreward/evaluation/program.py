"""Evaluates a Hugging Face folder or a checkpoint on questions with answers, through the rollout engine.

    coreward evaluate --model runs/quickstart/hf --file math500.json --output out
    coreward evaluate --checkpoint RUN/checkpoints/step_000040 --file q.jsonl
    torchrun --nproc-per-node 2 -m megatron_coreward.evaluate ...  # a replica per rank

Greedy and sampled pass@1, avg@k, pass@k and maj@k with 95% intervals, per level and per subject, for several
files in one run: docs/evaluation.md. Exit codes: 0 done, 2 wrong input (one line says what).
"""

import argparse
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megatron_coreward.config.option_hints import as_override
from megatron_coreward.evaluation.inputs import EvaluationInputs, read_inputs
from megatron_coreward.evaluation.model import run_with_engine
from megatron_coreward.evaluation.outcomes import measure
from megatron_coreward.evaluation.report import (
    Summary,
    benchmark_summary,
    print_tables,
    write_rows,
    write_summary,
)
from megatron_coreward.grading.grader import Grader
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.utils.arguments import Parser
from megatron_coreward.utils.logging import exit_code, setup_logging

logger = logging.getLogger("megatron_coreward.evaluate")  # __name__ is __main__ when it is run

MOVED = {
    "--temperature": "evaluation.temperature",
    "--max-prompt-tokens": "data.max_prompt_tokens",
    "--max-response-tokens": "rollout.max_response_tokens",
    "--seed": "run.seed",
}
"""Options of 0.1 -> the keys that say the same."""


def main(arguments: Sequence[str] | None = None) -> int:
    return exit_code(prepare, _parser().parse_intermixed_args(arguments))


def prepare(options: argparse.Namespace) -> Callable[[], int]:
    """Makes all checks that need no engine; returns the work that is left. Raises ValueError."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    setup_logging(rank)
    return partial(run, read_inputs(options, world_size))


def _parser() -> argparse.ArgumentParser:
    # Without allow_abbrev=False --seed would be short for --seeds.
    parser = Parser(
        prog="coreward evaluate", description=__doc__, instead=as_override, moved=MOVED, allow_abbrev=False
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", default="", metavar="DIR", help="Hugging Face folder or hub id")
    source.add_argument("--checkpoint", type=Path, metavar="DIR", help="a checkpoint of a run, or of convert")
    add(
        *("--file",),
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="Parquet, JSONL, JSON, CSV or hf://OWNER/NAME/FILE; repeatable",
    )
    add("--limit", metavar="N", help="only the first N questions of each file")
    add("--samples", metavar="N", help="responses sampled per question and seed (8)")
    add("--seeds", type=int, default=1, metavar="N", help="draw them with N seeds from run.seed on (1)")
    add("--greedy-only", action="store_true", help="one greedy response per question, no samples")
    add("--k", metavar="K,K,...", help="k of pass@k and maj@k (1, 2, 4, ..., --samples)")
    add("--labels", default="", metavar="FILE", help="levels and subjects of equal questions")
    add("--output", type=Path, metavar="DIR", help="folder for summaries and responses")
    add("--scratch", type=Path, metavar="DIR", help="where --checkpoint is exported for the time being")
    add(
        *("overrides",),
        nargs="*",
        metavar="key=value",
        help="any key of docs/config.md: evaluation.temperature=0.6, data.system_prompt=, run.seed=2",
    )
    return parser


def run(inputs: EvaluationInputs) -> int:
    """Builds the engine once and measures every benchmark. A collective; rank 0 writes and prints."""
    return run_with_engine(inputs.model, partial(measure_all, inputs))


def measure_all(inputs: EvaluationInputs, engine: RolloutEngine, comm: Communicator, grader: Grader) -> None:
    """Every benchmark in turn; what is done is on disk before the next one begins."""
    config = inputs.model.config
    evaluation = config.evaluation
    summary: Summary = {
        "model": config.model.path,
        "samples": evaluation.samples if inputs.ks else 0,
        "ks": inputs.ks,
        "seeds": inputs.seeds,
        "temperature": evaluation.temperature,
        "max_prompt_tokens": config.data.max_prompt_tokens,
        "max_response_tokens": config.rollout.max_response_tokens,
        "system_prompt": config.data.system_prompt,
        "benchmarks": {},
    }
    for benchmark in inputs.benchmarks:
        logger.info("%s: %d questions", benchmark.name, len(benchmark.questions))
        scores, own_rows = measure(
            *(engine, comm, benchmark.questions, config, grader),
            *(inputs.seeds, inputs.ks, benchmark.name),
        )
        rows = [row for share in comm.gather(own_rows) for row in share]
        if comm.rank == 0:
            measured = benchmark_summary(scores, rows, inputs.ks, inputs.seeds, benchmark.dropped)
            summary["benchmarks"][benchmark.name] = {"file": benchmark.file, **measured}
            if inputs.output is not None:
                write_rows(inputs.output, benchmark.name, rows)
                write_summary(inputs.output, summary)
    if comm.rank == 0:
        print_tables(summary)
