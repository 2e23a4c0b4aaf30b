"""What the worker makes of terms: the trees of math-verify, found sooner, and their numbers."""

import pytest
from latex2sympy2_extended import latex2sympy2
from sympy import srepr

from megatron_coreward.grading.math_worker import TwoStageParser, read
from megatron_coreward.grading.reader import terms_of

TERMS = [
    r"\lfloor3.5\rfloor",
    r"\lfloor\log_2(7)+\sqrt[3]{x}\rfloor",
    r"\max(x,3,\frac{1}{2})",
    r"\min(-2x^2,{x}^{y})",
    r"\max((x+1)^2,2xy)",
    r"\arcsin(\frac{1}{2})",
    r"\arctan\frac{1}{2}",
    r"\arccos(-\sqrt{3}\cdot\sqrt{1-y^2}+2)",
    r"\lceil\frac{2\pi}{x}\rceil",
]


@pytest.mark.parametrize("term", TERMS)
def test_two_stages_find_the_tree_that_one_finds(term, monkeypatch):
    assert [text for text, _ in terms_of(term)] == [term], "it is in the grammar"
    expected = srepr(latex2sympy2.latex2sympy(term, normalization_config=None))
    monkeypatch.setattr(latex2sympy2, "PSParser", TwoStageParser)
    assert srepr(latex2sympy2.latex2sympy(term, normalization_config=None)) == expected


@pytest.mark.parametrize(
    ("form", "terms"),
    [
        (r"2\lfloor x\rfloor+|y|<\max(x,3)", [r"\lfloor x\rfloor", r"\max(x,3)"]),
        (r"\arcsin(1),\arccos(1)", [r"\arcsin(1)", r"\arccos(1)"]),
        *(
            (form, [])
            for form in (
                r"\sin x+|y|",
                r"\max x",
                r"\arcsin x/2",
                r"\arcsin(1)^2",
                r"\lfloor x",
                r"\lfloor2 3\rfloor",
                r"\lfloor2\frac{1}{3}\rfloor",
                r"\lfloor x2\rfloor",
                r"\lceil f(2)\rceil",
                r"\max(x,i)",
                r"\max(3!,2)",
                r"\lfloor\sin30^\circ\rfloor",
                r"\int_0^1xdx",
                r"\gcd(4,6)",
                "f(2x)",
            )
        ),
    ],
)
def test_math_verify_gets_a_listed_grammar_only(form, terms):
    assert [text for text, _ in terms_of(form)] == terms


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
def test_numbers(term, numbers, monkeypatch):
    monkeypatch.setattr(latex2sympy2, "PSParser", TwoStageParser)
    letters = (("a", ("1/2", "-3")),) if "a" in term.replace(r"\frac", "").replace(r"\arcsin", "") else ()
    assert [None if n is None else float(n) for n in read(term, letters)] == pytest.approx(numbers)
