"""Runs the experiment of README.md: every reward method on the same model, problems and number of responses.

    python examples/arithmetic_arms/run_arms.py            what is missing; stop and go on as you like
    python examples/arithmetic_arms/run_arms.py --quick    a few minutes: fewer steps, arms and seeds
    python examples/arithmetic_arms/run_arms.py --list     what is done, what is missing, how long it takes

Each finished run leaves one JSON file in results/; with it there, its run folder is not needed any more. The
table and the figure are drawn anew at the end (summarize_arms.py does only that).
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arms import ARMS, Result, Run, chosen_rate, collapse_step, planned, read_results, sweep
from summarize_arms import write_summary

from megatron_coreward.reporting.changes import read_scores
from megatron_coreward.utils.bootstrap import pass_at_k
from megatron_coreward.utils.failures import print_error
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.run_names import CHECKPOINTS, EVALUATIONS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RUNS = ROOT / "runs" / "arithmetic_arms"
MODEL = HERE / "start_model"
"""The quickstart's toy model as one machine made it: other processors round its training differently, and all
runs must start from the same weights."""
POLL_SECONDS = 0.5
QUICK = {"run.steps": 6, "evaluation.every": 3, "evaluation.limit": 100}
QUICK_ARMS = ("ground_truth", "co_reward", "majority_voting", "entropy")
FIGURES = ("vote_accuracy", "label_accuracy", "entropy", "top_answer_share", "response_tokens", "repetition")


@dataclass(frozen=True)
class Experiment:
    """Where results go, and what all runs have in common."""

    results: Path
    runs: Path
    jobs: int
    overrides: dict[str, Any]
    quick: bool = False

    def missing(self) -> list[Run]:
        """The runs that can start now; empty when all are done."""
        results = read_results(self.results)
        done = {result["name"] for result in results}
        if self.quick:
            runs = [Run(arm, 1, 3e-5) for arm in QUICK_ARMS]
        else:
            rate = chosen_rate(results)
            runs = sweep() if rate is None else planned(rate)
        return [run for run in runs if run.name not in done]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four arms, six steps: some minutes")
    parser.add_argument("--list", action="store_true", help="show what is done and missing, run nothing")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, a core each")
    parser.add_argument("--most", type=int, default=0, help="stop after this many runs; 0 = all")
    options = parser.parse_args(arguments)
    results = RUNS / "quick" / "results" if options.quick else HERE / "results"
    overrides = QUICK if options.quick else {}
    runs = RUNS / "quick" if options.quick else RUNS
    experiment = Experiment(results, runs, max(1, options.jobs), overrides, options.quick)
    try:
        if options.list:
            show(experiment)
            return 0
        failed = run_all(experiment, options.most)
        output = RUNS / "quick" if options.quick else HERE
        write_summary(read_results(results), output)
    except ValueError as error:
        print_error(error)
        return 2
    say(f"table and figure: {output}")
    return 1 if failed else 0


def show(experiment: Experiment) -> None:
    results = read_results(experiment.results)
    for result in results:
        collapsed = result["collapse_step"]
        state = "" if collapsed is None else f", collapsed at step {collapsed}"
        say(f"done     {result['name']}: greedy {result['evaluations']['greedy_pass@1'][-1]:.3f}{state}")
    missing = experiment.missing()
    for run in missing:
        say(f"missing  {run.name}")
    say(estimate(results, len(missing), experiment.jobs))


def estimate(results: Sequence[Result], missing: int, jobs: int) -> str:
    """How long the rest will take, from the runs that are done."""
    if not missing:
        return "all runs are done"
    if not results:
        return f"{missing} runs to do; no time is known before the first one is done (about 4 minutes each)"
    seconds = sum(result["seconds"] for result in results) / len(results)
    return (
        f"{missing} runs to do, {seconds:.0f} s each, {jobs} at a time: "
        f"about {missing * seconds / jobs / 60:.0f} min"
    )


def run_all(experiment: Experiment, most: int = 0) -> list[Run]:
    """Runs what is missing, `jobs` at a time; the runs that failed."""
    failed: list[Run] = []
    started = 0
    while todo := [run for run in experiment.missing() if run not in failed]:
        batch = todo[: most - started] if most else todo
        if not batch:
            break
        say(estimate(read_results(experiment.results), len(batch), experiment.jobs))
        failed += list(_in_parallel(experiment, batch))
        started += len(batch)
    return failed


def _in_parallel(experiment: Experiment, runs: list[Run]) -> Iterator[Run]:
    """Yields the runs that failed."""
    waiting = list(runs)
    working: dict[Run, tuple[subprocess.Popen[bytes], float]] = {}
    try:
        while waiting or working:
            while waiting and len(working) < experiment.jobs:
                run = waiting.pop(0)
                working[run] = (_start(experiment, run), time.perf_counter())
            time.sleep(POLL_SECONDS)
            for run, (process, begun) in list(working.items()):
                if process.poll() is None:
                    continue
                del working[run]
                if process.returncode:
                    say(f"failed   {run.name}: see {experiment.runs / run.name}.log")
                    yield run
                else:
                    finish(experiment, run, time.perf_counter() - begun)
    finally:
        for (
            process,
            _,
        ) in working.values():  # Ctrl-C: they save a checkpoint, from which the next call goes on
            process.terminate()
        for process, _ in working.values():
            process.wait()


def _start(experiment: Experiment, run: Run) -> subprocess.Popen:
    folder = experiment.runs / run.name
    resume = any((folder / CHECKPOINTS).glob("step_*"))
    if folder.exists() and not resume:
        shutil.rmtree(folder)
    settings = {
        "model.path": MODEL,
        **experiment.overrides,
        **run.overrides,
        "run.output_dir": folder,
        "run.resume": str(resume).lower(),
    }
    command = [sys.executable, "-m", "megatron_coreward.train", "--config", str(HERE / "config.yaml")]
    command += [f"{key}={value}" for key, value in settings.items()]
    folder.parent.mkdir(parents=True, exist_ok=True)
    say(f"{'resume' if resume else 'start '}   {run.name}")
    threads = str(max(1, (os.cpu_count() or 1) // experiment.jobs))
    with (folder.parent / f"{run.name}.log").open("a") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": threads}, stdout=log, stderr=log
        )


def finish(experiment: Experiment, run: Run, seconds: float) -> None:
    """Writes the run's JSON file, and removes its checkpoints."""
    folder = experiment.runs / run.name
    result = collect(folder, run, seconds)
    experiment.results.mkdir(parents=True, exist_ok=True)
    path = experiment.results / f"{run.name}.json"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(result) + "\n")
    os.replace(temporary, path)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    say(f"done     {run.name}: greedy {result['evaluations']['greedy_pass@1'][-1]:.3f}, {seconds:.0f} s")


