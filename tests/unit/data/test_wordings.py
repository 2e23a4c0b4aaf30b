"""The task whose wordings differ in difficulty: an independent reader evaluates both wordings of a pair."""

import re

import pytest

from megatron_coreward.config.schema import Config
from megatron_coreward.data import synthetic, wordings
from megatron_coreward.data.pairs import Question
from megatron_coreward.data.prompts import build_pairs, build_questions
from megatron_coreward.doctor.toy_model import make_tokenizer
from megatron_coreward.rephrasing.number_words import CARDINALS

TENS = "|".join(word for word, value in CARDINALS.items() if value >= 20)
TEENS = "|".join(word for word, value in CARDINALS.items() if 10 <= value < 20)
ONES = "|".join(word for word, value in CARDINALS.items() if 1 <= value < 10)
NUMBER = rf"\b(\d+|(?:{TEENS})|(?:{TENS})(?:-(?:{ONES}))?)\b(?: ({'|'.join(synthetic.THINGS)})\b)?"
TAKEN_AWAY = r"gives away|takes out|minus"
ORDER = "gets|puts|gives away|takes out"


def value_of(number: str) -> int:
    return int(number) if number.isdigit() else sum(CARDINALS[word] for word in number.split("-"))


def quantities(question: str) -> list[tuple[int, str]]:
    """(signed number, thing) in the text's order; a number without a thing is of the things asked for."""
    asked = re.search(r"How many (\w+)", question)
    read = []
    for clause in re.split(r"[.?,]| and (?!another)|(?<=\d) (?=plus|minus)", question):
        sign = -1 if re.search(TAKEN_AWAY, clause) else 1
        for number, thing in re.findall(NUMBER, clause):
            read.append((sign * value_of(number), thing or (asked[1] if asked else "")))
    return [(number, thing if asked else "") for number, thing in read]


def answer_of(question: str) -> str:
    """The answer by reading the text alone: what is there of the thing that the question asks for."""
    asked = re.search(r"How many (\w+)", question)
    return str(sum(number for number, thing in quantities(question) if thing == (asked[1] if asked else "")))


def operands_of(question: str) -> tuple[str, int, int]:
    """The problem behind a wording, canonical."""
    asked = re.search(r"How many (\w+)", question)
    read = [number for number, thing in quantities(question) if thing == (asked[1] if asked else "")]
    a, b = sorted(map(abs, read), reverse=True)
    return ("difference" if min(read) < 0 else "sum"), a, b


def level(questions: list[Question], name: str) -> list[Question]:
    return [question for question in questions if question.level == name]


def test_the_reader_reads_what_a_person_reads() -> None:
    hard = "Ben gives away eighteen apples. Before that Ben had forty-five apples and twenty coins. "
    assert answer_of(hard + "How many apples does Ben have now?") == "27"
    assert answer_of("Tom has 62 coins and gives away 50. How many coins does Tom have now?") == "12"
    assert answer_of("What is 62 minus 50?") == "12"


def test_both_wordings_ask_for_the_answer() -> None:
    pairs = wordings.make_pairs(7156, seed=1)
    for pair in pairs:
        assert answer_of(pair.original) == answer_of(pair.rephrased) == pair.answer
        assert operands_of(pair.original) == operands_of(pair.rephrased)
        assert pair.subject == operands_of(pair.original)[0]
    assert len({operands_of(pair.original) for pair in pairs}) == 7156


def test_hard_wordings_are_in_words_reordered_and_with_a_distractor() -> None:
    for pair in wordings.make_pairs(500, seed=2):
        assert len(re.findall(r"\d+", pair.original)) == 2
        assert not re.search(r"\d", pair.rephrased)
        read = quantities(pair.rephrased)
        assert len(read) == 3
        [beside] = [thing for _, thing in read if [other for _, other in read].count(thing) == 1]
        assert f"How many {beside}" not in pair.rephrased
        first, second = (number for number, thing in read if thing != beside)
        if pair.subject == "difference":
            assert first < 0 < second  # what is taken away is told before what there was


