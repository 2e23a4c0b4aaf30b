"""The arithmetic problems of synthetic.py in two wordings of different difficulty.

The original of a pair is plain: numbers in digits, events in their order. The rephrased wording is hard:
numbers in words, clauses in another order, and a number of things that the question does not ask for. A model
that has seen few hard wordings votes right more often on plain ones, so that one view can teach the other.
In synthetic.py both views have the same phrasings, and rephrasing can teach nothing.
"""

import random

from megatron_coreward.data.pairs import PairRecord, Question
from megatron_coreward.data.synthetic import (
    NAMES,
    OPERANDS,
    PHRASINGS,
    THINGS,
    HeldOut,
    Problem,
    draw_problems,
    held_out_problems,
    ordered,
    phrase,
    solution,
    training_problems,
)

PLAIN, HARD = "plain", "hard"
HARD_IN_SUPERVISED = 0.1
"""Share of hard wordings among supervised examples: what makes the start model weaker on them."""
_TEENS = "ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_ONES = "one two three four five six seven eight nine"
IN_WORDS = dict(enumerate(_TEENS.split(), start=10))
IN_WORDS |= {10 * i: tens for i, tens in enumerate(_TENS.split(), start=2)}
IN_WORDS |= {
    10 * i + k: f"{tens}-{ones}"
    for i, tens in enumerate(_TENS.split(), start=2)
    for k, ones in enumerate(_ONES.split(), start=1)
}
"""10 to 99."""
HARD_PHRASINGS = {
    "sum": (
        "{name} gets {b} {thing}. Before that {name} had {a} {thing} and {c} {other}. "
        "How many {thing} does {name} have now?",
        "How many {thing} are there in all, if there are {b} {thing} and {c} {other} in one box and {a} "
        "{thing} in another box?",
        "There are {c} {other} in one box. {name} puts {b} {thing} in the box. Before that there were {a} "
        "{thing} in it. How many {thing} are there now?",
    ),
    "difference": (
        "{name} gives away {b} {thing}. Before that {name} had {a} {thing} and {c} {other}. "
        "How many {thing} does {name} have now?",
        "How many {thing} are there now, if {name} takes out {b} {thing} and there were {c} {other} and {a} "
        "{thing} in one box?",
        "There are {c} {other} in one box. {name} takes out {b} {thing}. Before that there were {a} "
        "{thing} in it. How many {thing} are there now?",
    ),
}


def make_pairs(count: int, seed: int) -> list[PairRecord]:
    """`count` different training problems, each plain and hard. Raises ValueError if there are fewer."""
    draw = random.Random(f"wordings/pairs/{seed}")
    return [
        PairRecord(
            pair_id=pair_id,
            original=_plain(problem, draw)[0],
            rephrased=_hard(problem, draw)[0],
            answer=problem.answer,
            subject=problem.operation,
        )
        for pair_id, problem in enumerate(draw_problems(count, draw))
    ]


def held_out(split: HeldOut = "all") -> list[Question]:
    """The held-out problems of a split in the order of their hash, each plain and then hard.

    Always the same. `level` says which wording a question is, and so does its id, which is even for plain.
    """
    questions = []
    for row, problem in enumerate(held_out_problems(split)):
        draw = random.Random(f"wordings/held out/{problem.digest}")
        for wording, level in enumerate((PLAIN, HARD)):
            text, _ = (_plain, _hard)[wording](problem, draw)
            questions.append(Question(2 * row + wording, text, problem.answer, level, problem.operation))
    return questions


def probe_pairs() -> list[PairRecord]:
    """The problems of the probe split, each plain and hard, in the reverse order of their hash."""
    pairs = []
    for pair_id, problem in enumerate(reversed(held_out_problems("probe"))):
        draw = random.Random(f"wordings/held out/{problem.digest}")
        original, rephrased = (ask(problem, draw)[0] for ask in (_plain, _hard))
        pairs.append(PairRecord(pair_id, original, rephrased, problem.answer, subject=problem.operation))
    return pairs


def supervised_examples(count: int, seed: int) -> list[tuple[str, str]]:
    """`count` (question, solution) of training problems, drawn with repetition, some of them hard.

    Solutions are those of synthetic.py: the calculation in digits, in the order of events.
    """
    problems = training_problems()
    draw = random.Random(f"wordings/supervised/{seed}")
    examples = []
    for _ in range(count):
        ask = _hard if draw.random() < HARD_IN_SUPERVISED else _plain
        examples.append(ask(draw.choice(problems), draw))
    return examples


def _plain(problem: Problem, draw: random.Random) -> tuple[str, str]:
    return phrase(problem, draw.choice(PHRASINGS[problem.operation]), draw)


def _hard(problem: Problem, draw: random.Random) -> tuple[str, str]:
    """The question and its solution, with names, things, the number beside the point and the order drawn."""
    a, b = ordered(problem, draw)
    thing, other = draw.sample(THINGS, 2)
    numbers = {"a": IN_WORDS[a], "b": IN_WORDS[b], "c": IN_WORDS[draw.choice(OPERANDS)]}
    phrasing = draw.choice(HARD_PHRASINGS[problem.operation])
    question = phrasing.format(**numbers, name=draw.choice(NAMES), thing=thing, other=other)
    return question, solution(problem, a, b)
