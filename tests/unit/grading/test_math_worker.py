"""What the worker makes of terms: the trees of math-verify, found sooner, and their numbers."""

import pytest
from latex2sympy2_extended import latex2sympy2
from sympy import srepr

from megatron_coreward.grading.math_worker import TwoStageParser, read
from megatron_coreward.grading.reader import read_value
from tests.cases.answers import EQUAL, UNEQUAL

TERMS = [
    "|x-3|",
    r"\lfloor3\rfloor",
    r"\sin(3)",
    r"\log_{2}({x}^{2})",
    r"{(x+1)}^{2}\cdot |x|",
    r"\max(x,3)",
    r"x\cdot |x|",
]


def asked(*forms: str) -> list[str]:
    """The terms that math-verify is asked about."""
    terms: list[str] = []

    def ask(term):
        terms.append(term[0])

    for form in forms:
        read_value(form, ask)
    return terms


@pytest.mark.parametrize(
    "term", sorted({*TERMS, *asked(*(answer for pair in (*EQUAL, *UNEQUAL) for answer in pair))})
)
def test_two_stages_find_the_tree_that_one_finds(term, monkeypatch):
    expected = srepr(latex2sympy2.latex2sympy(term, normalization_config=None))
    monkeypatch.setattr(latex2sympy2, "PSParser", TwoStageParser)
    assert srepr(latex2sympy2.latex2sympy(term, normalization_config=None)) == expected


@pytest.mark.parametrize(
    ("form", "terms"),
    [
        (r"\lfloor\sin^2x\rfloor", [r"\lfloor {\sin(a)}^{2}\rfloor "]),
        (r"\lfloor\log_2 x\rfloor+\sqrt[3]{y}", [r"\lfloor \log_{2}(a)\rfloor +\sqrt[3]{b}"]),
        (r"\max(|x|,\theta)z^{2}", [r"\max(|a|,b)\cdot {c}^{2}"]),
        (r"\sin^{-1}(1)", [r"\arcsin(1)"]),
        (r"\lceil\sin30^\circ\rceil", [r"\lceil \sin(30\cdot \frac{\pi }{180})\rceil "]),
        *(
            (form, [])
            for form in (
                r"\sin x+|y|",
                r"\max x",
                r"\arcsin x/2",
                r"\lfloor x",
                r"\int_0^1xdx",
                r"\gcd(4,6)",
                "f(2x)",
            )
        ),
    ],
)
def test_math_verify_gets_a_listed_grammar_only(form, terms):
    assert asked(form) == terms


@pytest.mark.parametrize(
    ("term", "numbers"),
    [
        (r"\sin(\frac{\pi }{6})", [0.5]),
        ("|a-1|", [0.5, 4.0]),
        (r"\ln(a)", [-0.6931471805599453, None]),
        (r"\lfloor \frac{7}{a}\rfloor ", [14.0, -3.0]),
        (r"\arcsin(2)", [None]),
        ("(", [None]),
    ],
)
def test_numbers(term, numbers):
    letters = (("a", ("1/2", "-3")),) if "a" in term.replace(r"\frac", "").replace(r"\arcsin", "") else ()
    assert [None if n is None else float(n) for n in read(term, letters)] == pytest.approx(numbers)
