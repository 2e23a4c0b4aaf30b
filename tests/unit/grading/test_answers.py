"""Extraction of the last box, and normal forms of answers."""

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.grading.answers import (
    MAX_FORM_BYTES,
    extract_answer,
    is_hashed,
    normal_form,
    split_unit,
)
from tests.support.paths import RELEASED_DATA

LATEX_LIKE = st.text(alphabet=r"\{}()[]$^_,.=+-/ 012ax%" + "\n", max_size=60)
PIECES = [
    r"\boxed",
    r"\boxed{",
    r"\fbox{",
    "{",
    "}",
    r"\frac",
    r"\text{",
    "12",
    " ",
    "x=",
    r"\left(",
    "$",
    r"\{",
]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"so \boxed{5}.", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed 5 then \boxed{7}.", "7"),
        (r"\boxed{7} then \boxed 5.", "5"),
        (r"the answer is $\boxed 12$.", "12"),
        (r"\boxed \frac{1}{2}, done", r"\frac{1}{2}"),
        (r"\boxed{\frac{1}{\sqrt{2}}}", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{x = \boxed{3}}", "3"),
        (r"\boxed{3} and then \boxed{\frac{1}{2", "3"),
        (r"\boxed{\frac{1}{2", ""),
        (r"} \boxed{4} {", "4"),
        (r"\boxed{}", ""),
        (r"\fbox{}", ""),
        (r"\boxedx{5}", ""),
        ("no box", ""),
        ("", ""),
        (r"\boxed", ""),
    ],
)
def test_the_last_complete_box_is_the_answer(text, answer):
    assert extract_answer(text) == answer


def test_extraction_is_linear_in_boxes_that_never_close():
    assert extract_answer(r"\boxed{1}" + r"\boxed{" * 20_000) == "1"


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("x = 5", "5"),
        ("f(x)=2x", "2x"),
        (r"x \in [0,1)", "[0,1)"),
        ("(x, y) = (1, 2)", "(1,2)"),
        ("x=5, y=3", "x=5,y=3"),
        ("y=2y+1", "y=2y+1"),
        (r"a=\frac{1}{2}", r"\frac{1}{2}"),
        ("142.0", "142"),
        ("070", "70"),
        ("-0.50", "-0.5"),
        (".5", "0.5"),
        ("-0", "0"),
        ("+3", "3"),
        ("1,000", "1000"),
        (r"1,\!000", "1000"),
        (r"1{,}234{,}567", "1234567"),
        ("2 3", "2 3"),
        (r"\$5.00", "5"),
        (r"50\%", "50"),
        (r"90^\circ", "90"),
        ("90°", "90"),
        (r"\sin 30^\circ", r"\sin30^\circ"),
        (r"\text{A}", "A"),
        (r"\textbf{(C)}", "C"),
        (r"\text{No solution}", "nosolution"),
        (r"2 \text{ and } 3", "2,3"),
        (r"2, 3, \text{ and } 4", "2,3,4"),
        (r"1, 2, and 3", "1,2,3"),
        ("{5}", "5"),
        ("{1}+{2}", "{1}+{2}"),
        (r"5\text{ cm}^2", r"5\text{cm2}"),
        ("12 apples", r"12\text{apple}"),
        (r"\pi r^{2}", r"\pi r^2"),
        (r"$\displaystyle \sqrt2$", r"\sqrt{2}"),
        (r"\begin{pmatrix} 1 \\ 2 \end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}"),
        ("2 pi", r"2\pi"),
        ("3sqrt(2)", r"3\sqrt{2}"),
        (r"\operatorname{arctan}(1)", r"\arctan(1)"),
        ("5.", "5"),
        (r"\dfrac{1}{29,\!322,\!216}", r"\frac{1}{29322216}"),
        (r"\frac{2469}{20,000}", r"\frac{2469}{20000}"),
        (r"\{1,000,200\}", r"\{1,000,200\}"),
        (r"\dfrac 3 8", r"\frac{3}{8}"),
        (r"164 \pi \mbox{ square feet}", r"164\pi\text{squarefeet}"),
        (r"\approx 8.24 \text{ mph}", r"8.24\text{mph}"),
        (r"\text{1:03 PM}", r"1:03\text{pm}"),
        (r"1:03\text{ p.m.}", r"1:03\text{pm}"),
        (r"\text{4:30 a.m.}", r"4:30\text{am}"),
        ("−3", "-3"),
        ("  ", ""),
        ("", ""),
    ],
)
def test_normal_form(answer, form):
    assert normal_form(answer, "math") == form
    assert normal_form(form, "math") == form, "a normal form is its own"


def test_a_list_is_not_a_number_with_separators():
    assert normal_form("1, 000", "math") == "1,000" != normal_form("1,000", "math")


def test_exact_keeps_the_raw_string():
    assert normal_form(" 5 ", "exact") == " 5 "
    assert normal_form(r"\dfrac12", "exact") == r"\dfrac12"
    assert normal_form(" \n", "exact") == "", "white space is no answer to the reference either"


@pytest.mark.parametrize("equality", ["math", "exact"])
def test_long_answers_cross_as_hashes(equality):
    short, long = "1+" * 127 + "1", "1+" * 200 + "1"
    assert normal_form(short, equality) == short
    assert is_hashed(normal_form(long, equality))
    assert normal_form(long, equality) == normal_form(long, equality)
    assert normal_form(long, equality) != normal_form(long + "+1", equality)
    assert is_hashed(normal_form("é" * 200, "exact")), "the limit is in bytes"
    assert not is_hashed("#1")


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (r"5\text{cm}", ("5", "cm")),
        ("101_2", ("101", "_2")),
        ("-221_3", ("-221", "_3")),
        ("0.0011_2", ("0.0011", "_2")),
        ("A5_{11}", ("A5", "_{11}")),
        ("a_2", ("a_2", "")),
        ("A_5", ("A_5", "")),
        ("5", ("5", "")),
        ("", ("", "")),
    ],
)
def test_split_unit(form, parts):
    assert split_unit(form) == parts


@given(st.one_of(st.text(), LATEX_LIKE, st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_never_raises_and_stays_short(text):
    for equality in ("math", "exact"):
        assert len(normal_form(text, equality).encode()) <= MAX_FORM_BYTES
    extract_answer(text)


@given(LATEX_LIKE.filter(lambda t: t.count("{") == t.count("}") == t.count("\\") == 0), st.text())
def test_a_box_at_the_end_is_found_after_any_text(answer, text):
    assert extract_answer(text + "\n" + r"\boxed{" + answer + "}") == answer


@pytest.mark.data
def test_ground_truths_survive_a_box_and_normalisation(math_truths):
    for truth in math_truths:
        assert extract_answer(rf"hence $\boxed{{{truth}}}$.") == truth
        assert (normal_form(truth, "math") == "") == (truth.strip() == "")


@pytest.fixture
def math_truths():
    path = RELEASED_DATA / "math/test.parquet"
    if not path.exists():
        pytest.skip(f"needs {path}")
    rewards = pq.read_table(path, columns=["reward_model"]).column("reward_model").to_pylist()
    return [reward["ground_truth"] for reward in rewards]
