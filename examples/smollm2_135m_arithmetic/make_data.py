"""Writes the questions of this example: sft.jsonl, pairs.jsonl and held_out.jsonl, no problem in two of them.

    python examples/smollm2_135m_arithmetic/make_data.py --output runs/smollm2_arithmetic/data

The problems are the sums of data/synthetic.py (--subject both: differences, too): a third of the wordings are
short arithmetic ("What is 12 plus 35?"), the others word problems. sft.jsonl has both wordings of a problem
with a boxed response; pairs.jsonl has both, and the answer for figures and for the ground-truth arm alone.
"""

import argparse
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from megatron_coreward.data import synthetic
from megatron_coreward.data.pairs import PairRecord

SIGNS = {"sum": "+", "difference": "-"}


def response(question: str, pair: PairRecord) -> str:
    """The calculation in the question's order, and the answer in a box."""
    first, second = re.findall(r"\d+", question)
    sign = SIGNS[pair.subject]
    return f"{first} {sign} {second} = {pair.answer}. The answer is \\boxed{{{pair.answer}}}."


def write(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--sft", type=int, default=512, help="problems for supervised training (512)")
    parser.add_argument("--pairs", type=int, default=512, help="problems for training without labels (512)")
    parser.add_argument("--held-out", type=int, default=400, help="problems to evaluate on (400)")
    parser.add_argument("--subject", choices=("sum", "both"), default="sum", help="kinds of problems (sum)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    everything = synthetic.make_pairs(len(synthetic.training_problems()), options.seed)  # all different
    problems = [pair for pair in everything if options.subject in (pair.subject, "both")]
    taught, trained = problems[: options.sft], problems[options.sft :][: options.pairs]
    write(
        options.output / "sft.jsonl",
        (
            {"question": question, "response": response(question, pair)}
            for pair in taught
            for question in (pair.original, pair.rephrased)
        ),
    )
    write(
        options.output / "pairs.jsonl",
        ({"question": p.original, "rephrased": p.rephrased, "answer": p.answer or ""} for p in trained),
    )
    questions = [q for q in synthetic.held_out() if options.subject in (q.subject, "both")]
    write(
        options.output / "held_out.jsonl",
        (
            {"question": q.question, "answer": q.answer, "subject": q.subject}
            for q in questions[: options.held_out]
        ),
    )


if __name__ == "__main__":
    main()
