r"""Arithmetic word problems in several wordings, for a run that downloads nothing.

A problem is an operation on two two-digit numbers: a sum, or a difference that is not negative. Each
operation has several phrasings with slots for a name and a thing; a pair is two different phrasings of one
problem, with names, things and the order of a sum's operands drawn anew for each. Words are few and
wordings regular, so that a model of a million parameters with a word-and-digit tokenizer can learn them.

Whether a problem is trained on or held out is decided by a hash of the problem itself, the same for a + b
and b + a, so no phrasing of a held-out problem is ever trained on. There are 8,190 problems, one in eight
held out.
"""

import random
from dataclasses import dataclass
from hashlib import blake2b

from megatron_coreward.data.pairs import PairRecord, Question

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
    def is_held_out(self) -> bool:
        return self.digest % HELD_OUT_ONE_IN == 0


def all_problems() -> list[Problem]:
    return [Problem(operation, a, b) for operation in PHRASINGS for a in OPERANDS for b in OPERANDS if a >= b]


def make_pairs(count: int, seed: int) -> list[PairRecord]:
    """`count` different training problems, each in two phrasings. Raises ValueError if there are fewer."""
    problems = [problem for problem in all_problems() if not problem.is_held_out]
    if not 0 < count <= len(problems):
        raise ValueError(f"data.synthetic_pairs={count}: allowed are 1 to {len(problems)}")
    draw = random.Random(f"pairs/{seed}")
    pairs = []
    for pair_id, problem in enumerate(draw.sample(problems, count)):
        original, rephrased = draw.sample(PHRASINGS[problem.operation], 2)
        pairs.append(
            PairRecord(
                pair_id=pair_id,
                original=_phrase(problem, original, draw)[0],
                rephrased=_phrase(problem, rephrased, draw)[0],
                answer=problem.answer,
                subject=problem.operation,
            )
        )
    return pairs


def held_out(count: int = 0) -> list[Question]:
    """The first `count` held-out problems in the order of their hash, one phrasing each; 0 = all.

    Always the same. Raises ValueError if there are fewer.
    """
    problems = sorted((problem for problem in all_problems() if problem.is_held_out), key=lambda p: p.digest)
    if not 0 <= count <= len(problems):
        raise ValueError(
            f"{count} held-out problems were asked for: allowed are 1 to {len(problems)}, or 0 for all"
        )
    questions = []
    for question_id, problem in enumerate(problems[: count or None]):
        draw = random.Random(f"held out/{problem.digest}")
        text, _ = _phrase(problem, draw.choice(PHRASINGS[problem.operation]), draw)
        questions.append(Question(question_id, text, problem.answer, subject=problem.operation))
    return questions


def held_out_pairs() -> list[PairRecord]:
    """All held-out problems, each in two phrasings, in the reverse order of `held_out`. Always the same."""
    problems = sorted((p for p in all_problems() if p.is_held_out), key=lambda p: p.digest, reverse=True)
    pairs = []
    for pair_id, problem in enumerate(problems):
        draw = random.Random(f"held-out pair/{problem.digest}")
        original, rephrased = (
            _phrase(problem, phrasing, draw)[0] for phrasing in draw.sample(PHRASINGS[problem.operation], 2)
        )
        pairs.append(PairRecord(pair_id, original, rephrased, problem.answer, subject=problem.operation))
    return pairs


def supervised_examples(count: int, seed: int) -> list[tuple[str, str]]:
    r"""`count` (question, solution) of training problems, drawn with repetition.

    A solution is the calculation in the question's order with its result boxed: `12+35=\boxed{47}`.
    """
    problems = [problem for problem in all_problems() if not problem.is_held_out]
    draw = random.Random(f"supervised/{seed}")
    examples = []
    for _ in range(count):
        problem = draw.choice(problems)
        examples.append(_phrase(problem, draw.choice(PHRASINGS[problem.operation]), draw))
    return examples


def _phrase(problem: Problem, phrasing: str, draw: random.Random) -> tuple[str, str]:
    """The question and its solution, with name, thing and a sum's order of operands drawn."""
    a, b = problem.a, problem.b
    if problem.operation == "sum" and draw.random() < 0.5:
        a, b = b, a
    question = phrasing.format(a=a, b=b, name=draw.choice(NAMES), thing=draw.choice(THINGS))
    sign = "+" if problem.operation == "sum" else "-"
    steps = ",".join(reversed(problem.answer))
    return question, f"{a}{sign}{b}={steps}=\\boxed{{{problem.answer}}}"