def test_held_out_questions_and_splits() -> None:
    texts = {}
    for split in ("all", "probe", "validation", "test"):
        questions = wordings.held_out(split)
        plain, hard = level(questions, wordings.PLAIN), level(questions, wordings.HARD)
        assert [question.question_id for question in questions] == list(range(len(questions)))
        assert all(question.question_id % 2 == 0 for question in plain)
        assert all(answer_of(question.question) == question.answer for question in questions)
        assert [operands_of(q.question) for q in plain] == [operands_of(q.question) for q in hard]
        texts[split] = {operands_of(question.question) for question in questions}
    trained = {operands_of(pair.rephrased) for pair in wordings.make_pairs(7156, seed=3)}
    supervised = {operands_of(question) for question, _ in wordings.supervised_examples(20_000, seed=3)}
    assert sum(len(texts[split]) for split in ("probe", "validation", "test")) == len(texts["all"]) == 1034
    assert texts["probe"] | texts["validation"] | texts["test"] == texts["all"]
    assert not texts["all"] & (trained | supervised)


def test_probe_pairs_are_plain_and_hard() -> None:
    pairs, questions = wordings.probe_pairs(), wordings.held_out("probe")
    texts = [text for pair in reversed(pairs) for text in (pair.original, pair.rephrased)]
    assert texts == [question.question for question in questions]


def test_the_same_problems_are_in_the_splits_of_both_tasks() -> None:
    plain = level(wordings.held_out("test"), wordings.PLAIN)
    assert [operands_of(q.question) for q in plain] == [
        operands_of(q.question) for q in synthetic.held_out("test")
    ]


def test_seeds() -> None:
    assert wordings.make_pairs(50, 1) == wordings.make_pairs(50, 1) != wordings.make_pairs(50, 2)
    examples = wordings.supervised_examples(50, 1)
    assert examples == wordings.supervised_examples(50, 1) != wordings.supervised_examples(50, 2)
    assert wordings.held_out("probe") == wordings.held_out("probe")


def test_solutions_calculate_what_the_question_asks() -> None:
    examples = wordings.supervised_examples(2000, seed=1)
    for question, solution in examples:
        calculation = re.fullmatch(r"(\d+)([+-])(\d+)=([\d,]+)=\\boxed\{(\d+)\}", solution)
        assert calculation is not None, solution
        a, sign, b, steps, answer = calculation.groups()
        assert answer == answer_of(question) == str(int(a) + int(f"{sign}{b}"))
        assert steps == ",".join(reversed(answer))
    hard = sum(not re.search(r"\d", question) for question, _ in examples)
    assert hard / 2000 == pytest.approx(wordings.HARD_IN_SUPERVISED, abs=0.03)


def test_the_toy_tokenizer_knows_every_word() -> None:
    tokenizer = make_tokenizer("wordings")
    pairs = wordings.make_pairs(2000, seed=4)
    unknown = tokenizer.convert_tokens_to_ids("<|unknown|>")
    texts = [text for pair in pairs for text in (pair.original, pair.rephrased)]
    assert not any(unknown in ids for ids in tokenizer(texts).input_ids)
    assert max(len(tokenizer.encode(pair.rephrased)) for pair in pairs) < 80


@pytest.mark.parametrize("count", [0, 7157])
def test_too_many_pairs(count: int) -> None:
    with pytest.raises(ValueError, match=f"data.synthetic_pairs={count}: allowed are 1 to 7156"):
        wordings.make_pairs(count, seed=1)


def test_a_run_of_this_task() -> None:
    config = Config()
    config.data.source, config.data.synthetic_task, config.data.synthetic_pairs = "synthetic", "wordings", 5
    config.data.system_prompt, config.evaluation.synthetic_split = "", "probe"
    tokenizer = make_tokenizer("wordings")
    pairs, questions = build_pairs(config, tokenizer), build_questions(config, tokenizer)
    records = wordings.make_pairs(5, config.run.seed)
    assert [(p.original, p.rephrased) for p in pairs] == [(r.original, r.rephrased) for r in records]
    asked = wordings.held_out("probe")[: config.evaluation.limit]
    assert [(q.question_id, q.question, q.level) for q in questions] == [
        (q.question_id, q.question, q.level) for q in asked
    ]
