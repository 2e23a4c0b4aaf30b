r"""Quality and cost of the grader, compared with other rules.

    python -m benchmarks.grader [--truths 600] [--data DIR] [--answers DIR] [--keep FILE]

Quality: the pairs of tests/cases/answers.py, and the ground truths of MATH (train and test) with the variants
that tests/cases/spellings.py makes of them. Every spelling is equal to its ground truth. A mutant counts if
sympy's numbers for the two differ, which is independent of our parser. Four judges:

    exact         the strings are equal (votes and rewards of the authors' code)
    strip_string  the strings are equal after Hendrycks' normalisation (the authors' code compares with ground
                  truths so), written here from its description
    math-verify   verify(parse(truth), parse(answer)), as its README says
    ours          Grader("math")

Real answers (where --answers holds pairs.jsonl, responses.jsonl and groups.jsonl): verdicts against the
judged ones, of pairs weighted by how many responses had them, of responses with their extraction; and in how
many groups the majority's answer is right. --keep writes every verdict, so that two versions can be
compared.

Cost: CPU seconds of this process and its workers for 2,048 answers in 128 groups of 16, caches empty.
What is left to math-verify includes the start of its process, about a second.
"""

import argparse
import json
import logging
import random
import re
import resource
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pyarrow.parquet as pq
from math_verify import parse, verify
from rich.console import Console
from rich.table import Table
from sympy import Basic, FiniteSet, Interval, Tuple
from sympy.core.relational import Relational

from megatron_coreward.grading.answers import extract_answer, normal_form, take_apart
from megatron_coreward.grading.grader import TERM_S, Grader
from megatron_coreward.grading.workers import TIMED_OUT, compute
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
    grader = Grader()
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
def sympy_numbers(body: str) -> tuple[complex, ...]:
    """The numbers that sympy has for what math-verify reads, two for a relation; () where there are none."""
    found = parse(f"${body}$") if body else []
    items = list(found[0].args) if found and isinstance(found[0], (FiniteSet, Tuple, Interval)) else found[:1]
    try:
        return tuple(number for item in items for number in numbers_of(item))
    except (TypeError, ValueError, AttributeError, ArithmeticError, RecursionError):
        return ()


def numbers_of(item: Basic) -> list[complex]:
    sides = item.args if isinstance(item, Relational) else (item,)
    values = [
        side.evalf(subs={s: 0.3 + sum(map(ord, s.name)) % 17 for s in side.free_symbols}) for side in sides
    ]
    return [complex(value) for value in values]


def confirmed_unequal(grader: Grader, a: str, b: str) -> bool:
    """Whether sympy has numbers for both, and they differ by more than rounding."""
    (body, *rest), (other_body, *other_rest) = take_apart(grader.form(a)), take_apart(grader.form(b))
    first, second = sympy_numbers(body), sympy_numbers(other_body)
    if not first or rest != other_rest or len(first) != len(second):
        return False
    key = lambda z: (round(z.real, 6), z.imag)  # noqa: E731 (roots in any order)
    pairs = zip(sorted(first, key=key), sorted(second, key=key), strict=True)
    return any(abs(x - y) > 1e-7 * max(1.0, abs(x)) for x, y in pairs if x != y)


def last_box(text: str) -> str:
    """What the authors' code compares: the last box."""
    return extract_answer(text, "exact")


REAL: dict[str, tuple[Judge, Callable[[str], str]]] = {
    "exact": (JUDGES["exact"], last_box),
    "math-verify": (by_math_verify, last_box),
    "ours": (by_us, extract_answer),
}


def real_answers(folder: Path, keep: Path | None) -> Table:
    """Verdicts on real answers against the judged ones."""
    load = lambda name: [json.loads(line) for line in (folder / name).read_text().splitlines()]  # noqa: E731
    pairs, responses, groups = load("pairs.jsonl"), load("responses.jsonl"), load("groups.jsonl")
    judged = [(row["equal"], row.get("rows", 1)) for row in (*pairs, *responses)]
    table = Table(
        "judge", *(f"{part}: {kind}" for part in ("pairs", "responses") for kind in ("wrong", "missed"))
    )
    for column in ("misses per 1,000 rows", "majorities right", "CPU s"):
        table.add_column(column)
    table.title = f"real answers: {len(pairs):,} pairs of {sum(row['rows'] for row in pairs):,} responses, "
    table.title += f"{len(responses):,} responses, {len(groups):,} groups"
    kept = {}
    for name, (judge, extract) in REAL.items():
        started = cpu_seconds()
        asked = [(row["answer"], row["truth"]) for row in pairs]
        asked += [(extract(row["text"]), row["truth"]) for row in responses]
        verdicts = judge(asked)
        cells = []
        for begin, end in ((0, len(pairs)), (len(pairs), len(asked))):
            parts = list(zip(verdicts, judged, strict=True))[begin:end]
            cells.append(sum(n for verdict, (equal, n) in parts if verdict and not equal))
            cells.append(sum(n for verdict, (equal, n) in parts if equal and not verdict))
        winners = majorities(name, [group["answers"] for group in groups])
        right = judge([(winner, group["truth"]) for winner, group in zip(winners, groups, strict=True)])
        share = 1000 * cells[1] / sum(row["rows"] for row in pairs)
        table.add_row(
            name, *map(str, cells), f"{share:.2f}", str(sum(right)), f"{cpu_seconds() - started:.1f}"
        )
        kept[name] = {"pairs and responses": verdicts, "winners": winners, "right": right}
    if keep is not None:
        keep.write_text(json.dumps(kept))
    return table


