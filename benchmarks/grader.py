r"""Quality and cost of the grader, compared with other rules.

    python -m benchmarks.grader [--truths 600] [--data data/math]

Quality: the pairs of tests/cases/answers.py, and the ground truths of MATH (train and test) with the variants
that tests/cases/spellings.py makes of them. Every spelling is equal to its ground truth. A mutant counts if
sympy's numbers for the two differ, which is independent of our parser. Four judges:

    exact         the strings are equal (votes and rewards of the authors' code)
    strip_string  the strings are equal after Hendrycks' normalisation (the authors' code compares with ground
                  truths so), written here from its description
    math-verify   verify(parse(truth), parse(answer)), as its README says
    ours          Grader("math")

Cost: CPU seconds of this process and its workers for 2,048 answers in 128 groups of 16, with empty caches and
without the start of a worker (once per run). docs/evidence/grading.md has the results.
"""

import argparse
import logging
import random
import re
import resource
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from math_verify import parse, verify
from rich.console import Console
from rich.table import Table

from megatron_coreward.grading.answers import split_unit
from megatron_coreward.grading.grader import Grader
from megatron_coreward.grading.math_worker import read
from tests.cases.answers import EQUAL, METHOD, UNEQUAL
from tests.cases.spellings import mutated, rewritten

GROUPS, SIZE = 128, 16
TRAIN_FILES = ("train_original.parquet", "train.parquet")
TEST_FILE = "test.parquet"
"""Splits of MATH; train_original is the name in the authors' release, train that of tools/prepare_math.py."""
Pair = tuple[str, str]
Judge = Callable[[Sequence[Pair]], list[bool]]


