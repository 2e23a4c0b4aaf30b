from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.coreward.values import Collection, may_be_equal, points, read_value, same_value


@pytest.mark.parametrize(
    ("form", "value"),
    [
        ("12", 12),
        ("-0.25", Fraction(-1, 4)),
        (r"\frac{1}{2}", Fraction(1, 2)),
        (r"-\frac{3}{-4}", Fraction(3, 4)),
        ("3/4", Fraction(3, 4)),
        ("1+2*3-4/2", 5),
        (r"2\cdot3^{2}", 18),
        ("-3^2", -9),
        ("(-3)^2", 9),
        ("2^{-3}", Fraction(1, 8)),
        ("2(3+4)", 14),
        ("(1+2)(3+4)", 21),
        (r"\sqrt{4}", 2),
        (r"\sqrt[3]{27}", 3),
        (r"4^{\frac{1}{2}}", 2),
    ],
)
def test_numbers(form, value):
    assert same_value(read_value(form), Fraction(value))


@pytest.mark.parametrize(
    "form",
    [
        "",
        "1/2x",
        r"1\frac{1}{2}",
        "2 3",
        "f(x)",
        "2i",
        r"\sin1",
        "x=5",
        "x<5",
        "x^12",
        r"\frac12x3",
        "1/0",
        "(1",
        "1)",
        "(1,",
        "()",
        ",",
        r"\sqrt{-1}",
        r"(-8)^{\frac{1}{3}}",
        "9^{9^{9^9}}",
        "10^{10^{10}}!",
        "x_1",
        "|x|",
        "0^0^0",
        "(" * 100 + "1" + ")" * 100,
        r"\infty-\infty",
        "٣",
    ],
)
def test_what_is_outside_or_ambiguous_is_left_alone(form):
    assert read_value(form) is None


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        ("x^2+2x+1", "(x+1)^2", True),
        ("xy", "yx", True),
        ("x", "y", False),
        (r"\sqrt{8}-2\sqrt{2}", "0", True),
        (r"\frac{1}{\sqrt{3}}", r"\frac{\sqrt{3}}{3}", True),
        (r"\pi", "3.14159265358979", False),
        ("10^{30}+1", "10^{30}", False),
        (r"10^{15}\sqrt{2}", r"10^{15}\sqrt{2}+10^{-9}", False),
        ("(1,2)", "(2,1)", False),
        ("(1,2)", "[1,2]", False),
        ("1,2", "2,1", True),
        ("1,2", r"\{1,2\}", True),
        ("1,2", "(1,2)", False),
        (r"\{5\}", "5", True),
        (r"\{1,1\}", r"\{1\}", False),
        ("(1,2),(3,4)", "(3,4),(1,2)", True),
        ("[0,\\infty)", "[0,\\infty)", True),
        ("[0,\\infty)", "[0,5)", False),
        ("1", r"\infty", False),
    ],
)
def test_same_value(a, b, equal):
    assert same_value(read_value(a), read_value(b)) is equal
    assert same_value(read_value(b), read_value(a)) is equal


def test_a_tuple_is_read_in_full():
    value = read_value(r"[\frac{1}{2},\sqrt{2})")
    assert isinstance(value, Collection) and value.brackets == "[)"
    assert value.items[0] == Fraction(1, 2) and isinstance(value.items[1], Decimal)


@given(st.fractions(), st.fractions())
def test_fractions_are_exact(a, b):
    def spelled(f):
        return rf"\frac{{{f.numerator}}}{{{f.denominator}}}"

    assert same_value(read_value(spelled(a)), read_value(spelled(b))) is (a == b)
    assert read_value(f"{spelled(a)}+{spelled(b)}") == a + b


@given(st.text(alphabet=r"0123456789xye+-*/^(){}[],.\ " + "\\", max_size=40))
def test_never_raises(form):
    value = read_value(form)
    if value is not None:
        assert same_value(value, value) and may_be_equal(points(value), points(value))


def test_may_be_equal_takes_numbers_in_any_order_and_rounded():
    assert may_be_equal([1, 2 + 1j], [2 + 1j + 1e-9, 1])
    assert not may_be_equal([1, 1], [1, 2])
    assert not may_be_equal([1], [1, 1])
    assert may_be_equal([float("inf")], [float("inf")]) and not may_be_equal([float("inf")], [1])
