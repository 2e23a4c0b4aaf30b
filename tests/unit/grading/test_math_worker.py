"""How the worker reads forms: math-verify's trees, found faster, and numbers that tell answers apart."""

import re

import pytest
from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2
from math_verify import parse
from sympy import srepr

from megatron_coreward.grading.grader import Grader
from megatron_coreward.grading.math_worker import _LATEX, TwoStageParser, compare, easier, read
from megatron_coreward.grading.values import may_be_equal
from tests.cases.answers import EQUAL, UNEQUAL

FAST = ["f(10)", "|x-3|", r"\lfloor3\rfloor", r"\sin^{-1}(3)", r"\sin x/2", "1/2x", r"\sum_{k=1}^{9}k"]
CAREFUL = [r"\int_0^{10}xdx", "x^12", "x^2+|10x|=5"]
"""Where the fast prediction finds no tree."""


def bodies() -> list[str]:
    """Of all answers in the table of pairs that math-verify could be asked about."""
    with Grader() as grader:
        forms = [grader._form(grader.form(answer)) for pair in (*EQUAL, *UNEQUAL) for answer in pair]
    return sorted({form.body for form in forms if form.body and not form.opaque})


@pytest.mark.parametrize("form", [*FAST, *CAREFUL, *bodies()])
def test_two_stages_find_the_tree_that_one_finds(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = tree_or_error(form)
    monkeypatch.setattr(latex2sympy2, "PSParser", TwoStageParser)
    assert tree_or_error(form) == expected


POWERS = [
    *("x^2+|3x|=5", "|x^{12}-3|", r"\frac{x^2}{|x|}", r"\sqrt{x^2+|x|}", "f(x^2)", "|x^2-4|<3", "(x^2,|x|)"),
    *("1/2x^2", "x^2(x)", "x^{2}(3)", r"\sin x^2/2", r"\log_2 x^2", "a+x^2b^3", "-x^2", "x^2!", "3^{x^2}"),
    *("x^2y", "|x|x^{10}", r"\{x^2,|x|\}", r"x^2\text{ if }y>0", "x^12", "y_x^2", "x^2_1", r"x^2\%", "e^2"),
    *("P=x^2|y|", "a,x^2,|x|", "I^2", "f^2(x)", r"\vec{x}+x^2", r"\lfloor x^2\rfloor", "x^{10}(x)"),
]


@pytest.mark.parametrize("letter", "xdfACT")
def test_the_easier_spelling_of_powers_has_the_same_tree(letter: str) -> None:
    forms = [re.sub(r"(?<![a-z])x", letter, form) for form in POWERS]
    rewritten = [easier(form) for form in forms]
    assert sum(a != b for a, b in zip(forms, rewritten, strict=True)) > len(POWERS) // 2
    assert [trees(form) for form in rewritten] == [trees(form) for form in forms]


@pytest.mark.parametrize("form", ["e^2", "i^2", "I^{2}", "x^2_1", "f(x^2)", "f^2(x)", r"\alpha^2", "x_n^2"])
def test_other_powers_are_read_as_they_stand(form: str) -> None:
    assert easier(form) == form


def trees(form: str) -> list[str]:
    """What math-verify makes of a form as it stands."""
    found = parse(f"\\boxed{{{form}}}", [_LATEX], parsing_timeout=None)
    return [item if isinstance(item, str) else srepr(item) for item in found[:1]]


def tree_or_error(form: str) -> str:
    try:
        return srepr(latex2sympy2.latex2sympy(form, normalization_config=None))
    except Exception as error:  # noqa: BLE001 (its own error listener raises nothing more special)
        return str(error)


@pytest.mark.parametrize("form", [*FAST, *CAREFUL])
def test_the_second_stage_runs_only_where_the_first_finds_nothing(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsers = []

    class Kept(TwoStageParser):
        def math(self) -> TwoStageParser.MathContext:
            parsers.append(self)
            return super().math()

    monkeypatch.setattr(latex2sympy2, "PSParser", Kept)
    latex2sympy2.latex2sympy(form, normalization_config=None)
    modes = {parser._interp.predictionMode for parser in parsers}
    assert modes == {PredictionMode.LL if form in CAREFUL else PredictionMode.SLL}


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("f(3)", "f(4)"),
        ("f(3)", "g(3)"),
        ("f(x)", "f(y)"),
        ("f(x,y)", "f(y,x)"),
        ("f(f(2))", "f(2)^2"),
        ("f(1)=2", "f(3)=2"),
        ("1<f(x)<3", "1<f(x)<4"),
        ("f(x)=3x<4", "f(x)=3x<5"),
        ("x^2+|1999x|=5", "x^2+|2000x|=5"),
        ("2^x+2^{-x}=|2000-x|", "2^x+2^{-x}=|2001-x|"),
        (r"\emptyset\cup\{3\}", r"\emptyset\cup\{4\}"),
        (r"\{1\}\setminus\{3\}", r"\{2\}\setminus\{3\}"),
    ],
)
def test_numbers_tell_answers_apart(a: str, b: str) -> None:
    (kind, first), (other_kind, second) = read(a), read(b)
    assert kind == other_kind and first and second and not may_be_equal(first, second)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("2f(1)", "f(1)+f(1)"),
        ("f(x)+g(x)", "g(x)+f(x)"),
        ("f(x)>0", "0<f(x)"),
        (r"\frac{1}{f(3)}", "f(3)^{-1}"),
        ("1<f(x)<3", "1<f(x)<3.0"),
        (r"[0,9)\setminus\{3\}", r"[0,3)\cup(3,9)"),
        (r"\emptyset\cup\{3,4\}", r"\{4,3\}"),
    ],
)
def test_numbers_agree_where_math_verify_says_equal(a: str, b: str) -> None:
    (kind, first), (other_kind, second) = read(a), read(b)
    assert compare(a, b)
    assert kind == other_kind and first and second and may_be_equal(first, second)


def test_the_middle_of_a_chain_of_equations_has_no_say() -> None:
    """math-verify drops it, so numbers of the middle would prove nothing."""
    assert read("x=f(2)=5") == ("relation", None)


@pytest.mark.parametrize(
    "template",
    [
        "f({n})",
        "f({n})=3",
        "f(x)={n}x<3",
        r"\sin x/{n}",
        "|x^2+{n}|",
        "x+|x^2+{n}|=5",
        r"\emptyset\cup\{{{n}\}}",
    ],
)
@pytest.mark.parametrize("first", [10, 2000])
def test_answers_that_all_differ_are_read_once_and_never_compared(
    template: str, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full comparison takes milliseconds to seconds, and a group of 16 has 120 pairs."""
    asked: list[str] = []
    with Grader() as grader:
        run = grader._pool.run
        monkeypatch.setattr(
            grader._pool, "run", lambda tasks, budget_s: asked.extend(task[0] for task in tasks) or run(tasks)
        )
        forms = [grader.form(template.format(n=n)) for n in range(first, first + 16)]
        assert sorted(grader.classes(forms)) == list(range(16))
    assert asked == ["read"] * 16
