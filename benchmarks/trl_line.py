"""Wall and CPU seconds of a step, ours against TRL's GRPOTrainer, on the same prompts.

    python -m benchmarks.trl_line [--questions 4] [--views original] [--samples 8] [--new-tokens 48]
        [--data FOLDER] [--model FOLDER] [--repeats 3] [--tiny] [--output FILE.json]

The questions are the first MATH questions of `--data` whose prompts (both wordings where both are answered)
have 100 to 130 tokens; their rows and token ids are printed. The model is SmolLM2-135M-Instruct as
tools/fetch_smollm2.py makes it, unless `--model` names another. KL on, float32, EOS ignored, both cores.

TRL runs in build/bench-trl, which is made from requirements/bench-trl.txt at first. It has no gradient
checkpointing. The first repeat runs it as one process with two threads and as two with one, each with two
batches: the largest that fits (all responses, halved as long as memory is short) and half of it. The fastest
is repeated. Ours has vLLM compiled. A repeat starts each way anew, in turns, and times the step after a
warm-up step; wall seconds are the slowest rank's, CPU seconds those of all ranks.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.options import leave, row_parser
from benchmarks.record import Record, Series
from megatron_coreward.config.loading import load_config
from megatron_coreward.data.prompts import build_pairs, load_tokenizer
from megatron_coreward.launch.ranks import environment_of
from megatron_coreward.types import QuestionPair
from tests.support.models import tiny_model
from tests.support.paths import RELEASED_DATA, ROOT
from tools.fetch_smollm2 import fetch

TRL, MODEL = ROOT / "build" / "bench-trl", ROOT / "build" / "bench-model"
PINS = ROOT / "requirements" / "bench-trl.txt"
SHORTEST, LONGEST = 100, 130
WARM_UP = 1
AT_BEST = ["rollout.enforce_eager=false"]
"""What a long run sets on a CPU, beside its defaults. Dividing Adam's state over ranks took a second more."""
OUT_OF_MEMORY = "out_of_memory"
"""The file that trl_theirs.py leaves in the spec's folder where memory was short."""
RENDEZVOUS = ("--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0")
RANKS = 2
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node", str(RANKS), *RENDEZVOUS)
Steps = list[tuple[dict[str, float], ...]]
"""Steps, and of each what its ranks have measured."""
Way = Callable[[dict[str, Any]], Series]


def main() -> None:
    options = parser(__doc__).parse_args()
    console = Console()
    make_environment()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = model_folder(options, folder)
        spec = make_spec(options, str(model), folder, console)
        ways: dict[str, Way] = {
            "ours": run_ours,
            "TRL, 1 process of 2 threads": partial(run_trl, 1),
            "TRL, 2 processes": partial(run_trl, 2),
        }
        first = in_turns(ways, spec, 1, console)
        best = min(list(ways)[1:], key=lambda way: first[way]["wall_s"][0])
        # Whichever it is, the record names it TRL, so that records can be compared.
        found = {"ours": first["ours"], "TRL": first[best]}
        in_turns({"ours": run_ours, "TRL": ways[best]}, spec, options.repeats - 1, console, found)
    kept = ("questions", "views", "samples", "new_tokens", "kl_coef", "lr", "rows", "changes")
    record = Record(
        row="trl",
        settings={"model": model.name} | {name: spec[name] for name in kept},
        ways=found,
        ratios={"TRL / ours": ("TRL", "ours")},
        goals={"TRL / ours": "at least 3.3 here, 2 in other sizes"},
        notes={
            "trl": trl_version(),
            "first repeat, wall_s": {way: series["wall_s"][0] for way, series in first.items()},
            "batch per process of TRL": spec["batches"],
            "ids": spec["prompts"],
        },
    )
    leave(record, options.output)


def in_turns(
    ways: dict[str, Way],
    spec: dict[str, Any],
    repeats: int,
    console: Console,
    found: dict[str, Series] | None = None,
) -> dict[str, Series]:
    """Each way `repeats` times, started anew, in an order that rotates; added to `found` if given."""
    found = {title: {} for title in ways} if found is None else found
    names = list(ways)
    for repeat in range(repeats):
        turn = repeat % len(names)
        for title in names[turn:] + names[:turn]:
            for measure, values in ways[title](spec).items():
                found[title].setdefault(measure, []).extend(values)
            console.print(f"repeat {repeat + 1}, {title}: {found[title]}")
    return found


def parser(about: str) -> argparse.ArgumentParser:
    """The options of a step like TRL's, for the program whose docstring is `about`."""
    made = row_parser(about, repeats=3, tiny="a toy model, 2 responses of 8 tokens")
    made.add_argument("--questions", type=int, default=4)
    made.add_argument("--views", choices=["original", "both"], default="original", help="wordings answered")
    made.add_argument("--samples", type=int, default=8)
    made.add_argument("--new-tokens", type=int, default=48)
    add_inputs(made)
    return made


def add_inputs(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--data", type=Path, default=RELEASED_DATA / "math", help="folder of the prepared pairs"
    )
    made.add_argument("--model", type=Path, help="Hugging Face folder instead of SmolLM2-135M-Instruct")


def make_environment() -> None:
    """The virtual environment of TRL, unless it is there as the pins want it."""
    ready = TRL / ".ready"
    if ready.is_file() and ready.read_text() == PINS.read_text():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(TRL)], check=True)
    install = ["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--requirement"]
    subprocess.run([str(TRL / "bin" / "python"), *install, str(PINS)], check=True)
    ready.write_text(PINS.read_text())


