r"""Arithmetic word problems in several wordings, for a run that downloads nothing.

A problem is an operation on two two-digit numbers: a sum, or a difference that is not negative. Each
operation has several phrasings with slots for a name and a thing; a pair is two different phrasings of one
problem, with names, things and the order of a sum's operands drawn anew for each. Words are few and
wordings regular, so that a model of a million parameters with a word-and-digit tokenizer can learn them.

Whether a problem is trained on or held out is decided by a hash of the problem itself, the same for a + b
and b + a, so no phrasing of a held-out problem is ever trained on. There are 8,190 problems, one in eight
held out: a quarter of these for a probe without labels, a quarter for validation, the others for the test.
wordings.py asks the same problems in wordings of different difficulty.
"""

import random
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from megatron_coreward.data.pairs import PairRecord, Question

HeldOut = Literal["all", "probe", "validation", "test"]
HELD_OUT_SPLITS = ("probe", "validation", "test", "test")
"""The splits of the held-out problems, in equal shares."""

OPERANDS = range(10, 100)
HELD_OUT_ONE_IN = 8
NAMES = ("Ann", "Ben", "Eva", "Tom")
THINGS = ("apples", "books", "coins", "pens")
PHRASINGS = {
    "sum": (
        "What is {a} plus {b}?",
        "{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?",
        "There are {a} {thing} in one box and {b} {thing} in another box. How many {thing} are there in all?",
    ),
    "difference": (
        "What is {a} minus {b}?",
        "{name} has {a} {thing} and gives away {b}. How many {thing} does {name} have now?",
        "There are {a} {thing} in one box. {name} takes out {b} of them. How many {thing} are there now?",
    ),
}


@dataclass(frozen=True, order=True)
class Problem:
    """`a` + `b` ("sum") or `a` - `b` ("difference"), with a >= b, which makes a sum canonical."""

    operation: str
    a: int
    b: int

    @property
    def answer(self) -> str:
        return str(self.a + self.b if self.operation == "sum" else self.a - self.b)

    @property
    def digest(self) -> int:
        """64 bits of blake2b of the problem."""
        return int.from_bytes(
            blake2b(f"{self.operation} {self.a} {self.b}".encode(), digest_size=8).digest(), "big"
        )

    @property
    def split(self) -> str:
        """ "train", or one of HELD_OUT_SPLITS."""
        if self.digest % HELD_OUT_ONE_IN:
            return "train"
        return HELD_OUT_SPLITS[self.digest // HELD_OUT_ONE_IN % len(HELD_OUT_SPLITS)]


def all_problems() -> list[Problem]:
    return [Problem(operation, a, b) for operation in PHRASINGS for a in OPERANDS for b in OPERANDS if a >= b]


def training_problems() -> list[Problem]:
    return [problem for problem in all_problems() if problem.split == "train"]


def draw_problems(count: int, draw: random.Random) -> list[Problem]:
    """`count` different training problems. Raises ValueError if there are fewer."""
    problems = training_problems()
    if not 0 < count <= len(problems):
        raise ValueError(f"data.synthetic_pairs={count}: allowed are 1 to {len(problems)}")
    return draw.sample(problems, count)


def make_pairs(count: int, seed: int) -> list[PairRecord]:
    """`count` different training problems, each in two phrasings. Raises ValueError if there are fewer."""
    draw = random.Random(f"pairs/{seed}")
    pairs = []
    for pair_id, problem in enumerate(draw_problems(count, draw)):
        original, rephrased = draw.sample(PHRASINGS[problem.operation], 2)
        pairs.append(
            PairRecord(
                pair_id=pair_id,
                original=phrase(problem, original, draw)[0],
                rephrased=phrase(problem, rephrased, draw)[0],
                answer=problem.answer,
                subject=problem.operation,
            )
        )
    return pairs


def held_out_problems(split: HeldOut = "all") -> list[Problem]:
    """The problems of a held-out split, or of all three, in the order of their hash."""
    splits = HELD_OUT_SPLITS if split == "all" else (split,)
    return sorted((problem for problem in all_problems() if problem.split in splits), key=lambda p: p.digest)


def held_out(split: HeldOut = "all") -> list[Question]:
    """The problems of a held-out split in the order of their hash, one phrasing each; always the same."""
    questions = []
    for question_id, problem in enumerate(held_out_problems(split)):
        draw = random.Random(f"held out/{problem.digest}")
        text, _ = phrase(problem, draw.choice(PHRASINGS[problem.operation]), draw)
        questions.append(Question(question_id, text, problem.answer, subject=problem.operation))
    return questions


def probe_pairs() -> list[PairRecord]:
    """The problems of the probe split, each in two phrasings. Always the same.

    In the reverse order of their hash: an evaluation of the first of all held-out problems asks others.
    """
    pairs = []
    for pair_id, problem in enumerate(reversed(held_out_problems("probe"))):
        draw = random.Random(f"held-out pair/{problem.digest}")
        original, rephrased = (
            phrase(problem, phrasing, draw)[0] for phrasing in draw.sample(PHRASINGS[problem.operation], 2)
        )
        pairs.append(PairRecord(pair_id, original, rephrased, problem.answer, subject=problem.operation))
    return pairs


def supervised_examples(count: int, seed: int) -> list[tuple[str, str]]:
    r"""`count` (question, solution) of training problems, drawn with repetition.

    A solution is the calculation in the question's order with its result boxed: `12+35=7,4=\boxed{47}`.
    """
    problems = training_problems()
    draw = random.Random(f"supervised/{seed}")
    examples = []
    for _ in range(count):
        problem = draw.choice(problems)
        examples.append(phrase(problem, draw.choice(PHRASINGS[problem.operation]), draw))
    return examples


def phrase(problem: Problem, phrasing: str, draw: random.Random) -> tuple[str, str]:
    """The question and its solution, with name, thing and a sum's order of operands drawn."""
    a, b = ordered(problem, draw)
    question = phrasing.format(a=a, b=b, name=draw.choice(NAMES), thing=draw.choice(THINGS))
    return question, solution(problem, a, b)


def ordered(problem: Problem, draw: random.Random) -> tuple[int, int]:
    """The operands in the order of the calculation; that of a sum is drawn."""
    if problem.operation == "sum" and draw.random() < 0.5:
        return problem.b, problem.a
    return problem.a, problem.b


def solution(problem: Problem, a: int, b: int) -> str:
    sign = "+" if problem.operation == "sum" else "-"
    steps = ",".join(reversed(problem.answer))
    return f"{a}{sign}{b}={steps}=\\boxed{{{problem.answer}}}"
