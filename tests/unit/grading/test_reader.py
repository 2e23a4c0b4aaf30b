"""Values of normal forms, without a worker."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.grading.reader import read_value
from megatron_coreward.grading.values import Collection, Scalar, same_value


def read(form):
    return read_value(form, {})


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("12", 12),
        ("-0.25", Fraction(-1, 4)),
        (r"-\frac{3}{-4}", Fraction(3, 4)),
        ("1+2*3-4/2", 5),
        (r"2\cdot3^{2}", 18),
        ("-3^2", -9),
        ("(-3)^2", 9),
        ("2^{-3}", Fraction(1, 8)),
        ("(1+2)(3+4)", 21),
        (r"\sqrt[3]{-8}", -2),
        (r"\sqrt{\frac{9}{16}}", Fraction(3, 4)),
        (r"\sqrt{10^{40}}", 10**20),
        (r"-15\frac{3}{5}", Fraction(-78, 5)),
        ("10!", 3628800),
        (r"\binom{5}{2}", 10),
        ("3:5", Fraction(3, 5)),
        (r"(1+i)(1-i)", 2),
        (r"\sqrt{-4}\sqrt{-9}", -6),
        (r"\sqrt{8}-2\sqrt{2}", 0),
        ("6+7=13", 13),
        ("|-3|", 3),
    ],
)
def test_rational_numbers_are_exact(form, value):
    assert read(form) == Scalar((Fraction(value),))


@pytest.mark.parametrize(
    "form",
    [
        *(
            "",
            "1/2x",
            r"1\frac{3}{2}",
            "2 3",
            "f(2x)",
            "x=",
            "x=y=3",
            "x^12",
            "x^2^3",
            r"\frac12x3",
            "x2",
            "a/b/c",
            "05-3",
            "4:30",
            r"\pm1\pm2",
        ),
        *(
            "(1,2",
            "1,,2",
            "2--3",
            r"\frac{1}",
            r"\sqrt{}",
            "0^0",
            r"\frac{1}{0}",
            "9^{9^{9^9}}",
            "(10^{10})!",
            "x+",
            "|x",
            "{",
        ),
        *(
            r"10^{60}\sqrt{2}+1",
            r"(0,1)\cup3",
            r"A\cup B\setminus C",
            r"(3,2)\cup(4,5)",
            r"\text{a}",
            r"\ldots",
            "x\\approx2",
        ),
        *("(" * 300 + "1" + ")" * 300, r"\sqrt{" * 300 + "2" + "}" * 300, "[" * 90),
    ],
)
def test_what_is_unclear_too_large_or_too_deep_is_not_read(form):
    assert read(form) is None


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("x_1", "x_2", False),
        ("x", "X", False),
        (r"\alpha+\alpha", r"2\alpha", True),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}", True),
        (r"\sqrt{x-2}", r"\sqrt{2-x}", False),
        ("2^{n+1}", r"2\cdot2^n", True),
        (r"\pi", "3.14159265358979", False),
        ("10^{30}+1", "10^{30}", False),
        ("10^{-29}", "0", False),
        (r"\frac{1}{1+i}", r"\frac{1-i}{2}", True),
        ("2f(1)", "f(1)+f(1)", True),
        (r"\sin30^\circ", r"\frac{1}{2}", True),
        (r"\cos60^\circ", r"\cos60", False),
        (r"\sin2x", r"2\sin x\cos x", True),
        (r"\sin x^2", r"\sin^2x", False),
        (r"\sin^22x", r"4\sin^2x\cos^2x", True),
        (r"\ln(x^2)", r"2\ln x", True),
        (r"\log_28", "3", True),
        ("|x-9000|", "9000-x", False),
        ("|x|", "x", False),
        ("|x-|y||", "||y|-x|", True),
        ("|3+4i|", "5", True),
        ("f(x,y)", "f(y,x)", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("1,2", "2,1", True),
        ("1,2", "(1,2)", False),
        ("1,1,2", "1,2", False),
        (r"\{1,1,2\}", r"\{1,2\}", True),
        (r"(1,\pm2)", "(1,2),(1,-2)", True),
        (r"\{1\pm\sqrt{2}\}", r"1-\sqrt{2},1+\sqrt{2}", True),
        ("[0,2)", r"[0,1]\cup(1,2)", True),
        ("(0,2)", r"(0,1)\cup(1,2)", False),
        (r"[0,3]\setminus\{0,1\}", r"(0,1)\cup(1,3]", True),
        (r"(-\infty,\infty)\setminus\{2\}", r"(2,\infty)\cup(-\infty,2)", True),
        (r"[0,5]\setminus[1,2)", r"[0,1)\cup[2,5]", True),
        (r"\{1,2\}\setminus\{2\}", "1", True),
        (r"(0,1)\setminus[0,1]", r"\emptyset", True),
        ("2x+3y=6", "4x+6y=12", True),
        ("2x+3y=6", "2x+3y=7", False),
        ("-2x<10", "x>-5", True),
        ("x<5", "x>5", False),
        ("x<5", r"x\leq5", False),
        ("1<x<3", "3>x>1", True),
        (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{bmatrix}1&\frac{4}{2}\\3&4\end{bmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        ("3:6:9", "1:2:3", True),
        (r"8^{\frac{2}{3}}", "4", True),
        (r"(-\infty,0]\cup[0,\infty)", r"(-\infty,\infty)", True),
        (r"(0,\sqrt{2})\cup(\sqrt{2},3)", r"(0,3)\setminus\{\sqrt{8}-\sqrt{2}\}", True),
        (r"(0,\sqrt{2})\cup(\sqrt{2},3)", "(0,3)", False),
    ],
)
def test_same_value(a, b, equal):
    first, second = read(a), read(b)
    assert first is not None and second is not None
    assert same_value(first, second) is same_value(second, first) is equal


def test_intervals_keep_their_brackets():
    assert read("[0,1)") == Collection("[)", (Scalar((Fraction(0),)), Scalar((Fraction(1),))))


@given(st.fractions(max_denominator=99), st.fractions(max_denominator=99), st.sampled_from("+-*"))
def test_arithmetic_agrees_with_python(a, b, sign):
    text = f"({a.numerator}/{a.denominator}){sign}({b.numerator}/{b.denominator})"
    assert read(text) == Scalar(({"+": a + b, "-": a - b, "*": a * b}[sign],))


@given(st.text(alphabet=r"\{}()[]^_,=<+-/!| 0129axi", max_size=20))
def test_any_text_can_be_read(text):
    read(text)
