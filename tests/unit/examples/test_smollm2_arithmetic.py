"""examples/smollm2_135m_arithmetic: right and separate data, settings that load, arms that draw equally."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.data.pairs import load_examples, load_pairs, load_questions
from megatron_coreward.preflight.costs import batch_arithmetic
from megatron_coreward.preflight.method import check_method
from tests.support.paths import ROOT
from tests.unit.data.test_wordings import answer_of, operands_of

EXAMPLE = ROOT / "examples/smollm2_135m_arithmetic"
ARMS = ("co_reward", "majority_voting", "ground_truth")
GATE = "reward.min_agreement=0.75"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    make_data(folder, "--sft", "40", "--hard", "15", "--pairs", "50", "--held-out", "60")
    return folder


def make_data(folder: Path, *options: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["make_data.py", "--output", str(folder), *options])
        runpy.run_path(str(EXAMPLE / "make_data.py"), run_name="__main__")


def test_no_problem_is_in_two_files_and_all_have_both_wordings(data: Path) -> None:
    examples = load_examples(str(data / "sft.jsonl"))
    pairs = load_pairs(str(data / "pairs.jsonl"))
    asked = load_questions(str(data / "held_out.jsonl"))
    files = [
        [question for question, _ in examples],
        [wording for pair in pairs for wording in (pair.original, pair.rephrased)],
        [question.question for question in asked],
    ]
    problems = [{operands_of(question) for question in questions} for questions in files]
    assert [len(p) for p in problems] == [40, 50, 60] and len(set.union(*problems)) == 150
    assert {operation for operation, _, _ in set.union(*problems)} == {"sum"}
    assert [sum(map(is_hard, questions)) for questions in files] == [15, 50, 30]
    assert all(answer_of(p.original) == p.answer == answer_of(p.rephrased) for p in pairs)
    assert all(answer_of(question.question) == question.answer for question in asked)
    assert [question.subject for question in asked] == ["plain", "hard"] * 30
    carried = [sum(a % 10 + b % 10 >= 10 for _, a, b in problem) for problem in problems]
    assert carried[0] > 0 and carried[1:] == [0, 0]


def is_hard(question: str) -> bool:
    return not re.search(r"\d", question)


@pytest.mark.parametrize(
    ("option", "given"),
    [("--sft", "99999"), ("--hard", "513"), ("--pairs", "99999"), ("--held-out", "0")],
)
def test_more_problems_than_there_are_write_nothing(
    option: str, given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        make_data(tmp_path / "data", option, given)
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"{option} {given}: at least " in said and "and at most " in said, said
    assert not (tmp_path / "data").exists(), "files were written"


def test_a_response_is_the_calculation_of_the_question(data: Path) -> None:
    for question, response in load_examples(str(data / "sft.jsonl")):
        calculation, result, boxed = re.fullmatch(
            r"(\d+ \+ \d+) = (\d+)\. The answer is \\boxed\{(\d+)\}\.", response
        ).groups()
        operands = [int(number) for number in calculation.split(" + ")]
        assert sorted(operands, reverse=True) == list(operands_of(question)[1:])
        assert sum(operands) == int(result) == int(boxed) == int(answer_of(question))


def test_the_arms_start_from_what_was_taught_and_draw_equally(data: Path) -> None:
    taught = load_config([EXAMPLE / "sft.yaml"])
    draws = set()
    script = (EXAMPLE / "run.sh").read_text()
    assert f"for method in {' '.join(ARMS)}; do" in script and f"  votes={GATE} " in script
    for method in ARMS:
        gate = [] if method == "ground_truth" else [GATE]
        config = load_config([EXAMPLE / "arm.yaml"], [f"reward.method={method}", *gate])
        check_method(config)
        assert config.model.path == f"{taught.run.output_dir}/hf"
        assert config.data.system_prompt == taught.data.system_prompt
        assert config.rollout.max_response_tokens == taught.rollout.max_response_tokens
        assert config.evaluation.temperature == taught.evaluation.temperature == config.rollout.temperature
        batch = batch_arithmetic(config, 2, 512)
        draws.add((batch.steps, batch.responses))
    assert draws == {(20, 128)}


def test_the_settings_read_the_files_that_the_script_has_made(data: Path) -> None:
    taught, trained = load_config([EXAMPLE / "sft.yaml"]), load_config([EXAMPLE / "arm.yaml"])
    read = [taught.data.original, trained.data.original, trained.evaluation.file]
    assert sorted(read) == sorted(f"runs/smollm2_arithmetic/data/{file.name}" for file in data.iterdir())
    script = (EXAMPLE / "run.sh").read_text()
    assert "out=runs/smollm2_arithmetic\n" in script and "make_data.py --output $out/data\n" in script
    assert f"--output {taught.model.path}\n" in script
