"""What a finished run says last."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from megatron_coreward.cli.main import COMMANDS
from megatron_coreward.config.loading import load_config
from megatron_coreward.run.folder import RunFolder
from megatron_coreward.types import StepReport
from megatron_coreward.utils.distributed import TorchCommunicator


class NoSaver:
    """A saver of a run without checkpoints."""

    def save(self, step: int, trainer_state: dict[str, Any], ratings: Any = None) -> None:
        raise AssertionError("no checkpoint is due")

    def poll(self) -> None:
        pass


@pytest.mark.parametrize("exported", [True, False])
def test_the_last_lines_name_the_warnings_and_the_next_commands(tmp_path: Path, exported: bool) -> None:
    run = tmp_path / "my run"
    settings = ["model.path=x", f"run.output_dir={run}", f"run.export_hf={str(exported).lower()}"]
    config = load_config([], [*settings, "logging.rollouts=false", "logging.tensorboard=false"])
    with RunFolder(config, TorchCommunicator(), Console(), 1, None, NoSaver(), {}) as folder:
        assert f"{run}, without a warning. Next:" in folder.summary()
        folder.on_step(StepReport(1, {"reward/mean": 0.0, "original/signal_groups": 0.0}), [], [])
        first, *commands = folder.summary().splitlines()
    assert "with 1 warning: no signal (look at rollout.samples" in first and first.endswith(". Next:")
    words = [shlex.split(command) for command in commands]
    assert {name for _, name, *_ in words} == {"show", "report", "evaluate"} <= set(COMMANDS)
    paths = [Path(word) for command in words for word in command[2:] if "/" in word]
    result = run / "hf" if exported else run / "checkpoints" / "step_000001"
    assert paths == [run, run, result]
