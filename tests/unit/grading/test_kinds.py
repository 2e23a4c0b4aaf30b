"""Answers that models write, by kind (tests/cases/kinds.py)."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.grading.answers import extract_answer
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from tests.cases.kinds import APART, BOXES, EQUAL_BY_KIND, UNEQUAL_BY_KIND
from tests.oracles import exact


def pairs(kinds):
    return [pytest.param(a, b, id=f"{kind}: {a}, {b}") for kind, found in kinds.items() for a, b in found]


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout_s=10.0) as grader:
        yield grader
        assert grader.timeouts == 0


@pytest.mark.parametrize(("a", "b"), pairs(EQUAL_BY_KIND))
def test_equal_in_both_directions(grader, a, b):
    assert grader.equal(grader.form(a), grader.form(b))
    assert grader.equal(grader.form(b), grader.form(a))


@pytest.mark.parametrize(("a", "b"), pairs(UNEQUAL_BY_KIND))
def test_unequal_in_both_directions_and_equal_to_themselves(grader, a, b):
    assert not grader.equal(grader.form(a), grader.form(b))
    assert not grader.equal(grader.form(b), grader.form(a))
    assert grader.equal(grader.form(a), grader.form(f" {a} "))


@pytest.mark.parametrize(("text", "answer"), BOXES)
def test_which_box_counts(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(("apart", "vague"), APART)
def test_an_answer_that_says_less_joins_no_two_that_contradict_each_other(grader, apart, vague):
    forms = [grader.form(answer) for answer in (*apart, vague, *apart, vague)]
    for order in (forms, forms[::-1]):
        classes = dict(zip(order, grader.classes(order), strict=True))
        assert len({classes[form] for form in forms[: len(apart)]}) == len(apart)
        alone = classes[grader.form(vague)]
        assert [form for form in classes if classes[form] == alone] == [grader.form(vague)]
    truth, other = grader.form(apart[0]), grader.form(apart[1])
    with_truth = grader.classes([other, grader.form(vague), truth])
    assert with_truth[0] != with_truth[2], "a ground truth in the group is no bridge either"


NUMBERS = ["7", "12", "2500", r"\frac{3}{4}", r"2\sqrt{3}", "-5", "0.5", r"3\pi", "x+1", "(1,2)"]
SPELLINGS = [
    "{}",
    "${}$",
    r"\displaystyle {}",
    r"\mathbf{{{}}}",
    r"\color{{red}}{{{}}}",
    "= {}",
    "{}.",
    r"\text{{Answer: }}{}",
]
UNITS = [["cm", "centimeters"], ["km", "kilometers"], ["hours", "hr"], ["dollars", "US-Dollar"]]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_groups_of_spellings_fall_into_the_classes_that_they_were_made_from(grader, data):
    """Two or three values, each in several spellings; of some every spelling has the value's own unit."""
    values = data.draw(st.lists(st.sampled_from(NUMBERS), min_size=2, max_size=3))
    units = data.draw(st.permutations(UNITS))
    made = []
    for label, (value, names) in enumerate(zip(values, units, strict=False)):
        united = values.count(value) > 1 or data.draw(st.booleans())
        for spelling in data.draw(st.lists(st.sampled_from(SPELLINGS), min_size=1, max_size=4)):
            written = value + rf"\text{{ {data.draw(st.sampled_from(names))}}}" if united else value
            made.append((spelling.format(written), label))
    bridges = [value for value in set(values) if values.count(value) > 1]
    made += [(value, f"bridge {value}") for value in bridges]
    order = data.draw(st.permutations(made))
    classes = grader.classes([grader.form(answer) for answer, _ in order])
    assert len(set(classes)) == len(set(zip(classes, (label for _, label in order), strict=True)))
    assert len({label for _, label in order}) == len(set(classes)), order


def test_exact_is_the_authors_rule_on_random_groups():
    rng = random.Random(0)
    answers = [
        "5",
        "5.0",
        " 5",
        r"\frac{1}{2}",
        r"\dfrac12",
        "",
        " ",
        "x=5",
        r"5\text{ cm}",
        "no",
        "No",
        "{5}",
        "1,2",
    ]
    with Grader("exact") as grader:
        for _ in range(10_000):
            texts = [
                rf"first \boxed{{{rng.choice(answers)}}}, then $\boxed{{{rng.choice(answers)}}}$."
                if rng.random() < 0.9
                else "no box"
                for _ in range(rng.randrange(1, 9))
            ]
            forms = [grader.form(extract_answer(text, "exact")) for text in texts]
            expected = exact.partition([exact.last_box(text) for text in texts])
            classes = grader.classes(forms)
            found = [[i for i, c in enumerate(classes) if c == number] for number in dict.fromkeys(classes)]
            assert [part for part in found if classes[part[0]] != NO_ANSWER] == expected
