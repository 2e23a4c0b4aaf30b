"""Evaluation on questions with answers: greedy and sampled pass@1, pass@k, maj@k, through the rollout engine.

    python -m megatron_coreward.evaluate --model DIR --file QUESTIONS [--output DIR] [key.sub=value ...]
    torchrun --nproc-per-node 2 -m megatron_coreward.evaluate ...        one vLLM replica per rank

pass@1 is the mean over all samples of all questions (the paper's avg@k); maj@k takes a question as solved
when the majority answer of its k samples is right, ties going to the smallest sample index. Sampled pass@1
also rises by mere sharpening, so greedy pass@1 and maj@k are always reported with it. Outcomes are kept per
question: two evaluations of the same questions are compared by a paired bootstrap over the questions.

The paper evaluates at temperature 0.8 and publishes no evaluation code.
"""

import argparse
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from megatron_coreward.config import Config
from megatron_coreward.config_checks import RANGES
from megatron_coreward.config_loading import load_config
from megatron_coreward.config_model import ModelShape, read_model_shape
from megatron_coreward.coreward.answers import extract_answer
from megatron_coreward.coreward.grader import NO_ANSWER, Grader
from megatron_coreward.coreward.voting import vote
from megatron_coreward.data.prompts import (
    EvaluationQuestion,
    build_questions,
    load_generation_config,
    load_tokenizer,
    stop_token_ids,
)
from megatron_coreward.roles import Communicator, RolloutEngine
from megatron_coreward.rollout.placement import request_seed
from megatron_coreward.types import GenerationRequest, Response, Sampling, View
from megatron_coreward.utils.bootstrap import Interval, mean_interval, paired_bootstrap, pass_at_k
from megatron_coreward.utils.logging import print_error, setup_logging

SUMMARY_FILE, SAMPLES_FILE = "summary.json", "samples.parquet"
SEED_STEP = -1
"""In place of the training step in the requests' seeds: every evaluation of a run draws the same noise,
which no training step draws."""


@dataclass(frozen=True)
class EvalResult:
    """Outcomes by question, the same on every rank; Q questions in the order given, K samples.

    `rows` are this rank's responses, one dict each.
    """

    question_ids_Q: np.ndarray  # int64
    greedy_Q: np.ndarray  # bool
    sampled_QK: np.ndarray  # bool
    majority_Q: np.ndarray  # bool
    rows: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def by_question(self) -> dict[str, np.ndarray]:
        """The value of each measure for each question, float64 [Q], under its metric name."""
        samples = self.sampled_QK.shape[1]
        return {
            "eval/greedy_pass@1": self.greedy_Q.astype(float),
            "eval/pass@1": self.sampled_QK.mean(axis=1),
            f"eval/maj@{samples}": self.majority_Q.astype(float),
        }

    def metrics(self) -> dict[str, float]:
        """The figures of a training log."""
        return {name: float(values_Q.mean()) for name, values_Q in self.by_question().items()}

    def summary(self, seed: int) -> dict[str, Any]:
        """Everything but the rows, JSON-able: intervals, pass@k for k = 1, 2, 4, ..., outcomes."""
        samples = self.sampled_QK.shape[1]
        sizes = [1 << i for i in range(samples.bit_length())]
        return {
            "questions": len(self.question_ids_Q),
            "samples": samples,
            "metrics": {n: mean_interval(v, seed)._asdict() for n, v in self.by_question().items()},
            "pass@k": {str(k): float(pass_at_k(self.sampled_QK, k).mean()) for k in sizes},
            "outcomes": {
                "question_id": self.question_ids_Q.tolist(),
                "greedy": self.greedy_Q.astype(int).tolist(),
                "sampled": self.sampled_QK.astype(int).tolist(),
                "majority": self.majority_Q.astype(int).tolist(),
            },
        }

    @classmethod
    def from_summary(cls, summary: dict[str, Any]) -> "EvalResult":
        outcomes = summary["outcomes"]
        return cls(
            np.asarray(outcomes["question_id"], dtype=np.int64),
            np.asarray(outcomes["greedy"], dtype=bool),
            np.asarray(outcomes["sampled"], dtype=bool),
            np.asarray(outcomes["majority"], dtype=bool),
        )


