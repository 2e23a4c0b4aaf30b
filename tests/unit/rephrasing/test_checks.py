"""The checks find every reason where it applies and only there; their counts on the released MATH pairs."""

from collections import Counter

import pytest

from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.rephrasing.checks import (
    REASONS,
    check,
    find_identical,
    find_lost_figure,
    find_placeholder,
)
from tests.support.paths import RELEASED_DATA

needs_data = pytest.mark.skipif(not RELEASED_DATA.is_dir(), reason=f"no real data in {RELEASED_DATA}")

QUESTION = "What is the sum of the solutions of the equation $(3x+5)(2x-9) = 0$? Give a common fraction."
GOOD = "The equation $(3x+5)(2x-9) = 0$ is solved by some numbers. Add them up and give a common fraction."
ASY = '[asy]\ndraw((0,0)--(15,0));\nlabel("$15$", (7,0), S);\nlabel("A", (0,0), W);\n[/asy]'
FIGURE = f"In the figure, how long is the other leg of the right triangle with area 60?\n{ASY}"


def reasons(original: str, rephrased: str, instruction: str = "") -> list[str]:
    return [finding.reason for finding in check(original, rephrased, instruction)]


def test_a_good_rephrasing_has_no_fault() -> None:
    assert check(QUESTION, GOOD) == []
    assert check("What is $8!$?", "Multiply all whole numbers from one to 8.") == []


@pytest.mark.parametrize(
    ("rephrased", "expected"),
    [
        ("", ["empty"]),
        (" \n...", ["empty"]),
        ("<rewritten question>", ["placeholder"]),
        ("<the question with other words and another story>", ["placeholder"]),
        ("[your rephrased question here]", ["placeholder"]),
        ("Rephrased question:", ["placeholder"]),
        ("**Rewritten Problem**", ["placeholder"]),
        ("N/A", ["placeholder"]),
        (QUESTION, ["identical"]),
        (QUESTION.upper().replace(" ", "  ").replace("?", "."), ["identical"]),
        ("Here is the rephrased question: " + GOOD, ["echo"]),
        ("Sure! " + GOOD, ["echo"]),
        ("REWRITE: " + GOOD, ["echo"]),
        ("<think>I should</think> " + GOOD, ["echo"]),
        (GOOD + " ### RESULT_END", ["echo"]),
        (GOOD + "<|im_end|>", ["echo"]),
        (GOOD.replace("some numbers", "些 numbers"), ["language"]),
        (GOOD.replace("some", "сome"), ["language"]),
        (
            "Quelle est la somme des solutions de cette équation $(3x+5)(2x-9) = 0$, en fraction commune ?",
            ["language"],
        ),
        (GOOD.replace("3", "4"), ["numbers_changed"]),
        (GOOD.replace("3x", "x"), ["numbers_lost"]),
        (GOOD + " That is all there is to do in it." * 20, ["length"]),
    ],
)
def test_reasons(rephrased: str, expected: list[str]) -> None:
    assert reasons(QUESTION, rephrased) == expected
    assert set(expected) <= set(REASONS)


@pytest.mark.parametrize(
    ("original", "rephrased"),
    [
        ("Rewrite the expression $x+x$ in another form", "Put $x+x$ differently, as it can be rewritten"),
        ("In the original problem, A was 5.", "Where A was 5 in the original problem?"),
        (r"Find $\alpha + 5$ in $\mathbb{Z}$", "In ℤ, what does α + 5 equal?"),
        ("求 $x+5=9$ 的解", "若 $x+5=9$ 则 x 等于多少"),
        ("Simplify $(2x^3)^3$.", "What is the third power of $2x^3$, written without any parentheses?"),
    ],
)
def test_looks_suspicious_but_is_fine(original: str, rephrased: str) -> None:
    assert reasons(original, rephrased) == []


def test_repeating_the_instruction_is_an_echo() -> None:
    instruction = "Write the question anew in other words so that it asks for the same thing."
    copied = GOOD + " It is in other words, so that it asks for the same thing."
    assert reasons(QUESTION, copied, instruction) == ["echo"]
    assert reasons(QUESTION, copied) == []
    assert reasons(instruction + QUESTION, copied, instruction) == []  # the question says so itself


@pytest.mark.parametrize(
    ("rephrased", "expected"),
    [
        (f"A ladder encloses an area of 60 with wall and ground. How far up does it reach? {ASY}", []),
        ("A ladder of length 15 encloses 60 with wall and ground. How far up?", ["figure_dropped"]),
        ("A ladder of length fifteen encloses 60 as shown. How far up?", ["figure_lost"]),
        ("A ladder encloses an area of 60 with wall and ground. How far up does it reach?", ["figure_lost"]),
        ("A ladder encloses an area of 61 as shown. How far up?", ["figure_lost", "numbers_changed"]),
    ],
)
def test_figures(rephrased: str, expected: list[str]) -> None:
    assert reasons(FIGURE, rephrased) == expected


@pytest.mark.parametrize(
    "figure",
    [
        r"\begin{tikzpicture}\draw (0,0) -- (15,0);\end{tikzpicture}",
        r"\includegraphics[width=3cm]{cone.png}",
        "![a cone](cone.png)",
        '<img src="cone.png">',
        "[asy] draw((0,0)--(15,0));",
    ],
)
def test_kinds_of_figures(figure: str) -> None:
    assert reasons(f"How high is the cone? {figure}", "Find the height of the cone.") == ["figure_dropped"]
    assert reasons(f"How high is the cone? {figure}", f"Find the height of the cone. {figure}") == []


def test_numbers_moved_to_the_other_side_are_kept() -> None:
    assert reasons("Solve $x^2+30x+180=-36$ for x.", "Find x such that $x^2+30x+216=0$.") == []
    assert reasons("Solve $x^2+30x+180=-36$ for x.", "Find x such that $x^2+30x+217=0$.") == [
        "numbers_changed"
    ]


@needs_data
def test_released_pairs() -> None:
    """The flaws known by row number are found; of the first 1,500 rows all counts."""
    math = RELEASED_DATA / "math"
    pairs = load_pairs(str(math / "train_original.parquet"), str(math / "train_rewrite_Qwen3-32B.parquet"))
    assert [p.pair_id for p in pairs if find_identical(p.original, p.rephrased)] == [2815, 4458]
    assert [p.pair_id for p in pairs if find_placeholder(p.rephrased)] == [
        *(118, 128, 780, 815, 1409, 1674, 2507, 2958, 3131, 3385, 3817, 3906, 3983, 4046, 4058, 4594, 5316),
        *(5360, 6246),
    ]
    assert sum(find_lost_figure(p.original, p.rephrased) is not None for p in pairs) == 583
    found = [(p.pair_id, reason) for p in pairs[:1500] for reason in reasons(p.original, p.rephrased)]
    changed = [pair_id for pair_id, reason in found if reason == "numbers_changed"]
    assert {57, 58, 202, 285, 524, 945, 1152, 1460} <= set(changed)
    counts = Counter(reason for _, reason in found)
    assert 20 <= counts["numbers_changed"] <= 30 and 10 <= counts["numbers_lost"] <= 25
    assert counts["length"] == 3 and not counts["echo"] and not counts["language"]
