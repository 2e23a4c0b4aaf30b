"""One's own questions: the example's files and commands, and the page's, from the file to the plan."""

import json
import logging
import re
from pathlib import Path

import pytest

from megatron_coreward.cli import prepare
from megatron_coreward.cli.main import main
from megatron_coreward.config.loading import load_config
from megatron_coreward.data.columns import QUESTION_COLUMNS, REPHRASED_COLUMNS, TRUTH_COLUMNS
from megatron_coreward.data.pairs import load_pairs, load_questions
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples/own_data"
START = "examples/arithmetic_arms/start_model"
PAGE = (ROOT / "docs/own_data.md").read_text()
ONE = '{"question": "What is 1 plus 2?", "answer": "3"}\n'
PAIR = '{"question": "What is 1 plus 2?", "rephrased": "Add 2 to 1.", "answer": "3"}\n'
VOTING = "reward.method=majority_voting"


def plan(capsys: pytest.CaptureFixture[str], folder: Path, *overrides: str) -> tuple[int, str]:
    """Exit code of a dry run with the example's settings, and all that it prints."""
    config = [
        "--config",
        str(EXAMPLE / "config.yaml"),
        f"run.output_dir={folder / 'run'}",
        "evaluation.file=",
    ]
    code = main(["train", "--dry-run", *config, f"model.path={ROOT}/{START}", *overrides])
    output = capsys.readouterr()
    return code, output.out + output.err


def test_a_plan_warns_as_a_run_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(capsys, tmp_path, "data.batch_pairs=100")
    assert code == 0
    assert "no prompt asks for \\boxed{}" in text and "data.batch_pairs=100, but there are 40 pairs" in text


def test_questions_and_answers() -> None:
    """The answers are right in both wordings, and nothing that is trained on is evaluated."""
    pairs = load_pairs(str(EXAMPLE / "questions.jsonl"))
    questions = load_questions(str(EXAMPLE / "held_out.jsonl"))
    assert (len(pairs), len(questions)) == (40, 100)

    def numbers(text: str) -> tuple[int, ...]:
        return tuple(sorted(map(int, re.findall(r"\d+", text))))

    for pair in pairs:
        low, high = numbers(pair.original)
        assert numbers(pair.rephrased) == (low, high) and pair.rephrased != pair.original
        assert pair.answer in (str(low + high), str(high - low))
    for question in questions:
        low, high = numbers(question.question)
        assert question.answer in (str(low + high), str(high - low))
    trained = {(numbers(pair.original), pair.answer) for pair in pairs}
    assert len(trained) == 40 and not trained & {(numbers(q.question), q.answer) for q in questions}


def test_the_example_is_planned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    code, text = plan(capsys, tmp_path, "evaluation.file=examples/own_data/held_out.jsonl")
    assert code == 0 and "40 pairs / 20 = 2" in text
    config = load_config([EXAMPLE / "config.yaml"])
    named = (config.data.original, config.evaluation.file, f"{config.model.path}/config.json")
    assert all(Path(name).is_file() for name in named)


def test_commands() -> None:
    """The script's are those of the README, at most five with the set-up, and nothing is deleted."""
    script, readme = (EXAMPLE / "run.sh").read_text(), (EXAMPLE / "README.md").read_text()
    [commands] = re.findall(r"```\n(make setup\n.*?)```", readme, flags=re.DOTALL)
    assert len(commands.splitlines()) == 5
    for line in commands.splitlines()[2:]:
        assert line in script.replace(' "$@"', "")
    assert not re.search(r"\brm\b|--overwrite|\bmv\b", script)


