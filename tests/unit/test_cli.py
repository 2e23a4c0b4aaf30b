"""`coreward`: every command exists, its doors lead to it, and wrong input is one line and exit code 2."""

import runpy
import sys
from importlib import import_module

import pytest

from megatron_coreward.cli.main import COMMANDS, main
from megatron_coreward.utils.logging import REFUSED, exit_code
from tests.support.paths import ROOT

DOORS = {
    "tools/convert_checkpoint.py": "convert",
    "tools/doctor.py": "doctor",
    "tools/plan.py": "plan",
    "tools/prepare_math.py": "prepare",
    "tools/rephrase_questions.py": "rephrase",
    "megatron_coreward/evaluate.py": "evaluate",
    "megatron_coreward/show.py": "show",
}
"""File that can be started -> the command that it is another way to."""


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert callable(import_module(COMMANDS[command][0]).main)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.parametrize(("door", "command"), DOORS.items())
def test_a_door_runs_the_main_of_its_command(door, command, monkeypatch):
    module = import_module(COMMANDS[command][0])
    monkeypatch.setattr(module, "main", lambda: 42)
    monkeypatch.setattr(sys, "argv", [door])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / door), run_name="__main__")
    assert ended.value.code == 42


def test_tools_are_doors_or_maintainers_scripts():
    scripts = {"fetch_smollm2.py", "lock_requirements.py", "make_toy_model.py"}
    doors = {door.removeprefix("tools/") for door in DOORS if door.startswith("tools/")}
    assert {path.name for path in (ROOT / "tools").glob("*.py")} == doors | scripts


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"coreward {command}" in listed for command in COMMANDS)
    assert main(["--help"]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"), [(["train"], True), (["train", "-h"], False), (["show"], False)]
)
def test_a_slow_command_says_at_once_that_it_loads(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(import_module(COMMANDS[arguments[0]][0]), "main", lambda given: 0)
    assert main(arguments) == 0 and capsys.readouterr().err == "", "not in the log of a batch system"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(arguments) == 0
    assert ("coreward train: loading PyTorch\n" in capsys.readouterr().err) == said


def test_an_unknown_command_names_the_known_ones(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; there are train, evaluate, show" in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "lines"), [(None, 1), ("0", 1), ("1", 0)])
@pytest.mark.parametrize("error", [ValueError("--pairs is -1"), FileNotFoundError("--pairs is -1")])
def test_wrong_input_is_one_line_on_rank_0(error, rank, lines, monkeypatch, capsys):
    def program(raised):
        raise raised

    monkeypatch.delenv("RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("RANK", rank)
    assert exit_code(program, error) == REFUSED == 2
    assert capsys.readouterr().err == "error: --pairs is -1\n" * lines


def test_an_exit_code_is_handed_on_and_a_bug_is_not_hidden():
    assert exit_code(divmod(7, 4).__getitem__, 1) == 3
    with pytest.raises(KeyError):
        exit_code({}.__getitem__, "absent")
