"""Numbers in digits, in words and implied, and which of them a rephrasing must keep."""

import time
from fractions import Fraction

import pytest

from megatron_coreward.rephrasing.number_words import implied, spelled_numbers
from megatron_coreward.rephrasing.quantities import quantities


def missing(original: str, rephrased: str) -> list[str]:
    return [mention.text for mention in quantities(original).missing_in(quantities(rephrased))]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("twenty-one boys", [21]),
        ("Forty teams", [40]),
        ("two hundred and five", [205]),
        ("one hundred apples", [100]),
        ("three thousand two hundred", [3200]),
        ("five million", [5000000]),
        ("a thousand", [1000]),
        ("the third and the twenty-first", [3, 21]),
        ("the fourth, the twentieth", [4, 20]),
        ("three-fourths of it", ["3/4"]),
        ("five sixths", ["5/6"]),
        ("two thirds and one half", ["2/3", "1/2"]),
        ("three quarters", ["3/4"]),
        ("seven, eight and nine", [7, 8, 9]),
        ("someone, often, tents", []),
    ],
)
def test_spelled_numbers(text: str, values: list) -> None:
    assert [number.value for number in spelled_numbers(text)] == [Fraction(value) for value in values]


@pytest.mark.parametrize(("text", "value"), [("a right angle", 90), ("Twice that", 2), ("a week", 7)])
def test_implied(text: str, value: int) -> None:
    assert value in implied(text)
    assert not implied("write it down")


@pytest.mark.parametrize(
    ("original", "rephrased"),
    [
        pytest.param("8 women", "eight women", id="word"),
        pytest.param("eight women", "8 women", id="digit"),
        pytest.param("on day 30", "the thirtieth day", id="ordinal"),
        pytest.param(r"the $15^{\text{th}}$ term", "the 15th term", id="LaTeX ordinal"),
        pytest.param("4 dozen eggs", "48 eggs", id="dozen"),
        pytest.param("half of it, 3 times", r"$\frac{1}{2}$ of it, three times", id="half"),
        pytest.param(r"$\frac{3}{4}$ of it", "three quarters of it", id="fraction in words"),
        pytest.param(r"$\frac34$ of it", "0.75 of it", id="decimal"),
        pytest.param("3/4 of it", "75% of it", id="percent"),
        pytest.param(r"$50\%$", "half", id="percent in words"),
        pytest.param(r"$4\frac 12$ hours", "4.5 hours", id="mixed number"),
        pytest.param("8 1/2 inches", r"$8\frac{1}{2}$ inches", id="mixed number in text"),
        pytest.param(r"$8,\!000$", "8000", id="thousands with a thin space"),
        pytest.param("$273{,}142$", "273,142", id="thousands with braces"),
        pytest.param("10,000 people", "ten thousand people", id="thousands in words"),
        pytest.param("5.00 dollars", "5 dollars", id="trailing zeros"),
        pytest.param(r"$\log_432$", "the logarithm of 32 to base 4", id="TeX takes one digit"),
        pytest.param("$5^2$", "25", id="power"),
        pytest.param("$x^3$", "the cube of x", id="cube"),
        pytest.param("$9^2$", "the square of 9", id="square"),
        pytest.param(r"$16^{\frac{1}{2}}$", "the square root of 16", id="root"),
        pytest.param(r"$90^\circ$", "a right angle", id="right angle"),
        pytest.param(r"an angle of $\frac{\pi}{4}$", "45 degrees", id="radians"),
        pytest.param("$6!$", "720", id="factorial"),
        pytest.param("in base 8", "an octal number", id="base"),
        pytest.param("three-digit integers", "integers from 100 to 999", id="number of digits"),
        pytest.param("less than 10,000", "up to 9999", id="bound"),
        pytest.param("$1, 2, 3, 4, 5$ and 6", "1 to 6", id="listing with equal steps"),
        pytest.param(r"$2 + 4 + 7 + 11 + \cdots + 56$", "2 and so on to 56", id="listing with dots"),
        pytest.param("like 3003", "like 4114", id="example"),
        pytest.param(
            "a sum (for example, 6 and 3 make 36)", "a sum (for instance, 25 from 5)", id="examples"
        ),
        pytest.param("$x_7$", "$y$", id="index"),
        pytest.param("x > 0, and 2 apples, 1 pear", "a positive x, some fruit", id="0, 1 and 2"),
        pytest.param("the third of them", "one of them", id="ordinals are not stated"),
        pytest.param("a > 5 < 7", "7 exceeds 5", id="order"),
        pytest.param("$-3$", "3", id="sign"),
    ],
)
def test_kept(original: str, rephrased: str) -> None:
    assert missing(original, rephrased) == []


@pytest.mark.parametrize(
    ("original", "rephrased", "lost"),
    [
        ("$|x-7| = 12$", "$|x-5| = 12$", ["7"]),
        ("7 of 7 of 9", "nothing of it", ["7", "9"]),
        ("eight women", "nine women", ["eight"]),
        (r"$\frac{5}{7}$", r"$\frac{5}{8}$", [r"\frac{5}{7}"]),
        ("25 and 25.3", "26 and 25.3", ["25"]),
        (r"$75\%$", r"$25\%$", [r"75\%"]),
        ("99 bottles", "98 bottles", ["99"]),
        ("Three-fourths of 92", "92 in all", ["Three-fourths"]),
        ("$13^{20}$", "$13^{21}$", ["13^{20}"]),
        (r"$3, 5, 11, \ldots, 24$", r"$4, 5, 11, \ldots, 24$", ["3"]),
        ("a five dollar note", "a note", ["five"]),
        ("6 and 7 and 9", "9", ["6", "7"]),
        ("$a_{12}$", "$a_{13}$", ["12"]),
    ],
)
def test_missing(original: str, rephrased: str, lost: list[str]) -> None:
    assert missing(original, rephrased) == lost


@pytest.mark.parametrize("text", ["", "no numbers", "1/0", r"\frac{1}{0}", "9" * 9000, "1,2,3,", "." * 5000])
def test_odd_texts(text: str) -> None:
    assert missing(text, text) == []


def test_long_texts_take_no_time() -> None:
    started = time.process_time()
    for piece in (
        "1, ",
        "7",
        "one hundred and ",
        "1 and 2. Such as 5. ",
        r"\frac{1}{2}",
        "{",
        r"3,\ldots, 5;",
    ):
        quantities(piece * 3000)
    assert time.process_time() - started < 20
