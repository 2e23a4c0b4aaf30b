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
        (f"<{GOOD}>", ["wrapping"]),
        (f"```\n{GOOD}\n```", ["wrapping"]),
        (f'"{GOOD}"', ["wrapping"]),
        ('{"question": "' + GOOD, ["wrapping"]),
        (f"{GOOD}\nNote: I kept the numbers.", ["wrapping"]),
        (f"{GOOD} The answer is 17/6.", ["answer_told"]),
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


PENS = "A shop sells 12 pens for $18. What is the price of 5 pens in dollars?"
ANEW = "Twelve pens cost $18 in a store. How many dollars do 5 pens cost?"
SPOKEN = "Ann does not know which of 3 friends has 5 coins. Who has them?"


@pytest.mark.parametrize(
    "told",
    [
        "The answer is 7.5 dollars.",
        "The final answer is $7.50$.",
        r"The answer is $\frac{15}{2}$.",
        "So the answer is seven and a half dollars.",
        "The answer is 5.",  # a number of the question, but nothing is asked after it
        "**Answer:** 7.5",
        r"\boxed{7.5}",
        r"$\boxed{\frac{15}{2}}$",
        "#### 7.5",
        "(7.5 dollars)",
        "= 7.5",
        "They cost 7.5 dollars.",
        "Therefore, 5 pens cost 7.50 dollars.",
        "18/12 = 1.5",
        r"$5 \times 1.5 = 7.5$",
        r"$\frac{18}{12} = 1.5$",
        "Solution: divide and multiply.",
        "Hint: one costs 1.5 dollars.",
    ],
)
def test_told_results(told: str) -> None:
    assert reasons(PENS, f"{ANEW} {told}") == ["answer_told"]
    assert reasons(f"{PENS} {told}", f"{ANEW} {told}") == []  # the question says so itself


def test_a_conclusion_before_the_question_is_a_told_result() -> None:
    told = "Twelve pens cost $18, which means that 5 pens cost 7.5 dollars. How many dollars do 5 pens cost?"
    assert reasons(PENS, told) == ["answer_told"]
    assert reasons(PENS, f"It is 7.5. {ANEW}") == ["answer_told"]


@pytest.mark.parametrize(
    ("original", "rephrased"),
    [
        (
            "After subtracting 9 Cindy got 43. What is right?",
            "Cindy took 9 away; her answer is 43. What is right?",
        ),
        (
            "A number plus 9 gives 20. Find it.",
            "When 9 is added to a number, the result is 20. Find the number.",
        ),
        ("Compute $a+b$ if $x = a/b$ in $5x=3$.", "If the answer to $5x=3$ is $a/b$, what is $a+b$?"),
        ("Find x with 3x=12. Round to the nearest tenth.", "Which x has 3x=12? Round to 1 decimal place."),
        (
            "Find the sum of the roots of $x^2+5x=7$.",
            "Find the total of all solutions to the equation $x^2+5x=7$.",
        ),
        (
            "Add 3 to 4. For example, $3^2=9$ is a square.",
            "What is 3 + 4? A square is a number like $4*4 = 16$.",
        ),
        (
            "Which is 6: 2 or 3 or 2*3? A. 2 B. 3 C. 6",
            "Which of these is 6?\nA. 2\nB. 3\nC. 2*3, a product of 2",
        ),
    ],
)
def test_no_told_results(original: str, rephrased: str) -> None:
    assert "answer_told" not in reasons(original, rephrased)


@pytest.mark.parametrize("original", [PENS, "Find the price of 5 pens if 12 cost $18.", "Compute $18/12*5$."])
@pytest.mark.parametrize(
    "statement",
    [
        "Each pen costs 18/12 dollars, 12 pens being $18, and there are 5 of them.",
        "Twelve pens cost $18 in a store. 5 pens are bought there.",
        "The price of 5 pens when 12 cost $18.",
    ],
)
def test_statements_in_place_of_a_question(original: str, statement: str) -> None:
    assert reasons(original, statement) == ["no_question"]
    assert reasons(statement, f"{statement} It is so.") == []  # the original does not ask either