def evaluate(
    engine: RolloutEngine,
    comm: Communicator,
    questions: Sequence[EvaluationQuestion],
    config: Config,
    grader: Grader,
) -> EvalResult:
    """Draws one greedy and `evaluation.samples` sampled responses per question and grades them.

    A collective; `questions` is the same list on every rank, with distinct ids.
    """
    max_tokens = config.rollout.max_response_tokens
    samples = config.evaluation.samples
    by_id = {question.question_id: question for question in questions}
    assert len(by_id) == len(questions) > 0, "evaluation questions need distinct ids, and there must be some"

    greedy = engine.generate(_requests(questions, 1, config.run.seed), Sampling(0.0, max_tokens))
    sampled = engine.generate(
        _requests(questions, samples, config.run.seed), Sampling(config.evaluation.temperature, max_tokens)
    )
    greedy_rows = _grade("greedy", greedy, by_id, grader)
    sampled_rows = _grade("sampled", sampled, by_id, grader)

    def gathered(outcomes: list[tuple[int, int, bool]], width: int) -> np.ndarray:
        """(question id, sample, solved) of all ranks as an array, bool [Q, width]."""
        index = {question_id: i for i, question_id in enumerate(by_id)}
        solved = np.full((len(index), width), -1)
        for part in comm.all_gather(outcomes):
            for question_id, sample, value in part:
                solved[index[question_id], sample] = value
        assert (solved >= 0).all(), "a question has no outcome on any rank"
        return solved.astype(bool)

    return EvalResult(
        question_ids_Q=np.fromiter(by_id, dtype=np.int64),
        greedy_Q=gathered([(r["question_id"], 0, r["correct"]) for r in greedy_rows], 1)[:, 0],
        sampled_QK=gathered([(r["question_id"], r["sample"], r["correct"]) for r in sampled_rows], samples),
        majority_Q=gathered(_majorities(sampled_rows, grader), 1)[:, 0],
        rows=greedy_rows + sampled_rows,
    )


def _requests(questions: Sequence[EvaluationQuestion], samples: int, seed: int) -> list[GenerationRequest]:
    """As rollout.placement.make_requests, with a question in place of a pair's original view."""
    view = View.ORIGINAL
    return [
        GenerationRequest(
            pair_id=question.question_id,
            view=view,
            sample=sample,
            prompt_ids=question.prompt_ids,
            seed=request_seed(seed, SEED_STEP, question.question_id, view, sample),
        )
        for question in questions
        for sample in range(samples)
    ]


def _grade(
    decoding: str,
    responses: Sequence[Response],
    by_id: dict[int, EvaluationQuestion],
    grader: Grader,
) -> list[dict[str, Any]]:
    """A row per response. Each answer is compared with the truth alone, whatever else was drawn."""
    forms = [grader.form(extract_answer(response.text)) for response in responses]
    truths = [grader.form(by_id[response.pair_id].answer) for response in responses]
    distinct = sorted(set(zip(forms, truths, strict=True)))
    verdicts = {
        pair: form == truth != NO_ANSWER
        for pair, (form, truth) in zip(distinct, grader.classify(distinct), strict=True)
    }
    return [
        {
            "question_id": response.pair_id,
            "level": by_id[response.pair_id].level,
            "subject": by_id[response.pair_id].subject,
            "decoding": decoding,
            "sample": response.sample,
            "question": by_id[response.pair_id].question,
            "text": response.text,
            "answer": form,
            "ground_truth": truth,
            "correct": verdicts[form, truth],
            "finish_reason": response.finish_reason,
            "response_tokens": len(response.response_ids),
        }
        for response, form, truth in zip(responses, forms, truths, strict=True)
    ]


def _majorities(rows: Sequence[dict[str, Any]], grader: Grader) -> list[tuple[int, int, bool]]:
    """(question id, 0, whether the majority answer is right); responses without an answer do not vote.

    A class is right when its first answer in order of samples is.
    """
    groups: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample"]):
        groups[row["question_id"]].append(row)
    outcomes = []
    classified = grader.classify([[row["answer"] for row in group] for group in groups.values()])
    for (question_id, group), classes in zip(groups.items(), classified, strict=True):
        winner = vote(classes, ties="first", min_agreement=0.0).label
        right = winner is not None and group[classes.index(winner)]["correct"]
        outcomes.append((question_id, 0, right))
    return outcomes


