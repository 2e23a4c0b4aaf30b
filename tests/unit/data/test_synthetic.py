"""Synthetic problems: right answers, two different wordings, and no wording in both splits."""

import re
from pathlib import Path

import pytest

from megatron_coreward.data import synthetic
from megatron_coreward.data.pairs import load_pairs, load_questions
from megatron_coreward.data.synthetic import Problem
from tests.support.programs import write_synthetic

SUM_WORDS = ("plus", "gets", "another")
TRAIN_PROBLEMS = [problem for problem in synthetic.all_problems() if problem.split == "train"]


def parse(question: str) -> Problem:
    """The problem behind a wording."""
    a, b = sorted(map(int, re.findall(r"\d+", question)), reverse=True)
    operation = "sum" if any(f" {word} " in question for word in SUM_WORDS) else "difference"
    return Problem(operation, a, b)


def test_pairs_are_two_wordings_of_one_problem() -> None:
    pairs = synthetic.make_pairs(1000, seed=1)
    for pair in pairs:
        problem = parse(pair.original)
        assert parse(pair.rephrased) == problem
        assert pair.original != pair.rephrased
        assert pair.answer == str(
            problem.a + problem.b if problem.operation == "sum" else problem.a - problem.b
        )
        assert pair.subject == problem.operation
    assert len({parse(pair.original) for pair in pairs}) == 1000


def test_views_use_different_phrasings() -> None:
    def words(question: str) -> str:
        return re.sub("|".join([r"\d+", *synthetic.NAMES, *synthetic.THINGS]), "_", question)

    pairs = synthetic.make_pairs(300, seed=1)
    assert all(words(pair.original) != words(pair.rephrased) for pair in pairs)
    assert (
        len({words(pair.original) for pair in pairs}) == len({words(pair.rephrased) for pair in pairs}) == 6
    )


def test_no_phrasing_of_a_held_out_problem_is_trained_on() -> None:
    held_out = {parse(question.question) for question in synthetic.held_out()}
    trained = {parse(pair.original) for pair in synthetic.make_pairs(len(TRAIN_PROBLEMS), seed=3)}
    supervised = {parse(question) for question, _ in synthetic.supervised_examples(30_000, seed=3)}
    assert not held_out & trained
    assert not held_out & supervised
    assert held_out | trained == set(synthetic.all_problems())
    assert len(held_out) > 500 and len(supervised) > 6000


def test_probe_pairs_are_the_probe_split_from_the_other_end() -> None:
    pairs, questions = synthetic.probe_pairs(), synthetic.held_out("probe")
    assert [parse(pair.original) for pair in reversed(pairs)] == [parse(q.question) for q in questions]
    assert all(parse(pair.rephrased) == parse(pair.original) for pair in pairs)
    assert all(pair.rephrased != pair.original for pair in pairs) and pairs == synthetic.probe_pairs()
    evaluated = {parse(question.question) for question in synthetic.held_out()[:500]}
    assert not evaluated & {parse(pair.original) for pair in pairs[:128]}, "the quickstart's"


def test_the_split_never_moves() -> None:
    """The split is part of every result: a change of hash or format must be seen."""
    assert len(synthetic.all_problems()) == 8190
    assert len(TRAIN_PROBLEMS) == 7156
    assert Problem("sum", 35, 12).digest == 0x01D4A8D7007E14AF


def test_seeds() -> None:
    assert synthetic.make_pairs(50, 1) == synthetic.make_pairs(50, 1) != synthetic.make_pairs(50, 2)
    assert synthetic.supervised_examples(50, 1) == synthetic.supervised_examples(50, 1)
    assert synthetic.supervised_examples(50, 1) != synthetic.supervised_examples(50, 2)
    assert synthetic.held_out() == synthetic.held_out()


def test_held_out_answers_and_mix() -> None:
    questions = synthetic.held_out()[:500]
    assert all(question.answer == parse(question.question).answer for question in questions)
    sums = sum(question.subject == "sum" for question in questions)
    assert 200 < sums < 300
    assert len({parse(question.question) for question in questions}) == 500


def test_solutions_restate_the_question_and_box_the_answer() -> None:
    for question, solution in synthetic.supervised_examples(300, seed=1):
        pattern = r"(\d+)([+-])(\d+)=([\d,]+)=\\boxed\{(\d+)\}"
        a, sign, b, steps, answer = re.fullmatch(pattern, solution).groups()
        assert steps == ",".join(reversed(answer))
        assert re.findall(r"\d+", question) == [a, b]
        assert int(answer) == (int(a) + int(b) if sign == "+" else int(a) - int(b))
        assert (sign == "+") == (parse(question).operation == "sum")


@pytest.mark.parametrize("count", [0, -1, 7157])
def test_too_many_pairs(count: int) -> None:
    with pytest.raises(ValueError, match=f"data.synthetic_pairs={count}: allowed are 1 to 7156"):
        synthetic.make_pairs(count, seed=1)


def test_splits_of_the_held_out_problems() -> None:
    splits = {name: synthetic.held_out(name) for name in ("probe", "validation", "test")}
    assert {name: len(questions) for name, questions in splits.items()} == {
        "probe": 259,
        "validation": 264,
        "test": 511,
    }
    problems = [parse(question.question) for questions in splits.values() for question in questions]
    assert len(set(problems)) == len(problems)
    assert set(problems) == {parse(question.question) for question in synthetic.held_out()}
    texts = {question.question for question in synthetic.held_out()}
    assert all(question.question in texts for questions in splits.values() for question in questions)


def test_parquet_round_trip(tmp_path: Path) -> None:
    write_synthetic(tmp_path / "new", count=20, seed=4)
    files = [
        str(tmp_path / "new" / f"{name}.parquet") for name in ("train_original", "train_rephrased", "test")
    ]
    assert load_pairs(files[0], files[1]) == synthetic.make_pairs(20, seed=4)
    assert load_questions(files[2]) == synthetic.held_out()
