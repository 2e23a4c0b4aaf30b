"""The benchmark suite: records, the comparison of two of them, the table, and which rows run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks.record import Record, paired, slower, spread
from benchmarks.results import page
from benchmarks.suite import ROWS

TIMES = [1.00, 1.02, 0.98, 1.01, 0.99]


def record(ours: list[float], other: list[float] | None = None) -> Record:
    ways = {"ours": {"wall_s": ours}, "other": {"wall_s": other or [2 * value for value in ours]}}
    return Record("sync", {"tokens": 8}, ways, {"other / ours": ("other", "ours")}, {"other / ours": "2"})


def slowed(times: list[float], factor: float) -> list[float]:
    return [factor * value for value in times]


def test_a_slow_down_of_a_fifth_is_found_in_each_way_that_has_it() -> None:
    [line] = slower(record(TIMES, TIMES), record(slowed(TIMES, 1.2), TIMES))
    assert line == "sync, ours, wall_s: 1 (0.99 to 1.01) has become 1.2 (1.188 to 1.212), +20%"


@pytest.mark.parametrize("factor", [1.0, 1.01, 0.8])
def test_what_lies_within_the_spread_or_is_faster_passes(factor: float) -> None:
    assert slower(record(TIMES), record(slowed(TIMES, factor))) == []


def test_a_wide_spread_hides_a_slow_down() -> None:
    wide = [0.7, 0.8, 1.0, 1.3, 1.4]
    assert slower(record(wide), record(slowed(wide, 1.2))) == []


def test_only_the_same_is_compared() -> None:
    old = record(TIMES)
    for change in ({"row": "trl"}, {"settings": {"tokens": 9}}, {"machine": {"cores": 0}}):
        with pytest.raises(ValueError, match=f"differ in {next(iter(change))}, compare two of the same"):
            slower(old, replace(old, **change))
    with pytest.raises(ValueError, match="differ in ways"):
        slower(old, replace(old, ways={"ours": {"wall_s": TIMES}}))


def test_the_program_fails_beyond_the_spread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    record(TIMES).write(old)
    record(slowed(TIMES, 1.2)).write(new)
    assert program.main(["--compare", str(old), str(new)]) == 1
    assert "+20%" in capsys.readouterr().out
    assert program.main(["--compare", str(new), str(old)]) == 0


def test_ratios_are_taken_within_a_repeat() -> None:
    assert record([1, 10, 100], [2, 20, 200]).ratio("other / ours", "wall_s") == (2, 2, 2)
    assert spread([3.0]) == (3, 3, 3)


def test_ways_take_turns_after_a_warm_up() -> None:
    order: list[str] = []
    found = paired({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {len(values) for series in found.values() for values in series.values()} == {2}


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    written = record(TIMES)
    written.write(tmp_path / "row.json")
    assert Record.read(tmp_path / "row.json") == written
    assert json.loads((tmp_path / "row.json").read_text())["machine"]["cores"] >= 1
    assert not list(tmp_path.glob("*.part"))


def test_the_table_has_figures_commands_and_what_was_not_measured() -> None:
    rows = [row for row in ROWS if row.name in ("sync", "reward")]
    text = page(rows, {"sync": replace(record(TIMES), command="python -m some")})
    assert "`python -m some`" in text and "| ours | 1 (0.99 to 1.01) |" in text
    assert "| **other / ours** (goal: 2) | 2 (2 to 2) |" in text
    assert "Not measured: `python -m benchmarks --rows reward`." in text


def test_the_long_run_resumes_and_the_short_one_measures_anew(tmp_path: Path) -> None:
    record(TIMES).write(tmp_path / "sync.json")

    def names(*arguments: str) -> list[str]:
        options = program.parser().parse_args(arguments)
        return [row.name for row in ROWS if program.wanted(row, options, tmp_path / f"{row.name}.json")]

    assert names() == ["trl", "update", "log_probs", "sync", "reward"]
    assert names("--all") == [row.name for row in ROWS if row.name != "sync"]
    assert names("--rows", "sync") == ["sync"]