def test_from_a_file_to_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Held out, then planned without and with rephrasings, as the page says."""
    data = tmp_path / "mine"
    assert "coreward prepare own questions.jsonl --holdout 50 --output data/mine" in PAGE
    given = ["own", str(EXAMPLE / "questions.jsonl"), "--holdout", "8", "--output", str(data)]
    assert prepare.main(given) == 0
    files = [f"data.original={data}/train.parquet", f"evaluation.file={data}/test.parquet"]
    for overrides in (files, [*files, VOTING], [f"data.original={EXAMPLE}/questions.jsonl", VOTING]):
        code, text = plan(capsys, tmp_path, *overrides)
        assert code == 0 and f"{40 if len(overrides) == 2 and VOTING in overrides else 32} pairs / 20" in text


MISTAKES = {
    "questions only, but Co-Reward": (ONE, (), "learns from the original questions alone"),
    "a rephrasing is null": (PAIR + PAIR.replace('"Add 2 to 1."', "null"), (), "every record needs one"),
    "a mistake in line 2": (PAIR + '{"question": "A?" "answer": 1}', (), "column 19)"),
    "the column has another name": (ONE.replace("question", "text"), (VOTING,), "takes another"),
    "a key names no column": (
        *(ONE.replace("question", "text"), (VOTING, "data.question_column=txt"), "to one of these"),
    ),
    "a question without an answer, in evaluation": (
        *(PAIR + PAIR.replace('"3"', "null"), ("evaluation.file=FILE",), "column 'answer' is null"),
    ),
    "rephrasings are the questions": (
        *(2 * PAIR.replace("Add 2 to 1.", "What is 1 plus 2?"), (), "set data.rephrased to rephrasings"),
    ),
    "no file": (PAIR, ("data.original=gone.jsonl",), "there is no such file"),
    "a folder": (PAIR, ("data.original=FOLDER",), "Set it to a file in it (questions.jsonl)"),
    "answers that cannot be read": (2 * PAIR.replace('"3"', '["3", "4"]'), (), "is a list of 2 values"),
}
"""What is wrong -> the file, the settings and how the message ends; the page has the same table."""


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content, overrides, ending = MISTAKES[what]
    file = tmp_path / "data" / "questions.jsonl"
    file.parent.mkdir()
    file.write_text(content)
    places = {"FILE": str(file), "FOLDER": str(file.parent)}
    given = [re.sub("FILE|FOLDER", lambda match: places[match[0]], override) for override in overrides]
    with caplog.at_level(logging.WARNING):
        code, text = plan(capsys, tmp_path, f"data.original={file}", *given)
    [row] = [line for line in PAGE.splitlines() if line.startswith(f"| {what} |")]
    [message] = re.findall("`([^`]+)`", row)
    assert message.endswith(ending)
    warned = "".join(record.getMessage() for record in caplog.records)
    assert message in (text + warned).replace("`", "") and code == (0 if "warning" in row else 2)
    if "warning" not in row:
        [line] = [line for line in text.splitlines() if line.startswith("error: ")]
        assert message in line.replace("`", "")


def test_the_page_has_no_other_mistakes() -> None:
    table = PAGE.rpartition("## When something is wrong")[2]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[2:] == list(MISTAKES)


def test_the_settings_on_the_page(tmp_path: Path) -> None:
    """Their files are those that the command writes; the columns that simply work are those that are read."""
    [text] = re.findall("```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(text)
    config = load_config([tmp_path / "mine.yaml"])
    assert (config.data.original, config.evaluation.file) == (
        "data/mine/train.parquet",
        "data/mine/test.parquet",
    )
    assert "runs/mine --latest" in PAGE and config.run.output_dir == "runs/mine"
    assert {"question", "rephrased", "answer"} <= {*QUESTION_COLUMNS, *REPHRASED_COLUMNS, *TRUTH_COLUMNS}


def test_the_line_of_a_file_on_the_page(tmp_path: Path) -> None:
    [line] = [line for line in PAGE.splitlines() if line.startswith("{")]
    (tmp_path / "one.jsonl").write_text(line)
    [pair] = load_pairs(str(tmp_path / "one.jsonl"))
    assert (pair.original, pair.rephrased, pair.answer) == tuple(json.loads(line).values())
