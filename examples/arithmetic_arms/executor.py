"""Trains runs a few at a time, asks the test split of what they leave, and writes their results.

A run that is stopped saves a checkpoint and goes on from it in the next call; what is done is not done again.
Commands run in the work tree and import the package that lies there.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arms import START_MODELS, Run
from results import CHOSEN, LAST, START, collect, probes_of, tested, write_result
from rules import chosen_checkpoint

from megatron_coreward.evaluation.report import SUMMARY_FILE
from megatron_coreward.utils.run_names import CHECKPOINTS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
QUICK_SETTINGS = {
    **{"run.steps": 12, "monitor.every": 4, "monitor.pairs": 16, "checkpoint.every": 4},
    **{"evaluation.every": 4, "evaluation.limit": 40},
}
TEST = {
    **{"data.source": "synthetic", "data.system_prompt": "", "data.max_prompt_tokens": 96},
    **{"rollout.max_response_tokens": 32, "rollout.memory_gb": 0.5},
    **{"evaluation.temperature": 1.0, "run.seed": 1, "evaluation.synthetic_split": "test"},
}
"""Every model is asked with the same seed."""
QUICK_TEST = {"evaluation.synthetic_split": "validation"}
"""The test split is not asked to try things out."""


class CommandFailed(Exception):
    """A command has not reached its end; the log has its words."""


@dataclass
class Executor:
    """Runs of the work tree: folders in `runs`, one JSON file per run in `results`, `jobs` at a time.

    `facts` go into every result, and so does the fingerprint of the task's start model.
    """

    runs: Path
    results: Path
    jobs: int
    facts: Mapping[str, Any]
    start_models: Mapping[str, str]
    quick: bool = False
    _working: set["subprocess.Popen[bytes]"] = field(default_factory=set)
    _stopping: threading.Event = field(default_factory=threading.Event)

    def run_all(self, runs: Sequence[Run], seconds: float) -> list[Run]:
        """Runs them in this order; none starts after `seconds`. Returns those that failed."""
        self.runs.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + seconds
        pool = ThreadPoolExecutor(self.jobs)
        try:
            for task in sorted({run.task for run in runs}):
                self._test(START_MODELS[task], task, self._start_folder(task), self.runs / "start.log")
            done = [pool.submit(self._one, run, deadline) for run in runs]
            return [run for run, future in zip(runs, done, strict=True) if not future.result()]
        except CommandFailed as error:
            raise ValueError(f"the start model could not be evaluated: {error}") from error
        finally:  # also on Ctrl-C: what is under way saves a checkpoint, from which the next call goes on
            self._stopping.set()
            for process in list(self._working):
                process.terminate()
            pool.shutdown(cancel_futures=True)

    def _one(self, run: Run, deadline: float) -> bool:
        """Trains, tests and writes one run, unless it is too late; whether it has not failed."""
        if self._stopping.is_set() or time.monotonic() > deadline:
            return True
        started, log = time.monotonic(), self.runs / f"{run.name}.log"
        spent = self.runs / f"{run.name}.seconds"
        try:
            self._train(run, log)
            tests = self._tests(run, log)
        except CommandFailed as error:
            if not self._stopping.is_set():
                say(f"failed   {run.name}: {error}")
            return self._stopping.is_set()
        finally:
            with spent.open("a") as file:
                file.write(f"{time.monotonic() - started:.0f}\n")
        seconds = sum(map(int, spent.read_text().split()))
        facts = {**self.facts, "start_model": self.start_models[run.task], "seconds": seconds}
        result = collect(self.runs / run.name, run, tests, facts)
        write_result(result, self.results / f"{run.name}.json")
        shutil.rmtree(self.runs / run.name / CHECKPOINTS)
        say(f"done     {run.name}: checkpoint {result['chosen']}, {seconds} s")
        return True

    def _train(self, run: Run, log: Path) -> None:
        folder = self.runs / run.name
        settings = {**run.overrides, **(QUICK_SETTINGS if self.quick else {})}
        if _steps_done(folder) == settings["run.steps"]:
            return
        resume = any((folder / CHECKPOINTS).glob("step_*"))
        if folder.exists() and not resume:
            shutil.rmtree(folder)
        settings |= {"run.output_dir": folder, "run.resume": str(resume).lower()}
        say(f"{'resume' if resume else 'start '}   {run.name}")
        self._command(["megatron_coreward.train", "--config", str(HERE / "config.yaml")], settings, log)

    def _tests(self, run: Run, log: Path) -> dict[str, dict[str, Any]]:
        """The test split by START, CHOSEN and LAST; a model that is two of them is asked once."""
        folder = self.runs / run.name
        chosen, _ = chosen_checkpoint(probes_of(folder))
        steps = {START: 0, CHOSEN: chosen, LAST: _steps_done(folder)}
        found = {0: tested(self._start_folder(run.task) / SUMMARY_FILE)}
        for step in sorted(set(steps.values()) - {0}):
            output = folder / f"test_step_{step}"
            self._test(folder / CHECKPOINTS / f"step_{step:06d}", run.task, output, log)
            found[step] = tested(output / SUMMARY_FILE)
        return {model: found[step] for model, step in steps.items()}

    def _test(self, model: Path | str, task: str, output: Path, log: Path) -> None:
        if (output / SUMMARY_FILE).exists():
            return
        kind = "--checkpoint" if (ROOT / model / "state.json").exists() else "--model"
        command = ["megatron_coreward.evaluate", kind, str(model), "--output", str(output), "--samples", "8"]
        command += ["--limit", str(QUICK_SETTINGS["evaluation.limit"] if self.quick else 0)]
        settings = {**TEST, "data.synthetic_task": task, **(QUICK_TEST if self.quick else {})}
        self._command(command, settings, log)

    def _command(self, command: Sequence[str], settings: Mapping[str, Any], log: Path) -> None:
        """Raises CommandFailed."""
        if self._stopping.is_set():
            raise CommandFailed("stopped")
        threads = str(max(1, (os.cpu_count() or 1) // self.jobs))
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": threads}
        words = [sys.executable, "-m", *command, *(f"{key}={value}" for key, value in settings.items())]
        with log.open("a") as file:
            process = subprocess.Popen(words, cwd=ROOT, env=environment, stdout=file, stderr=file)
            self._working.add(process)
            if self._stopping.is_set():
                process.terminate()
            code = process.wait()
            self._working.discard(process)
        if code:
            raise CommandFailed(f"exit code {code}, see {log}")

    def _start_folder(self, task: str) -> Path:
        return self.runs / f"start_{task}"


def _steps_done(folder: Path) -> int:
    """The newest checkpoint's step; 0 before the first."""
    return max((int(p.name.removeprefix("step_")) for p in (folder / CHECKPOINTS).glob("step_*")), default=0)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
