"""Training and evaluation from Python: `coreward train` and `coreward evaluate` in processes of their own.

So the caller's torch, its device and its random state are left alone, and a script can do it many times.
Messages of the processes come out as they are written.
"""

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from tempfile import TemporaryDirectory
from typing import Any

from megatron_coreward.api.runs import Evaluation, Run, load_run
from megatron_coreward.api.settings import Config
from megatron_coreward.config.loading import to_yaml
from megatron_coreward.evaluation.report import SUMMARY_FILE
from megatron_coreward.utils.logging import REFUSED
from megatron_coreward.utils.run_names import STATE_FILE

_MODULE = "megatron_coreward.cli.main"
_ERROR = "error: "


class RunError(RuntimeError):
    """A program did not reach its end; `code` is its exit code."""

    def __init__(self, sentence: str, code: int) -> None:
        super().__init__(sentence)
        self.code = code


class Stopped(RunError):
    """The run was interrupted and has saved a checkpoint; `run.resume` goes on with it."""


class NotFinite(RunError):
    """A loss or gradient was not finite (optimizer.nonfinite); the last checkpoint is intact."""


class Stalled(RunError):
    """A rank stalled (run.stall_timeout_s)."""


_ERRORS: Mapping[int, type[RunError]] = {3: Stopped, 4: NotFinite, 5: Stalled}


def train(config: Config, ranks: int | None = None) -> Run:
    """Trains to the end; what `load_run` reads of the run then.

    Args:
        ranks: processes on this machine; None for one per GPU, or one without a GPU.

    Raises:
        ValueError: the configuration or the data are not usable, in the program's own sentence.
        Stopped, NotFinite, Stalled, RunError: the run did not reach its end.
    """
    with TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(to_yaml(config), encoding="utf-8")
        _run("train", str(file), *([] if ranks is None else ["--ranks", str(ranks)]))
    return load_run(config.run.output_dir)


def evaluate(
    model: str | Path, file: str | Path, overrides: Mapping[str, Any] | None = None, **options: Any
) -> Evaluation:
    """Measures a model on a file of questions with answers.

    Args:
        model: Hugging Face folder, hub id or checkpoint.
        file: Parquet, JSON, JSONL or CSV.
        overrides: keys of the configuration, as {"data.system_prompt": ""}.
        options: those of `coreward evaluate --help`: samples=4 for --samples 4, greedy_only=True for
            --greedy-only. `output` keeps every response.

    Raises:
        ValueError: model, file or options are not usable, in the program's own sentence.
        RunError: the program failed otherwise.
    """
    with TemporaryDirectory() as folder:
        is_checkpoint = (Path(model) / STATE_FILE).is_file()
        given = {"checkpoint" if is_checkpoint else "model": model, "file": f"questions={file}"}
        given |= {"output": folder} | options
        _run("evaluate", *_flags(given), *(f"{key}={value}" for key, value in (overrides or {}).items()))
        summary = json.loads((Path(given["output"]) / SUMMARY_FILE).read_text())
    return Evaluation.from_summary(summary["benchmarks"]["questions"])


def _flags(options: Mapping[str, Any]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        if value is not False:
            flags += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return flags


def _run(command: str, *arguments: str) -> None:
    program = [sys.executable, "-m", _MODULE, command, *arguments]
    with Popen(program, stdout=PIPE, stderr=STDOUT, text=True, encoding="utf-8", errors="replace") as process:
        assert process.stdout is not None, "a pipe was asked for"
        try:
            sentence = _pass_through(process.stdout)
        except KeyboardInterrupt:  # the program has got it, too: it ends the step and saves a checkpoint
            sentence = _pass_through(process.stdout)
    if process.returncode == REFUSED:
        raise ValueError(sentence)
    if process.returncode:
        raise _ERRORS.get(process.returncode, RunError)(sentence, process.returncode)


def _pass_through(lines: Iterable[str]) -> str:
    """Writes lines as they come; returns the last error among them, or the last line without one."""
    last = error = ""
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()
        last = line.strip() or last
        error = line.strip().removeprefix(_ERROR) if line.startswith(_ERROR) else error
    return error or last