def strip_string(answer: str) -> str:
    """The normal form of the MATH data set's own grader."""
    text = answer.replace("\n", "").replace(r"\!", "").replace("\\\\", "\\")
    text = re.sub(r"[td]frac", "frac", text)
    for removed in (r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", r"\%", "%"):
        text = text.replace(removed, "")
    text = text.split(r"\text{ ")[0] if text.count(r"\text{ ") == 1 else text
    text = re.sub(r"(^|[ {])\.", r"\g<1>0.", text)
    left, equals, right = text.partition("=")
    if equals and len(left) <= 2 and "=" not in right:
        text = right
    text = re.sub(r"\\sqrt([^{])", r"\\sqrt{\1}", text).replace(" ", "")
    text = re.sub(r"\\frac([^{])([^{])", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\frac([^{])(?=\{)", r"\\frac{\1}", text)
    text = r"\frac{1}{2}" if text == "0.5" else text
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text)


@cache
def parsed(answer: str) -> list:
    return parse(f"${answer}$")


def by_math_verify(pairs: Sequence[Pair]) -> list[bool]:
    return [verify(parsed(a), parsed(b)) for a, b in pairs]


def by_us(pairs: Sequence[Pair]) -> list[bool]:
    with Grader() as grader:
        verdicts = grader.equal_many([(grader.form(a), grader.form(b)) for a, b in pairs])
        assert grader.timeouts == 0, "a comparison timed out"
        return verdicts


JUDGES: dict[str, Judge] = {
    "exact": lambda pairs: [a == b for a, b in pairs],
    "strip_string": lambda pairs: [strip_string(a) == strip_string(b) for a, b in pairs],
    "math-verify": by_math_verify,
    "ours": by_us,
}


@cache
def sympy_numbers(form: str) -> tuple[str, list[complex] | None]:
    return read(form)


def confirmed_unequal(grader: Grader, a: str, b: str) -> bool:
    """Whether sympy has numbers for both, and they differ by more than rounding."""
    (body, unit), (other_body, other_unit) = split_unit(grader.form(a)), split_unit(grader.form(b))
    (kind, first), (other_kind, second) = sympy_numbers(body), sympy_numbers(other_body)
    if not first or not second or unit != other_unit or (kind, len(first)) != (other_kind, len(second)):
        return False
    key = lambda z: (round(z.real, 6), z.imag)  # noqa: E731 (roots in any order)
    rest = zip(sorted(first, key=key), sorted(second, key=key), strict=True)
    return any(abs(x - y) > 1e-7 * max(1.0, abs(x)) for x, y in rest if x != y)


def math_truths(folder: Path) -> list[str]:
    """Ground truths of the train and the test split, as prepared or as released."""
    train = next((name for name in TRAIN_FILES if (folder / name).exists()), TRAIN_FILES[0])
    tables = [pq.read_table(folder / name) for name in (train, TEST_FILE)]
    truths = [row["ground_truth"] for t in tables for row in t.column("reward_model").to_pylist()]
    return [truth for truth in truths if truth and truth.strip()]


def quality_table(title: str, equal: Sequence[Pair], unequal: Sequence[Pair]) -> Table:
    table = Table("judge", "equal: yes", "equal: no", "unequal: yes", "unequal: no", "CPU s", title=title)
    for name, judge in JUDGES.items():
        started = cpu_seconds()
        right, wrong = Counter(judge(equal)), Counter(judge(unequal))
        cells = right[True], right[False], wrong[True], wrong[False]
        table.add_row(name, *(f"{n:,}" for n in cells), f"{cpu_seconds() - started:.1f}")
    table.caption = "equal: no = false negatives; unequal: yes = false positives"
    return table


def cpu_seconds() -> float:
    """Of this process and of the workers that have ended."""
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


FAMILIES = {
    "numbers": "{n}",
    "fractions": r"\frac{{{n}}}{{7}}",
    "mixed numbers": r"{n}\frac{{2}}{{3}}",
    "roots": r"{n}+\frac{{\sqrt{{{n}}}}}{{3}}",
    "multiples of pi": r"\frac{{{n}\pi}}{{7}}",
    "complex numbers": r"{n}-\frac{{3}}{{4}}i",
    "functions": r"\sin({n})",
    "logarithms": r"\log_2{n}",
    "polynomials": r"x^2-{n}x+\frac{{1}}{{2}}",
    "rational expressions": r"\frac{{x^2+{n}y}}{{\sqrt{{x}}+1}}",
    "tuples": r"({n},\sqrt{{{n}}},-\frac{{1}}{{2}})",
    "plus and minus": r"\frac{{{n}\pm\sqrt{{5}}}}{{2}}",
    "sets without a number": r"(0,{n})\setminus\{{1\}}",
    "unions": r"(-\infty,{n})\cup({n}.5,\infty)",
    "equations": "2x+{n}y-3z=4",
    "inequalities": r"-3\leq x<{n}",
    "absolute values": "x^2+|x-{n}|=5",
    "answers with a condition": r"f(x)={n}\text{{ if }}x>0",
    "matrices": r"\begin{{pmatrix}}{n}&\frac{{1}}{{2}}\\0&-\sqrt{{3}}\end{{pmatrix}}",
    "text with numbers": r"\text{{none of the {n}}}",
    "what is still to be worked out": r"\int_0^{{{n}}}xdx",
}
BEYOND = {
    "calls of functions": "f({n})",
    "inverse functions": r"\sin^{{-1}}({n})",
    "absolute values of one sign": "|x^2+{n}|",
    "fractions in one line": "1/2x+{n}",
    "powers without braces": "x^{n}",
    "rounding": r"\lfloor\frac{{{n}}}{{x}}\rfloor",
    "exponential equations": r"2^x+2^{{-x}}=|x^2+{n}|",
    "with the empty set": r"\emptyset\cup\{{{n}\}}",
    "maxima": r"\max(x,{n})",
}
"""What our reader refuses and math-verify reads."""


def distinct(templates: Sequence[str]) -> list[list[str]]:
    """Groups in which no answer is like another, nor like any of another group."""
    return [
        [templates[k % len(templates)].format(n=10 + g * SIZE + k) for k in range(SIZE)]
        for g in range(GROUPS)
    ]


def typical() -> list[list[str]]:
    """A majority in two spellings, some wrong numbers, some responses without an answer."""
    rng = random.Random(0)
    groups = []
    for _ in range(GROUPS):
        spellings = rng.choice(EQUAL)
        draws = [rng.random() for _ in range(SIZE)]
        groups.append(
            [
                "" if x < 0.05 else str(rng.randrange(200)) if x < 0.35 else rng.choice(spellings)
                for x in draws
            ]
        )
    return groups


def grading_seconds(groups: Sequence[Sequence[str]], repeats: int) -> tuple[float, int]:
    """CPU seconds for normal forms and classes, least of `repeats`, and how many comparisons timed out."""
    times, timeouts = [], 0
    for _ in range(repeats):
        before = cpu_seconds()
        with Grader() as grader:
            grader.equal("f(1)", "|x|")
        start_up = cpu_seconds() - before
        before = cpu_seconds()
        with Grader() as grader:
            grader.classify([[grader.form(answer) for answer in group] for group in groups])
            used_worker = bool(grader._pool._idle)
            timeouts = grader.timeouts
        times.append(cpu_seconds() - before - (start_up if used_worker else 0.0))
    return min(times), timeouts


def parse_milliseconds(groups: Sequence[Sequence[str]], count: int = 48) -> float:
    """CPU milliseconds that reading one answer takes in math-verify, mean of the first `count`."""
    with Grader() as grader:
        forms = [grader.form(answer) for group in groups for answer in group if answer][:count]
    started = time.process_time()
    for form in forms:
        read(split_unit(form)[0])
    return (time.process_time() - started) / len(forms) * 1000


def cost_table(repeats: int) -> Table:
    title = f"CPU seconds for {GROUPS * SIZE:,} answers, {GROUPS} groups of {SIZE}"
    table = Table("answers", "ours, s", "timed out", "math-verify, ms to read one", title=title)
    cases = {"typical": typical()} | {
        f"all distinct: {name}": distinct([template]) for name, template in FAMILIES.items()
    }
    cases["all distinct: every family above"] = distinct(list(FAMILIES.values()))
    cases |= {f"left to math-verify: {name}": distinct([template]) for name, template in BEYOND.items()}
    for name, groups in cases.items():
        seconds, timeouts = grading_seconds(groups, repeats)
        table.add_row(name, f"{seconds:.2f}", str(timeouts), f"{parse_milliseconds(groups):.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("data/math"),
        help="folder of MATH, written by tools/prepare_math.py or released by the paper's authors",
    )
    parser.add_argument(
        "--truths", type=int, default=0, help="so many distinct ground truths; 0: all of them"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs per cost, of which the least counts")
    options = parser.parse_args()
    logging.disable()
    console = Console(width=130)
    console.print(quality_table("equal pairs that the authors' code calls unequal", METHOD, []))
    console.print(quality_table("hand-written pairs", EQUAL, UNEQUAL))
    if options.data.exists():
        truths = math_truths(options.data)
        chosen = sorted(set(truths))
        if options.truths:
            chosen = random.Random(0).sample(chosen, options.truths)
        console.print(
            f"{len(truths):,} ground truths of MATH, {len(set(truths)):,} distinct, {len(chosen):,} used"
        )
        spelled = [(truth, text) for truth in chosen for text in rewritten(truth).values()]
        wrong = [(truth, text) for truth in chosen for text in mutated(truth).values()]
        with Grader() as grader:
            confirmed = [pair for pair in wrong if confirmed_unequal(grader, *pair)]
        console.print(
            f"{len(spelled):,} spellings; {len(wrong):,} mutants, {len(confirmed):,} confirmed unequal"
        )
        console.print(quality_table("ground truths of MATH", spelled, confirmed))
    else:
        console.print(f"no {options.data}: the ground truths of MATH are left out")
    console.print(cost_table(options.repeats))


if __name__ == "__main__":
    main()