@pytest.mark.parametrize(
    "asked",
    [
        "12 pens cost $18. How much are 5",
        "If 12 pens cost $18, find the price of 5.",
        "12 pens cost $18; completely determine the cost of 5.",
        "With 12 pens for $18, 5 pens cost ___ dollars.",
        "12 pens cost $18, 5 pens cost:",
        "12 pens cost $18. Ann needs to know the price of 5.",
        "12 pens cost $18. Your task is to work out the price of 5.",
        "12 pens cost $18. Tell the price of 5.",
    ],
)
def test_ways_of_asking(asked: str) -> None:
    assert reasons(PENS, asked) == []


@pytest.mark.parametrize("apostrophe", "'’ʼ′＇`")
@pytest.mark.parametrize(
    "refused",
    [
        "I'm sorry, I can't assist with 12 pens for $18 or 5 pens.",
        "I'm sorry, but I cannot help with 12 pens for $18 and 5 pens. What else?",
        "Sorry, I can't do this: 12 pens $18, 5 pens?",
        "I won't rephrase 12 pens for $18 and 5 pens. How?",
        "I'm unable to reword 12 pens for $18 and 5 pens?",
        "I don't think I can help with 12 pens for $18 and 5 pens?",
        "As an AI I don't buy 12 pens for $18 or 5 pens?",
        "Unfortunately, I can't rewrite 12 pens for $18 and 5 pens?",
        "I must decline: 12 pens $18, 5 pens?",
        "It's not possible to rephrase 12 pens for $18 and 5 pens?",
        "My apologies, 12 pens for $18 and 5 pens?",
        "I'd be happy to help, but the question about 12 pens for $18 and 5 pens seems incomplete?",
        "Please provide the question about 12 pens for $18 and 5 pens?",
    ],
)
def test_refusals(refused: str, apostrophe: str) -> None:
    assert "echo" in reasons(PENS, refused.replace("'", apostrophe))


@pytest.mark.parametrize(
    "speech",
    [
        "Mia says: I can't tell.",
        "Mia says, “I’m sorry, I can’t help you.”",
        "Ben: 'I cannot tell.' Mia: 'Neither can I.'",
        '"I am unable to tell", said Mia.',
        "I can’t tell who, Mia says.",
        "Mia replies: I won't tell.",
        "A machine can't produce more, as you cannot write to it.",
    ],
)
def test_what_persons_say_is_no_refusal(speech: str) -> None:
    assert reasons(SPOKEN, f"Of 3 people one has 5 coins. {speech} Who has them?") == []


@pytest.mark.parametrize(
    ("original", "rephrased"),
    [
        ("12 + 34 = ?", "What is the sum of 12 and 34?"),
        ("$12+34=?$", "Add 12 and 34."),
        ("5 × 7 =", "Multiply 5 by 7."),
        ("α + 7 = 9", "Which α has α + 7 = 9?"),
    ],
)
def test_questions_without_letters_can_be_put_into_words(original: str, rephrased: str) -> None:
    assert reasons(original, rephrased) == []
    assert reasons(original, f"{rephrased} 多少") == ["language"]


@pytest.mark.parametrize(
    ("start", "end"), [("[asy]", "[/asy]"), (r"\text{[asy]}", r"\text{[/asy]}"), (r"\[asy\]", r"\[/asy\]")]
)
def test_code_of_figures_raises_no_alarm(start: str, end: str) -> None:
    code = """ pair qux = dir(90); path foo, bar; real zap = x ? y : z; label("I can't tell: $5*3=15$"); """
    figure = f"{start}{code * 3}{end}"
    assert reasons(f"What is the height of the cone? {figure}", f"How high is the cone? {figure}") == []
    assert reasons(f"What is the height of the cone? {figure}", f"The cone is high. {figure}") == [
        "no_question"
    ]


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
    new = ("wrapping", "answer_told", "no_question", "echo")
    everywhere = [(p.pair_id, reason) for p in pairs for reason in reasons(p.original, p.rephrased)]
    assert [(row, reason) for row, reason in everywhere if reason in new] == [
        (row, "wrapping")
        for row in (1785, 3525, 4472, 4575, 6499, 6970, 7362)  # in the template's brackets
    ]
    assert counts["length"] == 3 and not counts["echo"] and not counts["language"]