def compare(before: EvalResult, after: EvalResult, seed: int) -> dict[str, Interval]:
    """Paired differences after - before of every measure, by metric name.

    Raises:
        ValueError: the results are of different questions or numbers of samples.
    """
    ids_before, ids_after = before.question_ids_Q, after.question_ids_Q
    if not np.array_equal(ids_before, ids_after) or before.sampled_QK.shape != after.sampled_QK.shape:
        raise ValueError(
            f"cannot compare evaluations of different questions or samples: {before.sampled_QK.shape} and "
            f"{after.sampled_QK.shape}; use the same evaluation.file, .limit and .samples"
        )
    old, new = before.by_question(), after.by_question()
    return {name: paired_bootstrap(old[name], new[name], seed) for name in old}


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_intermixed_args(arguments)
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    try:
        setup_logging(rank)
        config = _config(options)
        shape = read_model_shape(config.model)
        check_sizes(config, shape, world_size)
        tokenizer = load_tokenizer(str(shape.folder), config.model.trust_remote_code)
        generation = load_generation_config(str(shape.folder), config.model.trust_remote_code)
        questions = build_questions(config, tokenizer)
        if not questions:
            raise ValueError("no questions: give --file, or data.source=synthetic for the synthetic problems")
        if options.output is not None:
            _make_folder(options.output)
    except ValueError as error:
        if rank == 0:
            print_error(error)
        return 2
    _run(config, shape.folder, questions, stop_token_ids(tokenizer, generation), options.output)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_coreward.evaluate", description="Evaluates a model in Hugging Face format."
    )
    parser.add_argument("--model", required=True, help="folder or hub id")
    parser.add_argument("--file", default="", help="questions with answers: Parquet, JSON or JSONL")
    parser.add_argument("--limit", default=0, help="use only the first n questions; 0 = all")
    parser.add_argument("--samples", default=8, help="sampled responses per question")
    parser.add_argument("--temperature", default=0.8, help="of the sampled responses")
    parser.add_argument("--max-response-tokens", default=1024, help="generation limit")
    parser.add_argument("--seed", default=1, help="of the samples and the bootstrap")
    parser.add_argument("--output", type=Path, help="folder for summary.json and samples.parquet")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="any other key of the config")
    return parser


def _config(options: argparse.Namespace) -> Config:
    settings = {
        "model.path": options.model,
        "evaluation.file": options.file,
        "evaluation.limit": options.limit,
        "evaluation.samples": options.samples,
        "evaluation.temperature": options.temperature,
        "rollout.max_response_tokens": options.max_response_tokens,
        "run.seed": options.seed,
    }
    return load_config(None, [f"{key}={value}" for key, value in settings.items()] + options.overrides)


def check_sizes(config: Config, shape: ModelShape, world_size: int) -> None:
    """What the engine needs to be true, as ValueErrors before it is built."""
    for key, value in {
        "evaluation.samples": config.evaluation.samples,
        "evaluation.temperature": config.evaluation.temperature,
        "rollout.max_response_tokens": config.rollout.max_response_tokens,
        "evaluation.limit": config.evaluation.limit,
    }.items():
        if value not in RANGES[key]:
            raise ValueError(f"{key} is {value}, but must be {RANGES[key]}")
    size = config.rollout.tensor_parallel_size
    if size < 1 or world_size % size or shape.heads % size:
        raise ValueError(
            f"rollout.tensor_parallel_size={size} must divide the {world_size} ranks and the model's "
            f"{shape.heads} attention heads"
        )
    needed = config.data.max_prompt_tokens + config.rollout.max_response_tokens
    if needed > shape.max_positions:
        raise ValueError(
            f"data.max_prompt_tokens + rollout.max_response_tokens = {needed} tokens, but the model's "
            f"context is {shape.max_positions}; lower --max-response-tokens"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {folder} cannot be made: {error}; choose another folder") from error


def _run(
    config: Config,
    model_folder: Path,
    questions: Sequence[EvaluationQuestion],
    stop_ids: Sequence[int],
    output: Path | None,
) -> None:
    """A collective over all ranks; rank 0 writes and prints."""
    from megatron_coreward.rollout.engine import VllmEngine
    from megatron_coreward.utils.distributed import TorchCommunicator, initialize

    initialize()
    comm = TorchCommunicator()
    engine = VllmEngine(config, str(model_folder), stop_ids, config.run.seed)
    with Grader(config.reward.equality, config.reward.timeout_s, config.reward.workers) as grader:
        result = evaluate(engine, comm, questions, config, grader)
    rows = [row for part in comm.all_gather(result.rows) for row in part]
    if comm.rank == 0:
        summary = {
            "model": config.model.path,
            "file": config.evaluation.file,
            **result.summary(config.run.seed),
        }
        if output is not None:
            write_results(output, summary, rows)
        Console().print(result_table(summary))
    engine.close()


def write_results(folder: Path, summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """summary.json and, one row per response, samples.parquet."""
    rows = sorted(rows, key=lambda row: (row["question_id"], row["decoding"], row["sample"]))
    (folder / SUMMARY_FILE).write_text(json.dumps(summary, indent=1) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / SAMPLES_FILE, compression="zstd")


def result_table(summary: dict[str, Any]) -> Table:
    title = f"{summary['questions']} questions, {summary['samples']} samples each"
    table = Table(title=title, title_justify="left")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95% interval", justify="right")
    for name, interval in summary["metrics"].items():
        low, high = interval["low"], interval["high"]
        table.add_row(name.removeprefix("eval/"), f"{interval['value']:.3f}", f"{low:.3f} to {high:.3f}")
    for k, value in summary["pass@k"].items():
        if k != "1":
            table.add_row(f"pass@{k}", f"{value:.3f}", "")
    return table


if __name__ == "__main__":
    sys.exit(main())
