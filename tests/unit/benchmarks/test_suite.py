"""The benchmark suite: records, the comparison of two of them, the table, and which rows run."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import __main__ as program
from benchmarks import trl_line
from benchmarks.record import Curve, Record, paired, slower, spread
from benchmarks.results import page, plot
from benchmarks.shared_prompts import flops
from benchmarks.suite import ROWS
from benchmarks.update import products
from megatron_coreward.actor.compute.grouping import Size
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.phases.flops import head_flops, linear_flops_per_token
from tests.support.models import tiny_model

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
    assert [path.name for path in tmp_path.iterdir()] == ["row.json"]


def test_the_table_has_figures_commands_and_what_was_not_measured() -> None:
    rows = [row for row in ROWS if row.name in ("sync", "reward")]
    text = page(rows, {"sync": replace(record(TIMES), command="python -m some")})
    assert "`python -m some`" in text and "| ours | 1 (0.99 to 1.01) |" in text
    assert "| **other / ours** (goal: 2) | 2 (2 to 2) |" in text
    assert "Not measured: `python -m benchmarks --rows reward`." in text


def test_a_row_whose_file_is_not_there_keeps_its_section() -> None:
    rows = [row for row in ROWS if row.name in ("sync", "reward", "growth")]
    both = page(rows, {"sync": record(TIMES), "growth": with_curve()})
    assert page(rows, {}, both) == both
    anew = page(rows, {"sync": record(slowed(TIMES, 2))}, both)
    assert "| ours | 2 (1.98 to 2.02) |" in anew and "| ours | 1 (0.99 to 1.01) |" not in anew.split("## ")[1]
    assert anew.split("## ")[3] == both.split("## ")[3] and "growth.svg" in anew


def with_curve() -> Record:
    curve = Curve("tokens", {"ours": 1, "other": 2}, {"ours": 1, "other": 2}, "a line")
    return replace(record(TIMES), curve=curve)


def test_a_curve_survives_its_file_and_becomes_a_plot_beside_the_table(tmp_path: Path) -> None:
    with_curve().write(tmp_path / "row.json")
    read = Record.read(tmp_path / "row.json")
    assert read == with_curve()
    for name in ("once.svg", "twice.svg"):
        plot(read, "growth", tmp_path / name)
    assert (tmp_path / "once.svg").read_bytes() == (tmp_path / "twice.svg").read_bytes()
    assert b"<svg" in (tmp_path / "once.svg").read_bytes()
    rows = [row for row in ROWS if row.name == "growth"]
    assert "![update by response length, P 120, G 8](growth.svg)" in page(rows, {"growth": read})
    assert "svg" not in page(rows, {"growth": record(TIMES)})


def test_the_threads_of_the_shell_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in program.THREADS:
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("KEPT", "7")
    assert program.environment()["KEPT"] == "7"
    assert not {*program.THREADS} & program.environment().keys()


def steps(seconds: float) -> trl_line.Steps:
    return [({"wall_s": seconds, "cpu_s": 1.0}, {"wall_s": seconds / 2, "cpu_s": 1.0})]


def test_trl_has_the_faster_of_the_two_largest_batches_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {8: 4.0, 4: 3.0, 2: 1.0}  # 16 do not fit, and 2 are never asked for
    tried: list[int] = []

    def run(command: list[str], spec: dict, environment: dict) -> trl_line.Steps | None:
        tried.append(spec["batch"])
        return steps(seconds[spec["batch"]]) if spec["batch"] in seconds else None

    monkeypatch.setattr(trl_line, "run", run)
    spec = {"prompts": [[1]] * 4, "samples": 4, "batches": {}}
    assert trl_line.run_trl(1, spec) == {"wall_s": [3.0], "cpu_s": [2.0]}
    assert trl_line.run_trl(1, spec) == {"wall_s": [3.0], "cpu_s": [2.0]}
    assert tried == [16, 8, 4, 4] and spec["batches"] == {1: 4}


@pytest.mark.parametrize("words", ["can't allocate memory", "another error"])
def test_only_short_memory_is_no_failure(words: str) -> None:
    leave = "(__import__('pathlib').Path(__import__('json').load(open(__import__('sys').argv[1]))['folder'])"
    leave += f" / '{trl_line.OUT_OF_MEMORY}').touch()"
    command = [sys.executable, "-c", f"{leave if 'memory' in words else ''}\nraise RuntimeError({words!r})"]
    if "memory" in words:
        assert trl_line.run(command, {}, {}) is None
    else:
        with pytest.raises(RuntimeError, match="ended with code 1; its output is above"):
            trl_line.run(command, {}, {})


def test_the_products_of_a_pass_have_every_flop_of_its_linear_layers_and_head(tmp_path: Path) -> None:
    shape = read_shape(tiny_model(tmp_path, "llama"))
    for backward, passes in ((False, 1), (True, 3)):
        work = products(shape, 24, 16, backward=backward)
        with FlopCounterMode(display=False) as counter:
            work()
        once = linear_flops_per_token(shape) * 24 + head_flops(shape, 16)
        assert counter.get_total_flops() == passes * once


def test_the_bound_of_shared_prompts_is_by_the_parts_that_the_budget_allows(tmp_path: Path) -> None:
    shape = read_shape(tiny_model(tmp_path, "llama"))
    sizes = [Size(0, 120, 48)] * 8
    separate, shared, cut = (
        flops(shape, sizes, budget, share) for budget, share in ((4096, False), (4096, True), (312, True))
    )
    assert 2 < separate / shared < 3
    assert shared < cut < separate


def test_the_long_run_resumes_and_the_short_one_measures_anew(tmp_path: Path) -> None:
    record(TIMES).write(tmp_path / "sync.json")

    def names(*arguments: str) -> list[str]:
        options = program.parser().parse_args(arguments)
        return [row.name for row in ROWS if program.wanted(row, options, tmp_path / f"{row.name}.json")]

    assert names() == ["trl", "update", "log_probs", "sync", "reward"]
    assert names("--all") == [row.name for row in ROWS if row.name != "sync"]
    assert names("--rows", "sync") == ["sync"]
