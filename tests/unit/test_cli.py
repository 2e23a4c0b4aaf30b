"""`coreward`: every command exists, and an unknown one gives an error."""

from importlib import import_module

import pytest

from megatron_coreward.cli.main import COMMANDS, main


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    assert callable(import_module(COMMANDS[command][0]).main)
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"coreward {command}" in listed for command in COMMANDS)
    assert main(["--help"]) == 0


def test_an_unknown_command_names_the_known_ones(capsys):
    assert main(["trian"]) == 2
    assert "there is no command 'trian'; there are train, evaluate, show" in capsys.readouterr().err
