"""The audit of both layouts: counts, rejects, clean files, exit codes, clear errors."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.audit import CLEAN, REJECTS, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.rephrasing.checks import REASONS
from megatron_coreward.utils.logging import REFUSED

PAIRS = [
    ("How many apples do 3 boxes of 12 hold?", "Three crates have 12 pears each. How many pears are that?"),
    ("What is 17 plus 25?", "<rewritten question>"),
    ("What is 11 minus 4?", "Take 5 away from 11."),
    ("What is the half of 44?", "what is the HALF of 44"),
]
FAULTS = {"placeholder": 1, "identical": 1, "numbers_changed": 1}


@pytest.fixture
def two_files(tmp_path: Path) -> list[str]:
    for view, name in enumerate(("original", "rephrased")):
        rows = [ViewRow(10 + i, pair[view], str(i), "Level 1") for i, pair in enumerate(PAIRS)]
        write_view(rows, tmp_path / f"{name}.parquet", "test", "train")
    return [str(tmp_path / "original.parquet"), str(tmp_path / "rephrased.parquet")]


@pytest.fixture
def one_file(tmp_path: Path) -> list[str]:
    rows = [{"original_question": a, "rephrased_question": b, "mine": i} for i, (a, b) in enumerate(PAIRS)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    return [str(tmp_path / "pairs.parquet")]


@pytest.mark.parametrize("layout", ["two_files", "one_file"])
def test_counts(layout: str, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*request.getfixturevalue(layout), "--json"]) == REJECTS
    assert json.loads(capsys.readouterr().out) == {"pairs": 4, "rejected": 3, "reasons": FAULTS}


def test_table(two_files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(two_files) == REJECTS
    shown = capsys.readouterr().out
    assert "3 of 4 pairs have a fault" in shown and "25.00%" in shown
    assert "numbers_changed, row 2: 4 -> 5" in shown and "> Take 5 away from 11." in shown
    assert main([*two_files, "--examples", "0"]) == REJECTS
    assert "Take 5 away" not in capsys.readouterr().out


def test_pairs_without_a_fault_are_one_sentence(two_files: list[str], capsys) -> None:
    assert main([*two_files, *(f"--keep={reason}" for reason in REASONS)]) == CLEAN
    assert re.fullmatch(r"no fault in \d+ pairs\n", capsys.readouterr().out)


def test_rejects_and_clean_files(two_files: list[str], tmp_path: Path) -> None:
    rejects, clean = tmp_path / "rejects.parquet", tmp_path / "clean"
    options = ["--output", str(rejects), "--write-clean", str(clean), "--keep", "identical"]
    assert main([*two_files, *options]) == CLEAN
    rows = pq.read_table(rejects).to_pylist()
    assert [(row["row"], row["reasons"]) for row in rows] == [(1, ["placeholder"]), (2, ["numbers_changed"])]
    assert rows[1]["details"] == ["4 -> 5"] and rows[1]["answer"] == "2"
    pairs = load_pairs(str(clean / "original.parquet"), str(clean / "rephrased.parquet"))
    assert [(pair.original, pair.rephrased) for pair in pairs] == [PAIRS[0], PAIRS[3]]
    table = pq.read_table(clean / "rephrased.parquet")
    assert [info["index"] for info in table["extra_info"].to_pylist()] == [10, 13]
    assert table.schema.equals(pq.read_schema(two_files[1]), check_metadata=True)
    assert (
        main([str(clean / "original.parquet"), str(clean / "rephrased.parquet"), "--keep=identical"]) == CLEAN
    )


def test_clean_file_of_both_views_keeps_its_columns(one_file: list[str], tmp_path: Path) -> None:
    assert main([*one_file, "--write-clean", str(tmp_path / "clean")]) == CLEAN
    [row] = pq.read_table(tmp_path / "clean" / "pairs.parquet").to_pylist()
    assert row == {"original_question": PAIRS[0][0], "rephrased_question": PAIRS[0][1], "mine": 0}


def test_wrong_input(two_files: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*arguments: str) -> str:
        assert main(list(arguments)) == REFUSED
        return capsys.readouterr().err

    assert "ORIGINAL=nowhere.parquet: no such file" in error_of("nowhere.parquet")
    assert "no column 'rephrased_question'" in error_of(two_files[0])
    assert "choose another folder" in error_of(*two_files, "--write-clean", str(tmp_path))
    (tmp_path / "b").mkdir()
    same_name = tmp_path / "b" / "original.parquet"
    same_name.write_bytes(Path(two_files[1]).read_bytes())
    assert "rename one" in error_of(two_files[0], str(same_name), "--write-clean", str(tmp_path / "c"))
    rows = [ViewRow(0, "What is 1 plus 17?", "18")]
    for name in ("a", "b"):
        write_view(rows, tmp_path / f"{name}.parquet", "test", "train")
    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")]
    assert "nothing is left" in error_of(*files, "--write-clean", str(tmp_path / "c"))
    with pytest.raises(SystemExit, match="2"):
        main([*two_files, "--keep", "typo"])