def collect(folder: Path, run: Run, seconds: float) -> Result:
    """The figures of a finished run."""
    view = ARMS[run.arm].view
    records = [record for record in read_metrics(folder) if "reward/mean" in record]
    evaluations = _evaluations(folder)
    top_shares = [(int(r["step"]), r[f"{view}/top_answer_share"]) for r in records]
    greedy = list(zip(evaluations["step"], evaluations["greedy_pass@1"], strict=True))
    return {
        "name": run.name,
        "arm": run.arm,
        "seed": run.seed,
        "rate": run.rate,
        "start_model": hashlib.sha256((MODEL / "model.safetensors").read_bytes()).hexdigest()[:16],
        "seconds": round(seconds),
        "collapse_step": collapse_step(greedy, top_shares),
        "evaluations": evaluations,
        "steps": {name: [_rounded(_figure(record, view, name)) for record in records] for name in FIGURES},
    }


def _evaluations(folder: Path) -> dict[str, list[Any]]:
    """Each measure by evaluation, beside "step"."""
    columns: dict[str, list[Any]] = {}
    for path in sorted((folder / EVALUATIONS).glob("step_*.json")):
        scores = read_scores(path)
        [sampled_QK] = scores.sampled_SQK
        measures = {name.removeprefix("eval/"): value for name, value in scores.metrics().items()}
        measures[f"pass@{scores.samples}"] = float(pass_at_k(sampled_QK, scores.samples).mean())
        columns.setdefault("step", []).append(int(path.stem.removeprefix("step_")))
        for name, value in measures.items():
            columns.setdefault(name, []).append(_rounded(value))
    return columns


def _figure(record: dict[str, float], view: str, name: str) -> float | None:
    return record.get(f"diagnostics/{view}/{name}" if name.endswith("accuracy") else f"{view}/{name}")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
