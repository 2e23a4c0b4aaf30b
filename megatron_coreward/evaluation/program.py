"""Evaluates a Hugging Face folder or a checkpoint on questions with answers, through the rollout engine.

    python -m megatron_coreward.evaluate --model DIR --file math500.json --file gsm8k_test.jsonl --output DIR
    python -m megatron_coreward.evaluate --checkpoint RUN/checkpoints/step_000040 --file FILE [key.sub=value]
    torchrun --nproc-per-node 2 -m megatron_coreward.evaluate ...        one vLLM replica per rank

Greedy and sampled pass@1, avg@k, pass@k and maj@k with 95% intervals, per level and per subject, for several
files in one run: docs/evaluation.md. Exit codes: 0 done, 2 wrong input (one line says what).
"""

import argparse
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from megatron_coreward.evaluation.inputs import EvaluationInputs, read_inputs
from megatron_coreward.evaluation.model_folder import exported
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
from megatron_coreward.utils.logging import print_error, setup_logging

logger = logging.getLogger("megatron_coreward.evaluate")  # __name__ is __main__ when it is run

UNUSABLE = 2


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    setup_logging(rank)
    try:
        inputs = read_inputs(options, world_size)
    except ValueError as error:
        if rank == 0:
            print_error(error)
        return UNUSABLE
    return run(inputs)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_coreward.evaluate", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", default="", help="Hugging Face folder or hub id")
    source.add_argument("--checkpoint", type=Path, help="a run's checkpoint, or one of convert_checkpoint.py")
    add(
        "--file",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="Parquet, JSON or JSONL; repeatable",
    )
    add("--labels", default="", metavar="FILE", help="take levels and subjects of equal questions from it")
    add("--limit", default=0, help="use only the first n questions of each file; 0 = all (default)")
    add("--samples", default=8, help="sampled responses per question and seed (8)")
    add("--k", metavar="K,K,...", help="k of pass@k and maj@k (powers of two up to --samples, and --samples)")
    add("--greedy-only", action="store_true", help="one greedy response per question, nothing sampled")
    add("--temperature", default=0.8, help="of the sampled responses (0.8)")
    add("--max-prompt-tokens", default=1024, help="longer questions are left out and counted (1024)")
    add("--max-response-tokens", default=1024, help="generation limit (1024)")
    add("--seed", default=1, help="of the samples and the bootstrap (1)")
    add("--seeds", type=int, default=1, metavar="N", help="draw the samples with N seeds, from --seed on (1)")
    add("--output", type=Path, metavar="DIR", help="folder for summaries and responses")
    add("--scratch", type=Path, metavar="DIR", help="where --checkpoint is exported to, for the time being")
    add("overrides", nargs="*", metavar="key.sub=value", help="any other key of the config")
    return parser


def run(inputs: EvaluationInputs) -> int:
    """Builds the engine once and measures every benchmark. A collective; rank 0 writes and prints."""
    from megatron_coreward.rollout.engine import VllmEngine
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize, shutdown

    initialize()
    comm = TorchCommunicator()
    config = inputs.config
    with ExitStack() as stack:
        folder = inputs.folder
        if inputs.checkpoint is not None:
            try:
                folder = stack.enter_context(exported(inputs.checkpoint, inputs.scratch, comm))
            except (ValueError, OSError) as error:
                if comm.rank == 0:
                    print_error(error)
                shutdown()
                return UNUSABLE
        engine = VllmEngine(config, str(folder), inputs.stop_ids, config.run.seed)
    grader = Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers)
    measure_all(inputs, engine, comm, grader)
    engine.close()
    return 0


def measure_all(inputs: EvaluationInputs, engine: RolloutEngine, comm: Communicator, grader: Grader) -> None:
    """Every benchmark in turn; what is done is on disk before the next one begins."""
    evaluation = inputs.config.evaluation
    summary: Summary = {
        "model": inputs.config.model.path,
        "samples": evaluation.samples if inputs.ks else 0,
        "ks": inputs.ks,
        "seeds": inputs.seeds,
        "temperature": evaluation.temperature,
        "max_response_tokens": inputs.config.rollout.max_response_tokens,
        "system_prompt": inputs.config.data.system_prompt,
        "benchmarks": {},
    }
    for benchmark in inputs.benchmarks:
        logger.info("%s: %d questions", benchmark.name, len(benchmark.questions))
        scores, own_rows = measure(
            *(engine, comm, benchmark.questions, inputs.config, grader),
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
