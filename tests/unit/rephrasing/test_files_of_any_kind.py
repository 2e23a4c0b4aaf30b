"""Questions and pairs to rephrase and audit may lie in files of any kind that training reads."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.audit import CLEAN, REJECTS, main
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.rephrasing.program import read_questions

PAIRS = [
    {"question": "What is 17 plus 25?", "rephrased": "Add 25 to 17. What is the sum?", "answer": "42"},
    {"question": "What is 9 plus 1?", "rephrased": "Add 1 to 8. What is the sum?", "answer": "10"},
]


def written(folder: Path, suffix: str) -> Path:
    file = folder / f"mine{suffix}"
    if suffix == ".json":
        file.write_text(json.dumps(PAIRS))
    elif suffix == ".csv":
        rows = [",".join(PAIRS[0]), *(",".join(row.values()) for row in PAIRS)]
        file.write_text("\n".join(rows))
    else:
        file.write_text("\n".join(map(json.dumps, PAIRS)))
    return file


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_questions_are_numbered_by_row(suffix: str, tmp_path: Path) -> None:
    table, questions = read_questions(str(written(tmp_path, suffix)))
    assert questions == [pair["question"] for pair in PAIRS]
    assert [row["extra_info"]["index"] for row in table.to_pylist()] == [0, 1]
    assert [row["reward_model"]["ground_truth"] for row in table.to_pylist()] == ["42", "10"]


def test_a_parquet_file_with_indices_stays_as_it_is(tmp_path: Path) -> None:
    write_view([ViewRow(7, "What is 1 plus 1?", "2")], tmp_path / "q.parquet", "mine", "test")
    table, questions = read_questions(str(tmp_path / "q.parquet"))
    assert table.equals(pq.read_table(tmp_path / "q.parquet")) and questions == ["What is 1 plus 1?"]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_the_clean_copy_is_a_parquet_file(suffix: str, tmp_path: Path) -> None:
    file = written(tmp_path, suffix)
    assert main([str(file)]) == REJECTS
    assert main([str(file), "--write-clean", str(tmp_path / "clean")]) == CLEAN
    (pair,) = load_pairs(str(tmp_path / "clean" / "mine.parquet"))
    assert (pair.original, pair.answer) == (PAIRS[0]["question"], "42")
