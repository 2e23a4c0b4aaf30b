"""Every source format becomes our schema: answers, splits, dropped rows with reasons, complete files only."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from megatron_coreward.cli.prepare import DONE, main
from megatron_coreward.data.pairs import load_pairs, load_questions
from megatron_coreward.data.preparation import splits as preparation
from megatron_coreward.utils.logging import REFUSED

LEAD = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
TAIL = '\n\nRemember to put your answer on its own line after "Answer:".'


def problem(question: str, solution: str, **more: Any) -> dict[str, Any]:
    return {"problem": question, "solution": solution, "level": "Level 2", "type": "Algebra"} | more


def jsonl(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def table(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records), path)
    return path


def run(tmp_path: Path, *arguments: Any) -> dict[str, Any]:
    """The report of a successful call."""
    output = tmp_path / "out"
    assert main([*map(str, arguments), "--output", str(output)]) == DONE
    report = json.loads((output / "report.json").read_text())
    assert {p.stem for p in output.glob("*.parquet")} == set(report["splits"])
    return report["splits"]


def answers(tmp_path: Path, split: str) -> list[tuple[str, str]]:
    return [(q.question, q.answer) for q in load_questions(str(tmp_path / "out" / f"{split}.parquet"))]


def dropped(split: dict[str, Any]) -> dict[str, int]:
    return {reason: one["rows"] for reason, one in split["dropped"].items()}


@pytest.fixture
def hendrycks(tmp_path: Path) -> Path:
    files = {
        "train/algebra/10.json": problem("T10?", r"So $\boxed{\frac{1}{\sqrt{2}}}$."),
        "train/algebra/2.json": problem("T2?", r"First $\boxed{3}$, then \fbox{4}."),
        "train/geometry/1.json": problem("G1?", r"\boxed{5", level="Level ?"),
        "train/geometry/2.json": problem("  ", r"\boxed{5}"),
        "train/geometry/3.json": problem("T2 ?\n".replace(" ", ""), r"\boxed{4.0}"),
        "test/algebra/0.json": problem("U0?", r"\boxed 7"),
        "test/algebra/1.json": problem("U1?", r"\boxed{x = 8}", type="Counting & Probability"),
        "train/geometry/4.json": problem("U1?", r"\boxed{8}"),
    }
    for name, content in files.items():
        path = tmp_path / "MATH" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (tmp_path / "MATH" / "dataset_infos.json").write_text("{}")
    (tmp_path / "MATH" / "README.md").write_text("MATH")
    return tmp_path / "MATH"


def test_math_folder(hendrycks: Path, tmp_path: Path) -> None:
    splits = run(tmp_path, "math", hendrycks)
    assert answers(tmp_path, "train") == [("T2?", "4"), ("T10?", r"\frac{1}{\sqrt{2}}")]
    assert answers(tmp_path, "test") == [("U0?", "7"), ("U1?", "x = 8")]
    assert splits["train"]["read"] == 6 and splits["train"]["kept"] == 2 and splits["test"]["kept"] == 2
    assert dropped(splits["train"]) == {
        "no answer": 1,
        "no question": 1,
        "duplicate": 1,
        "in the test split": 1,
    }
    assert splits["train"]["dropped"]["no answer"]["first"] == "1.json of geometry, row 0"
    rows = pq.read_table(tmp_path / "out" / "test.parquet").to_pylist()
    assert [row["extra_info"] for row in rows] == [{"index": i, "split": "test"} for i in range(2)]
    assert (rows[1]["level"], rows[1]["type"], rows[1]["data_source"]) == (
        "Level 2",
        "Counting & Probability",
        "math",
    )


@pytest.mark.parametrize("form", ["parquet", "jsonl", "json"])
def test_math_mirrors(form: str, tmp_path: Path) -> None:
    records = [
        {"problem": "A?", "solution": r"\boxed{1}", "answer": "1", "subject": "Algebra", "level": 3},
        {"problem": "B?", "solution": r"\boxed{2}", "answer": r"\frac12", "subject": "Geometry", "level": 5},
    ]
    path = tmp_path / "data" / f"train-00000-of-00001.{form}"
    path.parent.mkdir()
    if form == "json":
        path.write_text(json.dumps(records))
    else:
        {"parquet": table, "jsonl": jsonl}[form](path, records)
    run(tmp_path, "math", path)
    questions = load_questions(str(tmp_path / "out" / "train.parquet"))
    assert [(q.answer, q.level, q.subject) for q in questions] == [
        ("1", "Level 3", "Algebra"),
        (r"\frac12", "Level 5", "Geometry"),
    ]


def test_gsm8k(tmp_path: Path) -> None:
    jsonl(
        tmp_path / "gsm8k/train.jsonl",
        [{"question": "A?", "answer": "1+1\n#### 1,234"}, {"question": "B?", "answer": "2"}],
    )
    jsonl(tmp_path / "gsm8k/test.jsonl", [{"question": "C?", "answer": "x #### -5"}])
    splits = run(tmp_path, "gsm8k", tmp_path / "gsm8k")
    assert answers(tmp_path, "train") == [("A?", "1234")] and answers(tmp_path, "test") == [("C?", "-5")]
    assert dropped(splits["train"]) == {"no answer": 1}


def released(question: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"content": LEAD + question + TAIL, "role": "user"}],
        "reward_model": {"ground_truth": answer, "style": "rule"},
    }


def test_dapo(tmp_path: Path) -> None:
    records = [released("Is\n\nit 34?", "34"), released("Is it 35?", "35"), released("Is it 35?", "35")]
    records += [
        released("Contradictory?", "1"),
        released("Contradictory?", "2"),
        released("Contradictory?", "1"),
    ]
    records += [released("求 $x$ 的值", "7")]
    splits = run(tmp_path, "dapo", table(tmp_path / "dapo-math-17k.parquet", records), "--latin")
    assert answers(tmp_path, "train") == [("Is\n\nit 34?", "34"), ("Is it 35?", "35")]
    assert dropped(splits["train"]) == {
        "duplicate": 1,
        "contradictory answers": 3,
        "other than Latin letters": 1,
    }


def test_processed_dapo(tmp_path: Path) -> None:
    path = table(tmp_path / "p.parquet", [{"prompt": "Is it 34?", "solution": "34"}])
    run(tmp_path, "dapo", path)
    assert answers(tmp_path, "train") == [("Is it 34?", "34")]


def test_own_csv(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "key", "grade", "area"])
        writer.writerows(
            [["A,\nor B?", "007", "3", "Logic"], ["C?", r"so \boxed{9}", "4", ""], ["D?", " ", "", ""]]
        )
    columns = ["--question-column", "text", "--answer-column", "key"]
    splits = run(tmp_path, "own", path, *columns, "--level-column", "grade", "--subject-column", "area")
    questions = load_questions(str(tmp_path / "out" / "train.parquet"))
    assert [(q.question, q.answer, q.level, q.subject) for q in questions] == [
        ("A,\nor B?", "007", "3", "Logic"),
        ("C?", "9", "4", ""),
    ]
    assert dropped(splits["train"]) == {"no answer": 1}


def test_own_chat_and_answers_of_all_kinds(tmp_path: Path) -> None:
    """Chats are read as elsewhere, and answers that cannot be read are counted by reason."""
    values: list[Any] = [["7"], ["7", "8"], {"v": 7}, float("nan"), "We add both.", 7.0, None]
    rows = [{"t": [{"role": "user", "content": f"Q{i}?"}], "a": value} for i, value in enumerate(values)]
    splits = run(
        tmp_path, "own", jsonl(tmp_path / "m.jsonl", rows), "--question-column", "t", "--answer-column", "a"
    )
    assert answers(tmp_path, "train") == [("Q0?", "7"), ("Q5?", "7.0")]
    assert dropped(splits["train"]) == {
        "column 'a' is a list of 2 values": 1,
        "column 'a' is a dict": 1,
        "column 'a' is NaN": 1,
        r"column 'a' is prose without a \boxed{} or ####": 1,
        "no answer": 1,
    }
    assert splits["train"]["dropped"]["column 'a' is NaN"]["first"].endswith(", line 4")


@pytest.mark.parametrize("columns", [("question", "rephrased", "answer"), ("text", "again", "key")])
def test_pairs_are_held_out_in_both_wordings(tmp_path: Path, columns: tuple[str, str, str]) -> None:
    """Of columns with the names that training reads nothing has to be said."""
    question, rephrased, answer = columns
    rows: list[dict[str, Any]] = [{question: f"Q{i}?", rephrased: f"R{i}?", answer: i} for i in range(9)]
    rows += [{question: "Q9?", rephrased: " ", answer: 9}, {question: "Q10?", rephrased: "R?", answer: None}]
    names = [f"--question-column={question}", f"--rephrased-column={rephrased}", f"--answer-column={answer}"]
    path = jsonl(tmp_path / "mine.jsonl", rows)
    splits = run(tmp_path, "own", path, "--holdout", "3", *(names if question == "text" else []))
    assert dropped(splits["train"]) == {"no rephrasing": 1, "no answer": 1, "held out as test": 3}
    pairs = load_pairs(str(tmp_path / "out" / "train.parquet"))
    assert len(pairs) == 6 and len(answers(tmp_path, "test")) == 3
    assert all(pair.rephrased == pair.original.replace("Q", "R") for pair in pairs)


def test_training_needs_no_answers(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", [{"q": "A?"}, {"q": "B?"}])
    splits = run(tmp_path, "own", path, "--question-column", "q", "--keep-unanswered")
    assert splits["train"]["unanswered"] == 2
    rows = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [row["reward_model"]["ground_truth"] for row in rows] == [None, None]


def test_hold_out_and_exclude(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "mine.jsonl", [{"q": f"Question {i}?", "a": str(i)} for i in range(40)])
    jsonl(tmp_path / "bench.jsonl", [{"prompt": "Question  3?", "answer": "3"}, {"problem": "Question 99?"}])
    options = ["--question-column", "q", "--answer-column", "a", "--holdout", "10"]
    splits = run(tmp_path, "own", path, *options, "--exclude", tmp_path / "bench.jsonl")
    assert splits["test"]["kept"] == 10 and dropped(splits["train"])["held out as test"] == 10
    train, test = answers(tmp_path, "train"), answers(tmp_path, "test")
    assert not set(train) & set(test) and ("Question 3?", "3") not in train
    assert test != sorted(test)[:10] and len(train) + len(test) in (39, 40)
    splits = run(tmp_path, "own", path, *options, "--overwrite")
    assert answers(tmp_path, "test") == test  # the seed decides
    run(tmp_path, "own", path, *options, "--overwrite", "--seed", "2")
    assert answers(tmp_path, "test") != test


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def error_of(*arguments: Any) -> str:
        assert main([*map(str, arguments), "--output", str(tmp_path / "out")]) == REFUSED
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    good = jsonl(tmp_path / "good.jsonl", [problem("A?", r"\boxed{1}")])
    assert "no such file or folder" in error_of("math", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    assert "holds no data file" in error_of("math", tmp_path / "empty")
    other = jsonl(tmp_path / "data" / "questions.jsonl", [problem("A?", r"\boxed{1}")])
    assert "no name in questions.jsonl begins with train" in error_of("math", other.parent)
    assert "no column 'answer' or 'solution' among problem, level" in error_of(
        "math", jsonl(tmp_path / "a.jsonl", [{"problem": "A?", "level": "1"}])
    )
    assert "no column 'original_question' or 'prompt' or 'question' or 'problem' among text" in error_of(
        "gsm8k", jsonl(tmp_path / "b.jsonl", [{"text": "A?", "answer": "#### 1"}])
    )
    assert "no row of train is left (no answer 1)" in error_of(
        "math", jsonl(tmp_path / "c.jsonl", [problem("A?", "none")])
    )
    assert "row 0 is a int" in error_of("math", write_text(tmp_path / "d.json", "[1]"))
    assert "not readable as JSON lines" in error_of("math", write_text(tmp_path / "e.jsonl", "{"))
    assert "not readable as Parquet" in error_of("math", write_text(tmp_path / "f.parquet", "PAR1"))
    assert "unknown suffix '.txt'" in error_of("math", write_text(tmp_path / "g.txt", "A?"))
    assert "more or fewer fields" in error_of(
        "own",
        write_text(tmp_path / "h.csv", "q,a\n1,2,3\n"),
        "--question-column",
        "q",
        "--answer-column",
        "a",
    )
    unanswered = jsonl(tmp_path / "j.jsonl", [{"problem": "A?"}])
    assert "left (no answer 1); --keep-unanswered keeps them, `own --answer-column NAME`" in error_of(
        "own", unanswered
    )
    for option, column in (("question", "text"), ("answer", "key"), ("rephrased", "again")):
        message = f"j.jsonl of {tmp_path.name}, line 1: no column '{column}' among problem; is this the right"
        assert message in error_of("own", unanswered, "--keep-unanswered", f"--{option}-column", column)
    assert "must be at least 1 and below the 1 rows" in error_of("math", good, "--holdout", "1")
    assert "no such file" in error_of("math", good, "--exclude", "nowhere.json")
    turns = {"prompt": [{"role": "user"}], "solution": "1"}
    assert "line 1: column 'prompt' has a turn without content" in error_of(
        "dapo", jsonl(tmp_path / "i.jsonl", [turns])
    )


def write_text(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_output_exists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = str(jsonl(tmp_path / "good.jsonl", [problem("A?", r"\boxed{1}")]))
    output = tmp_path / "out"
    output.mkdir()
    (output / "precious").touch()
    assert main(["math", good, "--output", str(output)]) == REFUSED
    assert main(["math", good, "--output", str(output), "--overwrite"]) == REFUSED
    assert "was not written by this tool" in capsys.readouterr().err and (output / "precious").exists()


def test_killed_while_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing appears, and the next call is not disturbed by what is left."""
    path = jsonl(tmp_path / "mine.jsonl", [problem(f"{i}?", rf"\boxed{{{i}}}") for i in range(4)])

    def killed(*arguments: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(preparation, "publish", killed)
        main(["math", str(path), "--output", str(tmp_path / "out"), "--holdout", "1"])
    assert not (tmp_path / "out").exists()
    assert set(run(tmp_path, "math", path)) == {"train"}
