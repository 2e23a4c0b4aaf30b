"""`coreward`: commands and their other doors, help that fits a screen, and slips that name the remedy."""

import os
import re
import runpy
import shlex
import subprocess
import sys
from importlib import import_module

import pytest

from megatron_coreward import __version__
from megatron_coreward.cli.main import COMMANDS, OTHER_NAMES, main
from megatron_coreward.config.keys import find_key
from megatron_coreward.utils.arguments import COLUMNS, LINES, Parser
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


SUBCOMMANDS = {"prepare": ("math", "gsm8k", "dapo", "own"), "shards": ("cut", "join")} | {
    "convert": ("hf-to-megatron", "megatron-to-hf", "verify", "inspect")
}
HELPS = [[command] for command in COMMANDS] + [[c, sub] for c, subs in SUBCOMMANDS.items() for sub in subs]


def output_of(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return capsys.readouterr().out


class Parsed(Exception):
    """The arguments were accepted, and the program does not begin."""


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_help_fits_a_screen_and_begins_with_an_example_that_is_accepted(command, capsys, monkeypatch):
    lines = output_of([*command, "--help"], capsys).splitlines()
    assert len(lines) <= LINES and max(map(len, lines)) <= COLUMNS, max(lines, key=len)
    for original in (Parser.parse_args, Parser.parse_intermixed_args):

        def parse(self, arguments=None, original=original):
            original(self, arguments)
            raise Parsed

        monkeypatch.setattr(Parser, original.__name__, parse)
    examples = lines[: lines.index("")]
    assert examples[0].startswith(" ".join(["coreward", *command]))
    for example in examples:
        program, *words = shlex.split(example, comments=True)
        if program == "coreward":
            with pytest.raises(Parsed):
                main(words)
        for word in words:
            assert not word.startswith("examples/") or (ROOT / word).exists()
            if "=" in word and not word.startswith("-"):
                find_key(word.partition("=")[0])


@pytest.mark.parametrize("command", HELPS, ids=" ".join)
def test_every_option_is_in_the_help_by_its_name_and_explained_by_help_all(command, capsys):
    short, full = output_of([*command, "--help"], capsys), output_of([*command, "--help-all"], capsys)
    rows = [line.split()[0] for line in full.splitlines() if line.startswith("  --")]
    assert all(option in short for option in rows)
    assert "--help-all" not in full


@pytest.mark.parametrize(("door", "command"), DOORS.items())
def test_a_door_runs_the_main_of_its_command(door, command, monkeypatch):
    module = import_module(COMMANDS[command][0])
    monkeypatch.setattr(module, "main", lambda arguments: arguments)
    monkeypatch.setattr(sys, "argv", [door, "--json"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / door), run_name="__main__")
    assert ended.value.code == ["--json"]


def test_tools_are_doors_or_maintainers_scripts():
    scripts = {"fetch_smollm2.py", "lock_gpu.py", "lock_requirements.py", "make_toy_model.py", "__init__.py"}
    doors = {door.removeprefix("tools/") for door in DOORS if door.startswith("tools/")}
    assert {path.name for path in (ROOT / "tools").glob("*.py")} == doors | scripts


def test_without_a_command_all_are_listed(capsys):
    assert main([]) == 2
    listed = capsys.readouterr().out
    assert all(f"\n  {command} " in listed for command in COMMANDS)
    assert listed.startswith("coreward train examples/quickstart/config.yaml")
    assert len(listed.splitlines()) <= LINES and max(map(len, listed.splitlines())) <= COLUMNS
    assert main(["--help"]) == 0


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"coreward {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"), [(["train"], True), (["train", "-h"], False), (["show"], False)]
)
def test_a_slow_command_says_at_once_that_it_loads(arguments, said, monkeypatch, capsys):
    monkeypatch.setattr(import_module(COMMANDS[arguments[0]][0]), "main", lambda given: 0)
    assert main(arguments) == 0 and capsys.readouterr().err == "", "not in the log of a batch system"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(arguments) == 0
    assert ("coreward train: loading PyTorch\n" in capsys.readouterr().err) == said
    monkeypatch.setenv("RANK", "1")
    assert main(arguments) == 0 and capsys.readouterr().err == "", "who has started the ranks has said it"


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("trian", "did you mean coreward train?"),
        ("summarise", "did you mean coreward summarize?"),
        ("eval", "did you mean coreward evaluate?"),
        ("supervised", "did you mean coreward sft?"),
        ("plot_run", "did you mean coreward report?"),
        ("xyz", "there are train, evaluate, show"),
    ],
)
def test_an_unknown_command_names_the_one_that_is_meant(word, hint, capsys):
    assert main([word]) == 2
    assert f"error: there is no command {word!r}; {hint}" in capsys.readouterr().err


def test_other_names_lead_to_commands():
    assert set(OTHER_NAMES.values()) <= COMMANDS.keys() and not OTHER_NAMES.keys() & COMMANDS.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "run.yaml", "--lr", "1e-5"], "there is no option --lr: write optimizer.lr=1e-5"),
        (["train", "--run.steps=3"], "there is no option --run.steps: write run.steps=3"),
        (["train", "--dryrun"], "there is no option --dryrun; did you mean --dry-run?"),
        (["sft", "--dry-run"], "there is no option --dry-run"),
        (["train", "--ranks", "0"], "argument --ranks: it is '0', but must be a number from 1 on"),
        (["evaluate", "--model", "m", "--top_k", "3"], "Unknown configuration key 'top_k'"),
        (["plan", "--gpus", "4", "--tensor", "2"], "there is no option --tensor: write parallel.tensor=2"),
        (["rephrase", "q", "--model=m", "--output=o", "--memory-gb=2"], "write rollout.memory_gb=2"),
        (["report"], "the following arguments are required: RUN"),
        (["show", "run", "--stepp", "3"], "there is no option --stepp; did you mean --step?"),
        (["prepare", "mth", "x"], "invalid choice: 'mth' (choose from 'math', 'gsm8k', 'dapo', 'own')"),
    ],
)
def test_a_wrong_option_is_one_line_that_says_what_to_write(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    line = capsys.readouterr().err
    assert ended.value.code == 2
    assert line.startswith("error: ") and line.count("\n") == 1 and message in line


@pytest.mark.parametrize(
    "door", ["-m megatron_coreward.train --config run.yaml", "-m megatron_coreward.cli.main train run.yaml"]
    + ["-m megatron_coreward.evaluate", "tools/plan.py --gpus 1"],
)  # fmt: skip
def test_a_python_without_the_packages_says_where_they_are(door):
    """-S leaves out site-packages."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}
    result = subprocess.run(
        [sys.executable, "-S", *door.split()],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    [line] = result.stderr.splitlines()
    assert line.startswith("error: ") and ". .venv/bin/activate" in line


def test_a_wrong_row_is_said_before_torch_is_imported(tmp_path):
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "1+1?", "rephrased": "Add 1 to 1."}\n{"question": "1+2?"}\n')
    command = [sys.executable, "-X", "importtime", "-m", "megatron_coreward.cli.main", "train"]
    settings = [f"data.original={questions}", "model.path=examples/arithmetic_arms/start_model"]
    settings += ["data.max_prompt_tokens=96", "rollout.max_response_tokens=32"]
    result = subprocess.run([*command, *settings], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    last = [line for line in result.stderr.splitlines() if not line.startswith("import time:")][-1]
    assert "q.jsonl:2: line 2 has no rephrasing" in last
    assert not re.search(r"\| +torch$", result.stderr, flags=re.MULTILINE), "torch was imported"
