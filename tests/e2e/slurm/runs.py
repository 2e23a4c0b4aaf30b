"""Helpers of the tests on several nodes: a recipe's settings for a CPU, and the comparison of two runs."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from megatron_coreward.utils.metrics import read_metrics
from tests.support.models import tiny_model
from tests.support.programs import ROOT, environment, settings, without_times, write_data

HERE = Path(__file__).parent
RECIPE = "examples/gpu/qwen2.5_3b.yaml"
LONG = 100_000  # steps that no test will see the end of
MISSING = 2  # exit code of the scripts where root or a program is missing


def recipe_settings(folder: Path, output: Path, **overrides: object) -> list[str]:
    """RECIPE with a tiny model, on a CPU. Random rewards, since such a model earns no others."""
    return settings(
        folder / "model",
        output,
        folder / "data",
        model__dtype="float32",
        reward__method="random",
        evaluation__file="",
        **{"run__steps": 6, "data__max_prompt_tokens": 256} | overrides,
    )


def make_project(folder: Path) -> Path:
    """A folder to start the recipe in, whose logs do not end up among the user's: `folder`."""
    (folder / "examples").symlink_to(ROOT / "examples")
    tiny_model(folder / "model")
    write_data(folder / "data")
    return folder


@contextmanager
def throwaway(script: str, variable: str) -> Iterator[dict[str, str]]:
    """Runs one of the scripts here for as long as the block; gives the environment that it has made.

    The script ends when its command's stdin is closed, and so also when this process is killed.
    """
    holder = subprocess.Popen(
        [HERE / script, "sh", "-c", f'echo "${variable}" && read -r _'],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin and holder.stdout and holder.stderr
    value = holder.stdout.readline().strip()
    if not value:
        message = holder.stderr.read()
        if holder.wait() == MISSING:
            pytest.skip(message)
        pytest.fail(message)
    programs = f"{Path(sys.executable).parent}:{environment()['PATH']}"
    try:
        yield environment() | {"PATH": programs, "VENV": sys.prefix, "GPUS_PER_NODE": "1", variable: value}
    finally:
        holder.stdin.close()
        holder.wait(timeout=120)


def steps(run: Path) -> int:
    """How many a run has done so far."""
    records = read_metrics(run)
    return int(records[-1]["step"]) if records else 0


def assert_same_run(found: Path, expected: Path) -> None:
    """The same figures at every step, but for times, and the same exported weights, bit for bit."""
    assert without_times(found) == without_times(expected)
    weights = "hf/model.safetensors"
    assert (found / weights).read_bytes() == (expected / weights).read_bytes()
