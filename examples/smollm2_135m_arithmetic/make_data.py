"""Writes the questions of this example: sft.jsonl, pairs.jsonl and held_out.jsonl, no problem in two of them.

    python examples/smollm2_135m_arithmetic/make_data.py --output runs/smollm2_arithmetic/data

The problems are the sums of data/wordings.py, in a plain wording ("What is 12 plus 35?", "Ann has ...") and a
hard one: numbers in words, clauses in another order, a number that the question does not ask for. sft.jsonl
has questions with a boxed response, half of them hard; pairs.jsonl has both wordings, and the answer for
figures and for the ground-truth arm alone; held_out.jsonl asks every other problem in the hard wording. The
latter two have no sum whose ones carry, of which label-free training makes the model forget the carry
(docs/evidence/learning.md); with --carries they have.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from megatron_coreward.data import wordings
from megatron_coreward.data.pairs import PairRecord
from megatron_coreward.data.synthetic import training_problems

SUBJECT = "sum"
"""Of a difference the model as it comes knows too little: docs/evidence/learning.md."""

Problem = TypeVar("Problem")


def summands(plain: str) -> tuple[str, str]:
    first, second = re.findall(r"\d+", plain)
    return first, second


def carries(plain: str) -> bool:
    """Whether the ones of the summands make ten or more."""
    return sum(int(number[-1]) for number in summands(plain)) >= 10


def response(pair: PairRecord) -> str:
    """The calculation, in the order of the plain wording, and the answer in a box."""
    first, second = summands(pair.original)
    return f"{first} + {second} = {pair.answer}. The answer is \\boxed{{{pair.answer}}}."


def write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def take(problems: Sequence[Problem], wanted: int, option: str) -> Sequence[Problem]:
    """The first `wanted` problems; ValueError if there are not as many."""
    if not 0 < wanted <= len(problems):
        raise ValueError(f"{option} {wanted}: at least 1 and at most {len(problems)}, which is all there are")
    return problems[:wanted]


def make(options: argparse.Namespace) -> dict[str, list[dict[str, str]]]:
    """The rows of each file."""
    everything = wordings.make_pairs(len(training_problems()), options.seed)  # all different
    sums = [pair for pair in everything if pair.subject == SUBJECT]
    taught = take(sums, options.sft, "--sft")
    if not 0 <= options.hard <= options.sft:
        raise ValueError(f"--hard {options.hard}: at least 0 and at most --sft {options.sft}")
    others = [pair for pair in sums[options.sft :] if options.carries or not carries(pair.original)]
    trained = take(others, options.pairs, "--pairs")
    asked = [question for question in wordings.held_out() if question.subject == SUBJECT]
    both = zip(asked[::2], asked[1::2], strict=True)  # a problem's plain wording and its hard one
    kept = [two for two in both if options.carries or not carries(two[0].question)]
    questions = [two[row % 2] for row, two in enumerate(take(kept, options.held_out, "--held-out"))]
    return {
        "sft.jsonl": [
            {"question": pair.rephrased if row < options.hard else pair.original, "response": response(pair)}
            for row, pair in enumerate(taught)
        ],
        "pairs.jsonl": [
            {"question": p.original, "rephrased": p.rephrased, "answer": p.answer or ""} for p in trained
        ],
        "held_out.jsonl": [
            {"question": q.question, "answer": q.answer, "subject": q.level} for q in questions
        ],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--sft", type=int, default=512, help="questions for supervised training (512)")
    parser.add_argument("--hard", type=int, default=256, help="hard ones among them (256)")
    parser.add_argument("--pairs", type=int, default=512, help="problems for training without labels (512)")
    parser.add_argument("--held-out", type=int, default=280, help="problems to evaluate on (280)")
    parser.add_argument("--carries", action="store_true", help="ask for sums whose ones carry, too")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        files = make(options)
    except ValueError as error:
        parser.error(str(error))
    options.output.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        write(options.output / name, rows)


if __name__ == "__main__":
    main()
