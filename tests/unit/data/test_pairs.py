"""Pairs and questions from files: both layouts, label-free reading, one clear error for every bad input."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_coreward.data.pairs import PairRecord, check_wordings_differ, load_pairs, load_questions
from tests.support.paths import RELEASED_DATA

needs_data = pytest.mark.skipif(not RELEASED_DATA.is_dir(), reason=f"no real data in {RELEASED_DATA}")


def rows(wording: str, count: int = 3) -> list[dict[str, Any]]:
    return [
        {
            "level": f"Level {i}",
            "type": "Algebra",
            "prompt": [
                {"content": "the file's own system turn", "role": "system"},
                {"content": f"{wording} {i}?", "role": "user"},
            ],
            "reward_model": {"ground_truth": str(i), "style": "rule"},
            "extra_info": {"index": 10 + i, "split": "train"},
        }
        for i in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]], schema: pa.Schema | None = None) -> str:
    pq.write_table(pa.Table.from_pylist(records, schema=schema), path)
    return str(path)


@pytest.fixture
def original(tmp_path: Path) -> str:
    return write(tmp_path / "original.parquet", rows("What is"))


@pytest.fixture
def rephrased(tmp_path: Path) -> str:
    return write(tmp_path / "rephrased.parquet", rows("Find"))


def test_two_files(original: str, rephrased: str) -> None:
    pairs = load_pairs(original, rephrased)
    assert pairs[1] == PairRecord(1, "What is 1?", "Find 1?", "1", "Level 1", "Algebra")
    assert [pair.pair_id for pair in pairs] == [0, 1, 2]


@pytest.mark.parametrize("answer_column", ["answer", "solution"])
def test_one_file(tmp_path: Path, answer_column: str) -> None:
    record = {
        "original_question": "A?",
        "rephrased_question": "B?",
        answer_column: "7",
        "level": "Level 2",
        "type": "G",
    }
    path = write(tmp_path / "pairs.parquet", [record])
    assert load_pairs(path) == [PairRecord(0, "A?", "B?", "7", "Level 2", "G")]


def test_one_file_needs_only_the_questions(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", [{"original_question": "A?", "rephrased_question": "B?"}])
    assert load_pairs(path) == [PairRecord(0, "A?", "B?")]


def without_answer(records: list[dict[str, Any]], ground_truth: Any) -> list[dict[str, Any]]:
    return [record | {"reward_model": {"ground_truth": ground_truth, "style": "rule"}} for record in records]


def without_column(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in record.items() if key != "reward_model"} for record in records]


@pytest.mark.parametrize(
    ("spoil", "answer"),
    [
        pytest.param(without_column, None, id="column absent"),
        pytest.param(lambda r: [x | {"reward_model": {"style": "rule"}} for x in r], None, id="field absent"),
        pytest.param(lambda r: [x | {"reward_model": None} for x in r], None, id="column null"),
        pytest.param(lambda r: without_answer(r, None), None, id="null"),
        pytest.param(lambda r: without_answer(r, ""), None, id="empty"),
        pytest.param(lambda r: without_answer(r, " \n"), None, id="blank"),
        pytest.param(lambda r: without_answer(r, "poison"), "poison", id="poisoned"),
        pytest.param(lambda r: without_answer(r, 3), "3", id="a number"),
    ],
)
def test_ground_truth_changes_nothing_but_the_answer(
    tmp_path: Path, original: str, rephrased: str, spoil: Any, answer: str | None
) -> None:
    spoiled = write(tmp_path / "spoiled.parquet", spoil(rows("What is")))
    expected = [
        PairRecord(p.pair_id, p.original, p.rephrased, answer, p.level, p.subject)
        for p in load_pairs(original, rephrased)
    ]
    assert load_pairs(spoiled, rephrased) == expected


def bad(tmp_path: Path, name: str) -> str:
    """A bad file of original questions."""
    path = tmp_path / "bad.parquet"
    good = rows("What is")
    if name == "corrupted":
        path.write_bytes(b"PAR1 this is no Parquet file PAR1")
    elif name == "truncated":
        write(path, good)
        path.write_bytes(path.read_bytes()[:-20])
    elif name == "damaged page":
        write(path, rows("What is", 2000))
        content = bytearray(path.read_bytes())
        content[4:3000] = b"\xff" * 2996
        path.write_bytes(bytes(content))
    elif name == "zero bytes":
        path.touch()
    elif name == "no rows":
        pq.write_table(pa.Table.from_pylist(good).slice(0, 0), path)
    elif name == "folder":
        path.mkdir()
    elif name == "no prompt":
        write(path, [{key: value for key, value in record.items() if key != "prompt"} for record in good])
    elif name == "no index":
        write(path, [record | {"extra_info": {"split": "train"}} for record in good])
    elif name == "prompt is a number":
        write(path, [record | {"prompt": 1} for record in good])
    elif name == "prompt without role":
        write(path, [record | {"prompt": [{"content": "What is 1?"}]} for record in good])
    elif name == "index is text":
        write(path, [record | {"extra_info": {"index": "a"}} for record in good])
    elif name == "index is null":
        indices = (0.0, float("nan"), 2.0)
        write(path, [one | {"extra_info": {"index": i}} for one, i in zip(good, indices, strict=True)])
    elif name == "empty question":
        write(path, [*good[:2], good[2] | {"prompt": [{"content": " ", "role": "user"}]}])
    elif name == "null prompt":
        write(path, [good[0], good[1] | {"prompt": None}, good[2]])
    elif name == "null turn":
        write(path, [good[0] | {"prompt": [None]}, *good[1:]])
    elif name == "two user turns":
        write(path, [good[0] | {"prompt": 2 * [{"content": "A?", "role": "user"}]}, *good[1:]])
    elif name == "no user turn":
        write(path, [good[0] | {"prompt": [{"content": "A?", "role": "system"}]}, *good[1:]])
    elif name == "Git LFS pointer":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    return str(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "no such file"),
        ("folder", "this is a folder"),
        ("corrupted", "not readable as Parquet"),
        ("truncated", "not readable as Parquet"),
        ("damaged page", "not readable as Parquet"),
        ("zero bytes", "empty"),
        ("no rows", "no rows"),
        ("no prompt", "'prompt' or 'question' or 'problem' among level, type, reward_model, extra_info"),
        ("no index", "no column 'extra_info.index'"),
        (
            "prompt is a number",
            "rows 0, 1, 2 have no question: column 'prompt' is a number; it must be text or a chat",
        ),
        ("prompt without role", "rows 0, 1, 2 have no question: column 'prompt' has a turn without role;"),
        (
            "index is text",
            "rows 0, 1, 2 have no index: column 'extra_info.index' is text; it must be integer",
        ),
        ("index is null", "row 1 has no index: column 'extra_info.index' is NaN (rows count from 0)"),
        (
            "empty question",
            "row 2 has no question: column 'prompt' has an empty user turn (rows count from 0)",
        ),
        ("null prompt", "row 1 has no question: column 'prompt' is null"),
        ("null turn", "row 0 has no question: column 'prompt' has a turn without role and content"),
        ("two user turns", "row 0 has no question: column 'prompt' has 2 user turns; it must have one"),
        ("no user turn", "row 0 has no question: column 'prompt' has 0 user turns; it must have one"),
        ("Git LFS pointer", "this is a Git LFS pointer, not the data; fetch the data with `git lfs pull`"),
    ],
)
def test_bad_file(tmp_path: Path, original: str, rephrased: str, name: str, message: str) -> None:
    path = bad(tmp_path, name)
    with pytest.raises(ValueError) as error:
        load_pairs(path, rephrased)
    assert message in str(error.value)
    assert f"data.original={path}" in str(error.value)
    with pytest.raises(ValueError, match="data.rephrased="):
        load_pairs(original, path)


def test_no_file_named() -> None:
    with pytest.raises(ValueError, match="data.original is empty; .*data.source=synthetic"):
        load_pairs("")


def test_one_file_without_rephrasings(original: str) -> None:
    with pytest.raises(
        ValueError, match="data.original=.*: no rephrasings: no column 'rephrased_question'"
    ) as error:
        load_pairs(original)
    assert "name their file in data.rephrased; `coreward rephrase` makes one" in str(error.value)
    assert "reward.method=majority_voting" in str(error.value)


def test_one_file_with_wrong_type(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.parquet", [{"original_question": "A?", "rephrased_question": 3}])
    with pytest.raises(
        ValueError, match="row 0 has no rephrasing: column 'rephrased_question' is a number; it must"
    ):
        load_pairs(path)


def test_misaligned_length(tmp_path: Path, original: str) -> None:
    short = write(tmp_path / "short.parquet", rows("Find", 2))
    with pytest.raises(ValueError, match=r"data.rephrased=.*: 2 rows, but data.original=.* has 3"):
        load_pairs(original, short)


def test_misaligned_index_names_the_first_row(tmp_path: Path, original: str) -> None:
    shifted = rows("Find")
    shifted[1], shifted[2] = shifted[2], shifted[1]
    path = write(tmp_path / "shifted.parquet", shifted)
    with pytest.raises(ValueError, match="row 1 has extra_info.index 12, but 11"):
        load_pairs(original, path)


def test_repeated_indices_get_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    same = [record | {"extra_info": {"index": 0}} for record in rows("What is")]
    path = write(tmp_path / "same.parquet", same)
    other = write(
        tmp_path / "other.parquet", [record | {"extra_info": {"index": 0}} for record in rows("Find")]
    )
    assert len(load_pairs(path, other)) == 3
    assert f"data.original={path}: 2 rows repeat an index" in caplog.text


def test_the_same_file_twice(tmp_path: Path, original: str, rephrased: str) -> None:
    for second, found in (
        (original, f"data.rephrased={original}: this is the file of data.original; set data.rephrased to"),
        (write(tmp_path / "copy.parquet", rows("What is")), "3 of 3 rephrasings are their original question"),
    ):
        with pytest.raises(ValueError) as error:
            check_wordings_differ(load_pairs(original, second), original, second)
        assert found in str(error.value)
        assert "or reward.method=majority_voting with an empty data.rephrased" in str(error.value)
    check_wordings_differ(load_pairs(original, rephrased), original, rephrased)


def test_questions_from_parquet(original: str) -> None:
    question = load_questions(original)[2]
    assert (question.question_id, question.question, question.answer) == (2, "What is 2?", "2")
    assert (question.level, question.subject) == ("Level 2", "Algebra")


def test_questions_from_parquet_need_answers(tmp_path: Path) -> None:
    good = rows("What is")
    path = write(tmp_path / "test.parquet", [good[0], *without_answer(good[1:], "")])
    with pytest.raises(ValueError, match=f"evaluation.file={path}: rows 1, 2 have no answer"):
        load_questions(path)


def test_many_rows_without_an_answer_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps([{"question": "A?", "answer": None}] * 13))
    with pytest.raises(ValueError, match="rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 3 more have no answer"):
        load_questions(str(path))


def test_subject_from_the_id_of_a_math_problem(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    record = {"problem": "A?", "answer": "1", "id": "test/number_theory/12.json"}
    path.write_text(json.dumps([record, record | {"subject": "Own"}, record | {"id": 7}]))
    assert [q.subject for q in load_questions(str(path))] == ["number_theory", "Own", ""]


def test_questions_from_json(tmp_path: Path) -> None:
    path = tmp_path / "test.json"
    path.write_text(json.dumps([{"prompt": "A?", "answer": "070", "source": "aime", "id": "0"}]))
    assert [(q.question, q.answer) for q in load_questions(str(path))] == [("A?", "070")]


def test_questions_from_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "test.jsonl"
    records = [
        {"question": "A?", "answer": "She makes 9 * 2 = $<<9*2=18>>18.\n#### 18"},
        {"question": "B?", "answer": "#### 1,234"},
        {"question": "C\u2028?", "answer": 5, "level": 3, "subject": "Algebra"},
    ]
    path.write_text(
        "\n\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n", encoding="utf-8"
    )
    questions = load_questions(str(path))
    assert [q.answer for q in questions] == ["18", "1234", "5"]
    assert (questions[2].level, questions[2].subject) == ("3", "Algebra")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("q.txt", "question", "unknown suffix '.txt'; allowed are .parquet, .json, .jsonl, .csv"),
        ("q.json", "", "empty"),
        ("q.json", "[{", "not readable as JSON"),
        ("q.jsonl", '{"question": "A?", "answer": "1"}\n{', "not readable as JSON lines"),
        ("q.json", "[]", "the file has no rows"),
        ("q.json", '{"prompt": "A?"}', "no answers: no column 'reward_model.ground_truth' or 'answer'"),
        ("q.json", '["A?"]', "row 0 is a str (rows count from 0); every record must be an object"),
        (
            "q.jsonl",
            '{"question": "A?", "answer": 1}\n\n3',
            ".jsonl:3: line 3 is a int; every record must be",
        ),
        (
            "q.jsonl",
            '{"question": "A?", "answer": 1}\n\n{',
            ".jsonl:3: not readable as JSON lines (Expecting",
        ),
        ("q.csv", "question,answer\nA?,1\n\nB?,", ".csv:4: line 4 has no answer: column 'answer' is blank"),
        ("q.csv", 'question,answer\n"A\n?",1\nB?', ".csv:4: not readable as CSV (a line has more or fewer"),
        (
            "q.json",
            '[{"prompt": "A?"}]',
            "or 'ground_truth' or 'solution' among prompt; every question needs one",
        ),
        ("q.json", '[{"prompt": "A?", "answer": ""}]', "row 0 has no answer: column 'answer' is blank"),
        ("q.json", '[{"prompt": 3, "answer": "1"}]', "q.json:1: row 0 has no question"),
        ("q.json", '\n{"prompt": 3, "answer": "1"}', "q.json:2: row 0 has no question"),
        (
            "q.json",
            '[ {"prompt": "[,]", "answer": 1},\n\n {"prompt": "B?"}\n ,\n{"prompt": 1}]',
            "q.json:5: row 2",
        ),
        ("q.json", '[\n1,\n "A?"]', "q.json:2: row 0 is a int (rows count from 0); every record must be an"),
        (
            "q.jsonl",
            '{"question": "A?", "answer": "no number ####"}',
            "line 1 has no answer: column 'answer' has",
        ),
        (
            "q.jsonl",
            '{"question": "A?"}\n{"question": "B?", "answer": 1}\n{"question": "C?"}',
            ".jsonl:1: lines 1, 3 have no answer: no column",
        ),
    ],
)
def test_bad_questions(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ValueError) as error:
        load_questions(str(path))
    assert message in str(error.value)
    assert f"evaluation.file={path}" in str(error.value)


def test_missing_questions() -> None:
    with pytest.raises(ValueError, match="evaluation.file=nowhere.json: no such file"):
        load_questions("nowhere.json")


@needs_data
def test_real_math_pairs() -> None:
    math = RELEASED_DATA / "math"
    pairs = load_pairs(str(math / "train_original.parquet"), str(math / "train_rewrite_Qwen3-32B.parquet"))
    assert len(pairs) == 7500
    assert [pair.pair_id for pair in pairs if pair.answer is None] == [5341, 5343]
    assert [pair.pair_id for pair in pairs if pair.original == pair.rephrased] == [2815, 4458]
    assert pairs[0].original.startswith("Let \\[f(x)") and pairs[0].rephrased.startswith(
        "A transportation company"
    )
    assert (pairs[0].answer, pairs[0].level, pairs[0].subject) == ("0", "Level 5", "Algebra")


@needs_data
def test_real_files_that_do_not_belong_together() -> None:
    with pytest.raises(ValueError, match="83 rows, but .* has 7500"):
        load_pairs(
            str(RELEASED_DATA / "math/train_original.parquet"),
            str(RELEASED_DATA / "amc/test_rewrite_Qwen3-32B.parquet"),
        )


@needs_data
@pytest.mark.parametrize(
    ("file", "count", "first"),
    [
        ("math/test.parquet", 5000, "2"),
        ("amc/test_original.parquet", 83, "142.0"),
        ("benchmarks/math500.json", 500, "\\left( 3, \\frac{\\pi}{2} \\right)"),
        ("benchmarks/aime25.json", 30, "070"),
        ("benchmarks/gsm8k_test.jsonl", 1319, "18"),
    ],
)
def test_real_questions(file: str, count: int, first: str) -> None:
    questions = load_questions(str(RELEASED_DATA / file))
    assert len(questions) == count
    assert questions[0].answer == first
