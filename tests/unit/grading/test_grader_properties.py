"""Properties of the grader for any answers: no exception, no hang, symmetry, classes independent of order."""

import random
import time

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.grading.grader import NO_ANSWER, Grader
from tests.cases.answers import EQUAL, UNEQUAL
from tests.cases.spellings import mutated, rewritten
from tests.support.paths import RELEASED_DATA

KNOWN = sorted({answer for pair in (*EQUAL, *UNEQUAL) for answer in pair})
PIECES = [
    r"\frac",
    r"\sqrt",
    r"\boxed{",
    r"\text{",
    r"\begin{pmatrix}",
    r"\end{pmatrix}",
    r"\\",
    "&",
    r"\left(",
]
PIECES += [
    r"\right]",
    r"\{",
    r"\}",
    r"\pm",
    r"\cup",
    r"\infty",
    r"\sin",
    r"\log_",
    r"\int_0^1",
    r"\sum_{k=1}^n",
]
PIECES += [r"\lim", r"\leq", r"\pi", "10", "0.5", *"^_{}()[],;:=<+-*/!|%$.0129xyie é∞\n\0"]
ANSWERS = st.one_of(
    st.sampled_from(KNOWN),
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.text(max_size=12),
)

HANGING = [  # for sympy, or for a reader that goes back and forth
    "9^{9^{9^9}}",
    "2^{2^{2^{2^{2^{2}}}}}",
    "10^{10^{10}}!",
    "(10^{10})!",
    "((((9!)!)!)!)!",
    "99999!!",
    r"\binom{10^{9}}{10^{8}}",
    r"\sqrt{2}^{9^{9}}",
    r"(x+1)^{100000}",
    r"(x+y+z)^{400}",
    r"\lfloor9^{9^{9^9}}\rfloor",
    r"\sum_{k=1}^{10^{12}}\frac{1}{k^2+k!}",
    r"\prod_{k=1}^{10^{10}}k",
    r"\int_0^1\int_0^1e^{-x^4y^4}\sin(xy)dxdy",
    r"\lim_{n\to\infty}(1+\frac{1}{n})^{n^{n}}",
    r"\sqrt{2+" * 20 + "2" + "}" * 20,
    r"e^{" * 20 + "2" + "}" * 20,
    r"\frac{1}{1+" * 20 + "x" + "}" * 20,
    "^".join("9" * 60),
    "{" * 120 + "1" + "}" * 120,
    "(" * 120 + "1" + ")" * 120,
    "{" * 250,
    "[" * 250,
    r"\frac" * 50,
    r"\sqrt" * 50,
    r"\left(" * 40,
    "|" * 250,
    "-" * 250,
    "1,1" + ",1" * 120,
    "+".join(rf"\sqrt{{{n}}}" for n in range(2, 25)),
    "+".join(rf"\sin^{n}x" for n in range(2, 9)),
    "x" * 250,
    "1" * 250 + "!",
    r"\text{" * 30 + "}" * 30,
    r"1\pm2" * 40,
    r"\cup".join(["(0,1)"] * 30),
    r"\begin{pmatrix}" * 10 + "1",
]


def classes_of(grader, forms):
    return grader.classify([forms])[0]


@pytest.fixture(scope="module")
def grader():
    grader = Grader(timeout_s=1.0)
    yield grader


@settings(max_examples=60, deadline=None)
@given(st.lists(ANSWERS, max_size=5), st.randoms(use_true_random=False))
def test_any_answers_fall_into_classes_that_do_not_depend_on_order(grader, answers, rng):
    forms = [grader.form(answer) for answer in answers]
    classes = classes_of(grader, forms)
    assert [number == NO_ANSWER for number in classes] == [form == "" for form in forms]
    shuffled = rng.sample(range(len(forms)), len(forms))
    fresh = Grader(timeout_s=1.0)
    assert classes_of(fresh, [forms[i] for i in shuffled]) == [classes[i] for i in shuffled]


@settings(max_examples=60, deadline=None)
@given(ANSWERS, ANSWERS)
def test_equality_is_symmetric_and_reflexive(grader, a, b):
    first, second = grader.form(a), grader.form(b)
    assert grader.equal(first, second) is grader.equal(second, first)
    assert grader.equal(first, first) is (first != "")


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KNOWN))
def test_another_spelling_of_an_answer_is_equal(grader, answer):
    for name, spelling in rewritten(answer).items():
        if name in ("period", "displaystyle", "dollars", "dfrac", "left, right", "trailing zero"):
            assert grader.equal(grader.form(answer), grader.form(spelling)), (name, spelling)


@pytest.mark.parametrize("answer", HANGING)
def test_known_hangs_cost_their_time_limit_at_most(grader, answer):
    """A second of CPU time for reading it and one for comparing, and a new process after each."""
    started = time.monotonic()
    form = grader.form(answer)
    timeouts = grader.timeouts
    assert not grader.equal(form, "|x-1|") and not grader.equal(form, "1234")
    assert grader.timeouts - timeouts <= 2
    assert time.monotonic() - started < 30
    assert grader.equal(form, form) is (form != "")


def test_hangs_in_one_batch_do_not_touch_its_other_answers(grader):
    answers = [*HANGING, "|x-1|", "|1-x|", r"\frac12", "0.5"]
    classes = classes_of(grader, [grader.form(answer) for answer in answers])
    assert classes[-4] == classes[-3] and classes[-2] == classes[-1]
    assert not set(classes[-4:]) & set(classes[:-4])


@pytest.mark.data
def test_ground_truths_equal_their_spellings_and_not_their_mutants():
    """600 ground truths of MATH. Mutants of which a float says that they differ."""
    folder = RELEASED_DATA / "math"
    if not folder.exists():
        pytest.skip(f"needs {folder}")
    tables = [pq.read_table(folder / f"{name}.parquet") for name in ("train_original", "test")]
    truths = {row["ground_truth"] for t in tables for row in t.column("reward_model").to_pylist()}
    sample = random.Random(0).sample(sorted(truth for truth in truths if truth.strip()), 600)
    grader = Grader(timeout_s=10.0)
    spelled = [(truth, text) for truth in sample for text in rewritten(truth).values()]
    verdicts = grader.equal_many([(grader.form(a), grader.form(b)) for a, b in spelled])
    assert [pair for pair, equal in zip(spelled, verdicts, strict=True) if not equal] == []
    wrong = [(t, m) for t in sample for m in mutated(t).values() if _differ(t, m)]
    assert len(wrong) > 600
    verdicts = grader.equal_many([(grader.form(a), grader.form(b)) for a, b in wrong])
    assert [pair for pair, equal in zip(wrong, verdicts, strict=True) if equal] == []
    assert grader.timeouts == 0


def _differ(truth, mutant):
    """Whether both are plain numbers, and not the same."""
    try:
        return float(truth) != float(mutant)
    except ValueError:
        return False