def majorities(judge: str, groups: Sequence[Sequence[str]]) -> list[str]:
    """The answer that most samples of each group gave, of equals the first; math-verify votes by strings."""
    grader = Grader("math" if judge == "ours" else "exact")
    classes = grader.classify([[grader.form(answer) for answer in group] for group in groups])
    counts = [Counter(number for number in found if number >= 0) for found in classes]
    return [
        group[found.index(count.most_common(1)[0][0])] if count else ""
        for group, found, count in zip(groups, classes, counts, strict=True)
    ]


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
    "absolute values": "x^2+|x-{n}|=5",
    "polynomials": r"x^2-{n}x+\frac{{1}}{{2}}",
    "rational expressions": r"\frac{{x^2+{n}y}}{{\sqrt{{x}}+1}}",
    "tuples": r"({n},\sqrt{{{n}}},-\frac{{1}}{{2}})",
    "plus and minus": r"\frac{{{n}\pm\sqrt{{5}}}}{{2}}",
    "sets without a number": r"(0,{n})\setminus\{{1\}}",
    "unions": r"(-\infty,{n})\cup({n}.5,\infty)",
    "equations": "2x+{n}y-3z=4",
    "inequalities": r"-3\leq x<{n}",
    "calls of functions": "f({n})",
    "answers with a condition": r"f(x)={n}\text{{ if }}x>0",
    "matrices": r"\begin{{pmatrix}}{n}&\frac{{1}}{{2}}\\0&-\sqrt{{3}}\end{{pmatrix}}",
    "text with numbers": r"\text{{none of the {n}}}",
    "what is still to be worked out": r"\int_0^{{{n}}}xdx",
}
BEYOND = {
    "inverse functions": r"\sin^{{-1}}(\frac{{1}}{{{n}}})",
    "rounding": r"\lfloor\frac{{{n}}}{{x}}\rfloor",
    "rounded equations": r"2^x+2^{{-x}}=\lceil x^2+{n}\rceil",
    "maxima": r"\max(x,{n})",
}
"""What our reader leaves to math-verify."""
HANG = r"\lfloor {n}^{{9^{{9^{{9}}}}}}\rfloor"
"""Our reader does not let this through: sympy would write the digits down."""


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
        normal_form.cache_clear()
        before = cpu_seconds()
        grader = Grader()
        grader.classify([[grader.form(answer) for answer in group] for group in groups])
        timeouts = grader.timeouts
        times.append(cpu_seconds() - before)
    return min(times), timeouts


def worst_case() -> tuple[float, int]:
    """CPU seconds of a step in which every term hangs, and how many ran out of time or were left out."""
    terms = [(HANG.format(n=10 + k), ()) for k in range(GROUPS * SIZE)]
    before = cpu_seconds()
    results = compute(terms, timeout_s=5.0, budget_s=5.0 + TERM_S * len(terms))
    return cpu_seconds() - before, sum(result is TIMED_OUT for result in results)


def cost_table(repeats: int) -> Table:
    title = f"CPU seconds for {GROUPS * SIZE:,} answers, {GROUPS} groups of {SIZE}"
    table = Table("answers", "ours, s", "timed out", title=title)
    cases = {"typical": typical()} | {
        f"all distinct: {name}": distinct([template]) for name, template in FAMILIES.items()
    }
    cases["all distinct: every family above"] = distinct(list(FAMILIES.values()))
    cases |= {f"left to math-verify: {name}": distinct([template]) for name, template in BEYOND.items()}
    for name, groups in cases.items():
        seconds, timeouts = grading_seconds(groups, repeats)
        table.add_row(name, f"{seconds:.2f}", str(timeouts))
    seconds, timeouts = worst_case()
    table.add_row("every term hangs", f"{seconds:.2f}", str(timeouts))
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
        "--answers", type=Path, help="folder of judged answers of real models: pairs, responses, groups"
    )
    parser.add_argument("--keep", type=Path, help="a JSON file for every verdict on the real answers")
    parser.add_argument(
        "--truths", type=int, default=0, help="so many distinct ground truths; 0: all of them"
    )
    parser.add_argument("--repeats", type=int, default=3, help="runs per cost, of which the least counts")
    options = parser.parse_args()
    logging.disable()
    console = Console(width=130)
    console.print(quality_table("equal pairs that the authors' code calls unequal", METHOD, []))
    console.print(quality_table("hand-written pairs", EQUAL, UNEQUAL))
    if options.answers is not None:
        console.print(real_answers(options.answers, options.keep))
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
        grader = Grader()
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
