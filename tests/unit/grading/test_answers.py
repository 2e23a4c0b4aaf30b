import re

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_coreward.grading.answers import (
    MAX_FORM_BYTES,
    Parts,
    answer_spans,
    extract_answer,
    normal_form,
    take_apart,
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


def test_extraction_is_linear_in_boxes_that_never_close():
    assert extract_answer(r"\boxed{1}" + r"\boxed{" * 20_000) == "1"


@pytest.mark.parametrize(
    ("answer", "form"),
    [
        (r"\dfrac12", r"\frac{1}{2}"),
        (r"\tfrac{1}2", r"\frac{1}{2}"),
        (r"\left( 1, 2 \right)", "(1,2)"),
        ("x = 5", "x=5"),
        ("f(x)=2x", "f(x)=2x"),
        (r"x \in [0,1)", r"x\in[0,1)"),
        ("(x, y) = (1, 2)", "(x,y)=(1,2)"),
        ("x=5, y=3", "x=5,y=3"),
        ("y=2y+1", "y=2y+1"),
        (r"a=\frac{1}{2}", r"a=\frac{1}{2}"),
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
        (r"\$5.00", r"5\text{dollar}"),
        (r"50\%", r"50\text{percent}"),
        (r"90^\circ", r"90\text{degree}"),
        ("90°", r"90\text{degree}"),
        (r"\sin 30^\circ", r"\sin30^\circ"),
        (r"\sin^{-1} x", r"\arcsin x"),
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
        (r"164 \pi \mbox{ square feet}", r"164\pi\text{ft2}"),
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
    assert normal_form(long, equality)[0] == "#" and len(normal_form(long, equality)) == 65
    assert normal_form(long, equality) == normal_form(long, equality)
    assert normal_form(long, equality) != normal_form(long + "+1", equality)
    assert normal_form("é" * 200, "exact").startswith("#"), "the limit is in bytes"


@pytest.mark.parametrize(
    ("form", "parts"),
    [
        (r"5\text{cm}", Parts("5", unit="cm")),
        ("101_2", Parts("101", unit="_2")),
        ("0.0011_2", Parts("0.0011", unit="_2")),
        ("A5_{11}", Parts("A5", unit="_{11}")),
        ("a_2", Parts("a_2")),
        (r"3\text{or more}", Parts(r"3\text{or more}")),
        ("C", Parts("", choice="C")),
        (r"(C)x=5\text{cm}", Parts("5", "C", "x", "cm")),
        ("f(x)=2x", Parts("2x", name="f(x)")),
        (r"x\in[0,1)", Parts("[0,1)", name="x")),
        ("(x,y)=(1,2)", Parts("(1,2)", name="x,y")),
        ("y=2,x=1", Parts("(1,2)", name="x,y")),
        ("x_1=5,x_2=7", Parts("5,7", name="x")),
        ("x=-9/9=-1", Parts("-9/9=-1", name="x")),
        *((equation, Parts(equation)) for equation in ("y=2y+1", "2x+z=5", "6+7=13", "x<5", "x=y,y=3")),
        ("5", Parts("5")),
    ],
)
def test_parts(form, parts):
    assert take_apart(form) == parts


@given(st.one_of(st.text(), LATEX_LIKE, st.lists(st.sampled_from(PIECES), max_size=30).map("".join)))
def test_never_raises_and_stays_short(text):
    for equality in ("math", "exact"):
        assert len(normal_form(text, equality).encode()) <= MAX_FORM_BYTES
        answer, spans = extract_answer(text, equality), answer_spans(text, equality)
        assert bool(spans) == bool(answer)
        assert spans == sorted(spans) and all(0 <= begin < end <= len(text) for begin, end in spans)
        assert equality == "math" or answer == "".join(text[begin:end] for begin, end in spans)


@pytest.mark.parametrize(
    ("text", "contents", "exact"),
    [
        (r"so \boxed{47}.", ["47"], "47"),
        (r"\boxed{1} no, $\boxed{\frac{1}{2}}$", [r"\frac{1}{2}"], r"\frac{1}{2}"),
        (r"\boxed{2} and \boxed{3}", ["2", "3"], "3"),
        (r"-\boxed{5}", ["5"], "5"),
        (r"\boxed{4}, as in \boxed{}", ["4"], ""),
        (r"\boxed{6} or $\boxed 7$", ["7"], "7"),
        ("none", [], ""),
        (r"\boxed{8", [], ""),
    ],
)
def test_where_the_answer_stands(text, contents, exact):
    assert [text[begin:end] for begin, end in answer_spans(text)] == contents
    assert [text[begin:end] for begin, end in answer_spans(text, "exact")] == [exact] * bool(exact)


@given(LATEX_LIKE.filter(lambda t: t.count("{") == t.count("}") == t.count("\\") == 0), st.text())
def test_a_box_at_the_end_is_found_after_any_text(answer, text):
    boxed = text + "\nHence " + r"\boxed{" + answer + "}"  # straight after a sign, it would be the box's
    assert extract_answer(boxed, "exact") == answer
    if re.search("[0-9x]", answer):
        assert extract_answer(boxed) == answer


@pytest.mark.data
def test_ground_truths_survive_a_box_and_normalisation(math_truths):
    for truth in math_truths:
        assert extract_answer(rf"hence $\boxed{{{truth}}}$.") == truth
        assert (normal_form(truth, "math") == "") == (truth.strip() == "")


@pytest.fixture
def math_truths():
    path = RELEASED_DATA / "math/test.parquet"
    if not path.exists():
        pytest.skip(f"needs {path} (RELEASED_DATA in tests/support/paths.py)")
    rewards = pq.read_table(path, columns=["reward_model"]).column("reward_model").to_pylist()
    return [reward["ground_truth"] for reward in rewards]
