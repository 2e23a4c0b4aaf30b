"""What the programs of the benchmarks' rows have in common, and that each of them runs as RESULTS.md says."""

import re
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import coreward_stage
from benchmarks.options import leave, row_parser
from benchmarks.record import Record
from benchmarks.suite import ROWS

RECORD = Record("sync", {"tokens": 8}, {"ours": {"wall_s": [1.0]}, "other": {"wall_s": [2.0]}}, {})


def test_the_commands_of_the_table_are_those_of_the_rows() -> None:
    stated = re.findall(r"^`((?:python|torchrun) .*)`$", program.TABLE.read_text(), flags=re.MULTILINE)
    assert len(stated) > 10
    for command in stated:
        assert re.sub(r" --repeats \d+$", "", command) in {" ".join(row.command) for row in ROWS}, command


def test_a_row_needs_no_file_and_shows_its_figures(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    parser = row_parser("A row.", repeats=3, tiny="small")
    options = parser.parse_args([])
    assert (options.repeats, options.tiny, options.output) == (3, False, None)
    leave(RECORD, options.output)
    assert "| ours | 1 (1 to 1) |" in capsys.readouterr().out and list(tmp_path.iterdir()) == []
    leave(RECORD, parser.parse_args(["--output", str(tmp_path / "row.json")]).output)
    assert Record.read(tmp_path / "row.json") == RECORD


@pytest.mark.parametrize("given", ["0", "-1", "2.5", "many"])
def test_repeats_below_one_are_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        row_parser("A row.", repeats=3, tiny="small").parse_args([f"--repeats={given}"])
    with pytest.raises(SystemExit):
        program.parser().parse_args([f"--repeats={given}"])
    said = capsys.readouterr().err
    assert said.count("argument --repeats") == 2, said
    assert f"argument --repeats: {given} given, allowed are whole numbers from 1 on" in said, said


def test_a_table_of_kinds_goes_into_no_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["coreward_stage", "--kinds", "--output", str(tmp_path / "row.json")])
    with pytest.raises(SystemExit):
        coreward_stage.main()
    assert "so give one of the two" in capsys.readouterr().err