def trl_version() -> str:
    return next(line.partition("==")[2] for line in PINS.read_text().splitlines() if line.startswith("trl=="))


def model_folder(options: argparse.Namespace, folder: Path) -> Path:
    if options.tiny:
        return tiny_model(folder / "toy", "llama")
    if options.model:
        return options.model.resolve()
    if not MODEL.exists():
        fetch(MODEL)
    return MODEL


def make_spec(options: argparse.Namespace, model: str, folder: Path, console: Console) -> dict[str, Any]:
    """What both sides are told; the chosen questions go into a file for ours."""
    files = [f"data.original={options.data}/train_original.parquet"]
    files.append(f"data.rephrased={options.data}/train_rewrite_Qwen3-32B.parquet")
    config = load_config([], [f"model.path={model}", "data.max_prompt_tokens=192", "data.limit=512", *files])
    both = options.views == "both"
    if options.tiny:
        options.samples, options.new_tokens = 2, 8
    tokenizer = load_tokenizer(model)
    chosen = [
        pair
        for pair in build_pairs(config, tokenizer)
        if all(SHORTEST <= len(ids) <= LONGEST for ids in prompts_of(pair, both))
    ][: options.questions]
    if len(chosen) < options.questions:
        raise ValueError(
            f"{options.data} has {len(chosen)} questions with prompts of {SHORTEST} to {LONGEST} tokens in "
            f"its first 512, --questions asks for {options.questions}"
        )
    prompts = [list(ids) for pair in chosen for ids in prompts_of(pair, both)]
    for pair in chosen:
        console.print(f"row {pair.pair_id}: {prompts_of(pair, both)}", soft_wrap=True)
    data = folder / "questions.jsonl"
    rows = ({"question": pair.original, "rephrased": pair.rephrased} for pair in chosen)
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "model": model,
        "data": str(data),
        "rows": [pair.pair_id for pair in chosen],
        "prompts": prompts,
        "texts": [tokenizer.decode(ids) for ids in prompts],
        "questions": options.questions,
        "views": options.views,
        "samples": options.samples,
        "new_tokens": options.new_tokens,
        "kl_coef": 0.005,
        "lr": 3e-6,
        "steps": WARM_UP + 1,
        "batches": {},
        "changes": [] if options.tiny else AT_BEST,
        "kv_block": 0,
        "floor": False,
        "holdings": False,
    }


def prompts_of(pair: QuestionPair, both: bool) -> list[tuple[int, ...]]:
    return [pair.original_ids, pair.rephrased_ids] if both else [pair.original_ids]


def run_ours(spec: dict[str, Any]) -> Series:
    return series_of(steps_of_ours(spec))


def steps_of_ours(spec: dict[str, Any]) -> Steps:
    command = [sys.executable, *TORCHRUN, "-m", "benchmarks.trl_ours"]
    steps = run(command, spec, environment_of(RANKS, os.environ) | {"OMP_NUM_THREADS": "1"})
    assert steps is not None, "only TRL tells of short memory"
    return steps


def run_trl(processes: int, spec: dict[str, Any]) -> Series:
    """With the faster of the two largest batches that fit, which the first repeat finds out."""
    python, program = str(TRL / "bin" / "python"), str(Path(__file__).with_name("trl_theirs.py"))
    command = [python, *(TORCHRUN if processes == 2 else ()), program]
    threads, batches = 2 // processes, spec["batches"]
    environment = {"OMP_NUM_THREADS": str(threads), "PYTHONSAFEPATH": "1", "PYTHONPATH": ""}

    def steps_of(batch: int) -> Series | None:
        steps = run(command, spec | {"threads": threads, "batch": batch}, environment)
        return None if steps is None else series_of(steps)

    known = batches.get(processes)
    batch = known or len(spec["prompts"]) * spec["samples"] // processes
    while (series := steps_of(batch)) is None:
        if batch == 1:
            raise RuntimeError(f"TRL, {processes} process(es): memory is short even for a batch of 1")
        batch //= 2
    batches[processes] = batch
    smaller = steps_of(batch // 2) if known is None and batch > 1 else None
    if smaller is None or median(series["wall_s"]) <= median(smaller["wall_s"]):
        return series
    batches[processes] = batch // 2
    return smaller


def run(command: list[str], spec: dict[str, Any], environment: dict[str, str]) -> Steps | None:
    """The timed steps of one start, without the warm-up; None if memory was short.

    Raises:
        RuntimeError: a rank failed for another reason; its output stands above.
    """
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "spec.json"
        file.write_text(json.dumps(spec | {"folder": name}))
        environment = {**os.environ, **environment, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        if code := subprocess.run([*command, str(file)], env=environment, cwd=ROOT, check=False).returncode:
            if (Path(name) / OUT_OF_MEMORY).exists():
                return None
            raise RuntimeError(f"{' '.join(command)} ended with code {code}; its output is above")
        ranks = [json.loads(path.read_text())[WARM_UP:] for path in sorted(Path(name).glob("rank*.json"))]
    return list(zip(*ranks, strict=True))


def series_of(steps: Steps) -> Series:
    """Wall seconds of the slowest rank, CPU seconds of all."""
    return {
        "wall_s": [max(rank["wall_s"] for rank in step) for step in steps],
        "cpu_s": [sum(rank["cpu_s"] for rank in step) for step in steps],
    }


if __name__ == "__main__":
    main()
