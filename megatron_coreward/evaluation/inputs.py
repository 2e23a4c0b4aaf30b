"""The inputs of an evaluation: read and checked before a weight is touched."""

import argparse
import re
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_coreward.config.fields import MAX_SEED
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config
from megatron_coreward.data.pairs import EVALUATION_KEY, Question, load_questions
from megatron_coreward.data.prompts import EvaluationQuestion, evaluation_questions, with_prompts
from megatron_coreward.evaluation.model import EvaluatedModel, read_model
from megatron_coreward.preflight.files import check_token_ids

MAX_SAMPLES = 1000
"""Beyond it the subsets that maj@k counts outgrow a float64."""
SYNTHETIC = "synthetic"
_NAMED_FILE = re.compile(r"([\w.-]+)=(.+)")


@dataclass(frozen=True)
class Benchmark:
    """One file's questions with their prompts; `dropped` had a prompt that is too long."""

    name: str
    file: str
    questions: list[EvaluationQuestion]
    dropped: int


@dataclass(frozen=True)
class EvaluationInputs:
    """What is evaluated, and how."""

    model: EvaluatedModel
    benchmarks: list[Benchmark]
    ks: list[int]
    seeds: list[int]
    """The seeds of the sampled responses; nothing is sampled if `ks` is empty."""
    output: Path | None


def read_inputs(options: argparse.Namespace, world_size: int) -> EvaluationInputs:
    """Reads and checks everything but the weights. Raises ValueError for the first thing that is wrong."""
    flags = {"evaluation.limit": options.limit, "evaluation.samples": options.samples}
    given = [f"{key}={value}" for key, value in flags.items() if value is not None] + options.overrides
    # Before the model, which takes torch: what is wrong with a file is said at once.
    files = _read_files(options, load_config([], ["model.path=unread", "evaluation.limit=0", *given]))
    model = read_model(options.model, options.checkpoint, options.scratch, given, world_size)
    ks, seeds = _ks_and_seeds(options, model.config)
    benchmarks = [_benchmark(*file, model) for file in files]
    if options.labels:
        benchmarks = _labelled(benchmarks, options.labels)
    prompts = [question.prompt_ids for benchmark in benchmarks for question in benchmark.questions]
    check_token_ids(model.shape, model.stop_ids, prompts)
    if options.output is not None:
        _make_folder(options.output)
    return EvaluationInputs(model, benchmarks, ks, seeds, options.output)


def _ks_and_seeds(options: argparse.Namespace, config: Config) -> tuple[list[int], list[int]]:
    samples = config.evaluation.samples
    if samples > MAX_SAMPLES:
        raise ValueError(f"--samples is {samples}, but must be at most {MAX_SAMPLES}; use more --seeds")
    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}, but must be at least 1")
    if config.run.seed + options.seeds - 1 > MAX_SEED:
        raise ValueError(
            f"run.seed is {config.run.seed} and --seeds {options.seeds}, but no seed may be above "
            f"{MAX_SEED}; lower run.seed"
        )
    if options.greedy_only:
        if options.k or options.seeds > 1:
            raise ValueError("--greedy-only samples nothing: leave out --k and --seeds, or leave it out")
        return [], [config.run.seed]
    seeds = [config.run.seed + i for i in range(options.seeds)]
    if options.k is None:
        return sorted({samples, *(1 << i for i in range(samples.bit_length()))}), seeds
    if not re.fullmatch(r"[0-9]+(,[0-9]+)*", options.k):
        raise ValueError(f"--k is {options.k!r}, but must be whole numbers with commas, as in 1,4,8")
    ks = sorted({int(k) for k in options.k.split(",")})
    if ks[0] < 1 or ks[-1] > samples:
        raise ValueError(
            f"--k is {options.k}, but each k must be from 1 to --samples ({samples}); raise --samples"
        )
    return ks, seeds


def _read_files(options: argparse.Namespace, config: Config) -> list[tuple[str, str, list[Question]]]:
    """Name, file and questions in the order given, with distinct names."""
    files: dict[str, tuple[str, str, list[Question]]] = {}
    for given in options.file or [config.evaluation.file]:
        name, file = _name_and_file(given)
        if name in files:
            raise ValueError(
                f"--file {files[name][1]} and --file {file} are both called {name}; give one of them "
                f"another name: --file NAME={file}"
            )
        try:
            questions = evaluation_questions(_of_file(config, file))
        except ValueError as error:
            key = "--file" if options.file else EVALUATION_KEY
            raise ValueError(str(error).replace(EVALUATION_KEY, key)) from error
        files[name] = (name, file, questions)
    return list(files.values())


def _benchmark(name: str, file: str, questions: list[Question], model: EvaluatedModel) -> Benchmark:
    if not questions:
        raise ValueError("no questions: give --file, or data.source=synthetic for the synthetic problems")
    kept = with_prompts(questions, _of_file(model.config, file), model.tokenizer)
    return Benchmark(name, file, kept, len(questions) - len(kept))


def _of_file(config: Config, file: str) -> Config:
    return replace(config, evaluation=replace(config.evaluation, file=file))


def _name_and_file(given: str) -> tuple[str, str]:
    """NAME=FILE, or FILE with its stem for a name."""
    match = None if Path(given).exists() else _NAMED_FILE.fullmatch(given)
    return (match[1], match[2]) if match else (Path(given).stem or SYNTHETIC, given)


def _labelled(benchmarks: list[Benchmark], path: str) -> list[Benchmark]:
    """The benchmarks with levels and subjects from the file `path` for questions that have none themselves.

    Raises:
        ValueError: as load_questions, and if no question is in the file.
    """
    labels = {question.question.strip(): question for question in load_questions(path, "--labels")}
    if not any(q.question.strip() in labels for benchmark in benchmarks for q in benchmark.questions):
        raise ValueError(f"--labels {path} has none of the questions; give a file with the same texts")

    def label(question: EvaluationQuestion) -> EvaluationQuestion:
        equal = labels.get(question.question.strip(), question)
        return replace(
            question, level=question.level or equal.level, subject=question.subject or equal.subject
        )

    return [
        replace(benchmark, questions=[label(question) for question in benchmark.questions])
        for benchmark in benchmarks
    ]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--output {folder} cannot be made: {error}; choose another folder") from error
