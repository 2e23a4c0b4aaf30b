"""Comparison of values: exact numbers, expressions at points, and collections."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.grading.reader import read_value
from megatron_coreward.grading.values import (
    POINTS,
    Collection,
    Relation,
    Scalar,
    letter,
    may_be_equal,
    number,
    same_value,
)


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("xy", "yx", True),
        ("x", "y", False),
        ("x", "X", False),
        ("x", "-x", False),
        ("x_1", "x_2", False),
        (r"\theta", r"\phi", False),
        (r"\alpha+\alpha", r"2\alpha", True),
        (r"\frac{x^2-1}{x-1}", "x+1", True),
        (r"\sqrt{x^2}", "x", False),
        (r"\sqrt{ab}", r"\sqrt{a}\sqrt{b}", True),
        (r"(\sqrt{x}+1)^2", r"x+2\sqrt{x}+1", True),
        (r"\sqrt{x-2}", r"\sqrt{2-x}", False),
        (r"\ln(x^2)", r"2\ln x", True),
        (r"\sin^2x", r"1-\cos^2x", True),
        (r"\sin2x", r"2\sin x\cos x", True),
        (r"\sin x^2", r"\sin^2x", False),
        (r"2^{n+1}", r"2\cdot2^n", True),
        (r"e^{x+y}", r"e^xe^y", True),
        (r"\sqrt{8}-2\sqrt{2}", "0", True),
        (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", True),
        (r"\sqrt{3+2\sqrt{2}}", r"1+\sqrt{2}", True),
        (r"\sqrt{4}", r"\sqrt[3]{8}", True),
        (r"\pi", "3.14159265358979", False),
        ("10^{30}+1", "10^{30}", False),
        ("10^{-30}", "0", False),
        (r"10^{15}\sqrt{2}", r"10^{15}\sqrt{2}+10^{-9}", False),
        ("3+4i", "4i+3", True),
        ("3+4i", "3-4i", False),
        (r"\frac{1}{1+i}", r"\frac{1-i}{2}", True),
        (r"\cos60^\circ", r"\cos60", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("(1;2)", "(1,2)", True),
        ("1,2", "2,1", True),
        ("1,2", r"\{1,2\}", True),
        ("1,2", "(1,2)", False),
        (r"\{5\}", "5", True),
        (r"\{1,1\}", r"\{1\}", False),
        (r"1\pm2", "-1,3", True),
        (r"\{1\pm2,5\}", "5,3,-1", True),
        (r"\frac{1\pm\sqrt{5}}{2}", r"\frac{1-\sqrt{5}}{2},\frac{1+\sqrt{5}}{2}", True),
        (r"\pm3", "3", False),
        (r"(1,\pm2)", "(1,2),(1,-2)", True),
        (r"(1\pm\sqrt{2})", r"1\pm\sqrt{2}", True),
        ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("[0,\\infty)", "[0,\\infty)", True),
        ("[0,\\infty)", "[0,5)", False),
        (r"(-\infty,0)", r"(\infty,0)", False),
        ("1", r"\infty", False),
        (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)", True),
        (r"(0,1)\cup[1,2)", "(0,2)", True),
        (r"(0,1)\cup(1,2)", "(0,2)", False),
        (r"[0,1]\cup(1,2)", "[0,2)", True),
        (r"(0,3)\cup(1,2)", "(0,3)", True),
        (r"(0,2)\cup(1,2]", "(0,2]", True),
        (r"[0,1)\cup\{1\}", "[0,1]", True),
        (r"\{1\}\cup\{2\}", "1,2", True),
        (r"(0,\sqrt{2})\cup[\sqrt{2},2)", "(0,2)", True),
        ("x<5", "5>x", True),
        ("2x<10", "x<5", True),
        ("-x<5", "x>-5", True),
        ("x<5", "x>5", False),
        ("x<5", r"x\leq5", False),
        ("x<5", "y<5", False),
        (r"x\geq1", r"1\leq x", True),
        (r"x\neq1", r"1-x\neq0", True),
        ("2x+3y=6", "4x+6y=12", True),
        ("2x+3y=6", "6=-(-2x-3y)", True),
        ("2x+3y=6", "2x+3y=7", False),
        ("x=y^2", "x=y^3", False),
        (r"\sqrt{2}x=2", r"x-\sqrt{2}=0", True),
        ("x=5", "5", False),
        ("1<x<3", "x<3,x>1", True),
        (r"1<x\leq3", "1<x<3", False),
        ("x=1,x=2", "2,1", True),
        ("x=1,y=2", "y=2,x=1", True),
        ("x=1,y=2", "x=2,y=1", False),
        (r"\begin{pmatrix}1\\0.5\end{pmatrix}", r"\begin{bmatrix}1\\\frac{1}{2}\end{bmatrix}", True),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}", False),
        (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1&2\end{pmatrix}", False),
        (r"\begin{pmatrix}1&2\end{pmatrix}", "(1,2)", False),
        (r"2\begin{pmatrix}1\\x\end{pmatrix}", r"\begin{pmatrix}2\\2x\end{pmatrix}", True),
        (r"-\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", False),
        ("-(1,2)", "(-1,-2)", True),
        ("-(1,2)", "(1,2)", False),
        (r"\pm(1,2)", "(1,2),(-1,-2)", True),
        ("2(1+2)", "6", True),
        ("0.56=56", "0.57=56", False),
        ("0.56=56", ".56=56", True),
        (r"\frac{2}{3}\approx0.67", r"\frac{2}{3}\approx0.68", False),
        (r"x\approx2", "x=2", False),
        ("4:30", "8:60", False),
        ("05:00", "5:00", True),
        ("2:4", "1:2", True),
        ("2:05", r"\frac{2}{5}", False),
    ],
)
def test_same_value(a, b, equal):
    assert same_value(read_value(a), read_value(b)) is equal
    assert same_value(read_value(b), read_value(a)) is equal


def test_structure_is_kept():
    interval = read_value(r"[\frac{1}{2},\sqrt{2})")
    assert isinstance(interval, Collection) and interval.kind == "[)"
    assert interval.items[0] == number(Fraction(1, 2))
    relation = read_value("x>5")
    assert isinstance(relation, Relation) and relation.sign == "<"


def test_letters_are_told_apart_at_every_point():
    """Letters whose numbers were tied together (as those of a CRC are) would make the points one."""
    letters = [letter(name) for name in "abcdefghjklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    for point, (low, span) in enumerate(POINTS):
        numbers = [scalar.at[point] for scalar in letters]
        assert all(min(low, low + span) < x < max(low, low + span) for x in numbers)
        assert len(set(numbers)) >= len(letters) - 1
    assert {x > 0 for x in (scalar.at[-1] for scalar in letters)} == {True, False}


@given(st.fractions(), st.fractions())
def test_fractions_are_exact(a, b):
    def spelled(f):
        return rf"\frac{{{f.numerator}}}{{{f.denominator}}}"

    assert same_value(read_value(spelled(a)), read_value(spelled(b))) is (a == b)
    assert read_value(f"{spelled(a)}+{spelled(b)}") == number(a + b)


@given(st.lists(st.integers(-9, 9), min_size=1, max_size=5), st.integers(-9, 9))
def test_polynomials_are_equal_when_their_coefficients_are(coefficients, shift):
    def spelled(numbers, variable):
        return "+".join(f"({c}){variable}^{power}" for power, c in enumerate(numbers))

    shifted = spelled(coefficients, f"(x+({shift}))")
    other = [*coefficients[:-1], coefficients[-1] + 1]
    assert same_value(read_value(shifted), read_value(spelled(coefficients, f"({shift}+x)")))
    assert not same_value(read_value(shifted), read_value(spelled(other, f"(x+({shift}))")))


def test_a_scalar_without_letters_is_one_number():
    assert len(read_value("1+1").at) == 1 and len(read_value("x+1").at) == len(POINTS)
    assert isinstance(read_value("x"), Scalar)


def test_may_be_equal_takes_numbers_in_any_order_and_rounded():
    assert may_be_equal([1, 2 + 1j], [2 + 1j + 1e-12, 1])
    assert not may_be_equal([1, 1], [1, 2])
    assert not may_be_equal([1], [1, 1])
    assert may_be_equal([float("inf")], [float("inf")]) and not may_be_equal([float("inf")], [1])
