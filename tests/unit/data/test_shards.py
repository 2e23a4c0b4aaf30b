"""Cutting questions into shards and joining the pairs made from them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.cli.shards import main
from megatron_coreward.data.preparation.shards import cut
from megatron_coreward.rephrasing.attempts import Rephrasing
from megatron_coreward.rephrasing.store import Store


def write_questions(folder: Path, count: int) -> Path:
    turns = [[{"content": f"How many are {i} and {i}?", "role": "user"}] for i in range(count)]
    table = pa.table({"prompt": turns, "extra_info": [{"index": i} for i in range(count)]})
    path = folder / "questions.parquet"
    pq.write_table(table, path)
    return path


@given(st.integers(1, 40), st.integers(1, 40))
def test_shards_are_the_whole(tmp_path_factory: pytest.TempPathFactory, rows: int, of: int) -> None:
    folder = tmp_path_factory.mktemp("shards")
    questions = write_questions(folder, rows)
    if of > rows:
        with pytest.raises(ValueError, match=f"--of is {of}, but .* has {rows} rows: a shard would be empty"):
            cut(str(questions), 0, of, folder / "shard.parquet")
        return
    shards = []
    for part in range(of):
        cut(str(questions), part, of, folder / f"new/{part}.parquet")
        shards.append(pq.read_table(folder / f"new/{part}.parquet"))
    assert pa.concat_tables(shards).equals(pq.read_table(questions))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


def test_join_keeps_pairs_aligned(tmp_path: Path) -> None:
    """The folders of three shards after rephrasing; the second one has no accepted pair."""
    questions = write_questions(tmp_path, 6)
    for part in range(3):
        shard = tmp_path / f"questions_{part}.parquet"
        cut(str(questions), part, 3, shard)
        folder = tmp_path / f"shard_{part}"
        folder.mkdir()
        reasons = ("empty",) if part == 1 else ()
        results = [Rephrasing(row, f"Q{part}{row}", f"R{part}{row}", 1, reasons) for row in range(2)]
        Store(folder, {}).finish(pq.read_table(shard), results)
    shards = [str(tmp_path / f"shard_{part}") for part in range(3)]
    assert main(["join", *shards, "--output", str(tmp_path)]) == 0
    original, rephrased = (pq.read_table(tmp_path / f"{view}.parquet") for view in ("original", "rephrased"))
    indices = [info["index"] for info in original["extra_info"].to_pylist()]
    assert indices == [info["index"] for info in rephrased["extra_info"].to_pylist()] == [0, 1, 4, 5]
    assert [turns[-1]["content"] for turns in rephrased["prompt"].to_pylist()] == ["R00", "R01", "R20", "R21"]
    assert pq.read_table(tmp_path / "rejects.parquet")["row"].to_pylist() == [0, 1]


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    questions = str(write_questions(tmp_path, 2))
    (tmp_path / "shard_0").mkdir()
    mine = str(tmp_path / "mine.jsonl")
    Path(mine).write_text('{"question": "A?"}')
    cases = {
        (
            "cut",
            questions,
            "--part",
            "2",
            "--of",
            "2",
        ): "--part is 2, but must be at least 0 and below --of (2)",
        ("cut", "none.parquet", "--part", "0", "--of", "1"): "none.parquet",
        (
            "cut",
            mine,
            "--part",
            "0",
            "--of",
            "1",
        ): f"; `coreward prepare own {mine} --output DIR` makes",
        (
            "join",
            str(tmp_path / "shard_0"),
        ): "shard_0 has no report.json: it is not finished; run its task again",
    }
    for arguments, message in cases.items():
        assert main([*arguments, "--output", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
