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


def classes_of(grader, forms):
    return grader.classify([forms])[0]


@pytest.fixture(scope="module")
def grader():
    grader = Grader(timeout_s=10.0)
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
        classes = dict(zip(order, classes_of(grader, order), strict=True))
        assert len({classes[form] for form in forms[: len(apart)]}) == len(apart)
        alone = classes[grader.form(vague)]
        assert [form for form in classes if classes[form] == alone] == [grader.form(vague)]
    truth, other = grader.form(apart[0]), grader.form(apart[1])
    with_truth = classes_of(grader, [other, grader.form(vague), truth])
    assert with_truth[0] != with_truth[2], "a ground truth in the group is no bridge either"


VALUES = [
    ["7", "7.0", r"\frac{14}{2}", "x=7", "3+4=7"],
    ["2500", "2,500", r"2\,500", "2{,}500", "2.5 thousand"],
    [r"\frac{3}{4}", "0.75", r"\frac34", "3/4", ".750"],
    [r"2\sqrt{3}", r"\sqrt{12}", "2√3", r"2\sqrt3\approx3.46"],
    ["-5", "−5", r"-\frac{10}{2}", "- 5"],
    [r"3\pi", "3π", r"\pi\cdot3", "3 pi"],
    ["x+1", "1+x", r"\mathrm{x}+1"],
    ["(1,2)", r"\left(1, 2\right)", "(1.0,2)", "（1，2）"],
    [r"\{1,2\}", "2, 1", r"1\text{ and }2", r"\{1,2,2\}"],
    ["[0,3)", r"[0,1]\cup(1,3)", r"x\in[0,3)"],
    ["3+4i", r"4\mathrm{i}+3", "3+4i."],
    ["x<5", "5>x", r"2x<10"],
    ["No", r"\text{no}", "NO"],
    ["user0", r"\text{user0}"],
    ["1,2,3,...", r"1, 2, 3, \ldots"],
    ["2 2/3", r"2\frac{2}{3}", r"\frac83", r"2.\overline{6}"],
]
UNITED = 6
"""So many of the values are numbers, which may have a unit."""
WRAPPERS = ["{}", "${}$", r"\displaystyle {}", r"\color{{red}}{{{}}}", "= {}", "{} ", r"\text{{Answer: }}{}"]
UNITS = [["cm", "centimeters"], ["km", "kilometers"], ["hours", "hr"], ["dollars", "US-Dollar"]]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_groups_of_spellings_fall_into_the_classes_that_they_were_made_from(grader, data):
    """Two or three values, or one with two or three units and bare as well, in several spellings each."""
    made = []
    if data.draw(st.booleans()):
        for label in data.draw(
            st.lists(st.sampled_from(range(len(VALUES))), min_size=2, max_size=3, unique=True)
        ):
            made += [(spelling, label) for spelling in data.draw(spellings_of(VALUES[label]))]
    else:
        spellings = VALUES[data.draw(st.sampled_from(range(UNITED)))][:2]
        units = data.draw(st.lists(st.sampled_from(UNITS), min_size=2, max_size=3, unique_by=tuple))
        for names in units:
            written = [rf"{spelling}\text{{ {name}}}" for spelling in spellings for name in names]
            made += [(spelling, names[0]) for spelling in data.draw(spellings_of(written))]
        made += [(spelling, "bridge") for spelling in data.draw(spellings_of(spellings))]
    order = data.draw(st.permutations(made))
    classes = classes_of(grader, [grader.form(answer) for answer, _ in order])
    labels = [label for _, label in order]
    assert len(set(zip(classes, labels, strict=True))) == len(set(classes)) == len(set(labels)), order


def spellings_of(texts):
    wrapped = st.builds(str.format, st.sampled_from(WRAPPERS), st.sampled_from(texts))
    return st.lists(wrapped, min_size=1, max_size=4)


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
    ]
    answers += [
        "1,2",
        r"\{1,2\}",
        r"\left\{x\right.",
        "}",
        "{",
        "$5$",
        r"x=\boxed{3}",
        "é",
        "#" + "0" * 64,
        "1" * 300,
    ]
    boxes = [r"\boxed{%s}"] * 6 + [
        r"\boxed %s",
        r"$\boxed {%s}$",
        r"\fbox{%s}",
        r"\boxed%s",
        r"\boxed{%s",
        r"\boxedx{%s}",
    ]
    grader, found = Grader("exact"), 0
    for _ in range(10_000):
        texts = [
            " and ".join(rng.choice(boxes) % rng.choice(answers) for _ in range(rng.choice([0, 1, 1, 2, 3])))
            + rng.choice(["", ".", " $x$ {", "}"])
            for _ in range(rng.randrange(1, 9))
        ]
        assert [extract_answer(text, "exact") for text in texts] == [
            exact.last_box(text) for text in texts
        ], texts
        classes = classes_of(grader, [grader.form(extract_answer(text, "exact")) for text in texts])
        members = [[i for i, c in enumerate(classes) if c == number] for number in dict.fromkeys(classes)]
        expected = exact.partition([exact.last_box(text) for text in texts])
        assert [part for part in members if classes[part[0]] != NO_ANSWER] == expected
        found += len(expected) > 1
    assert found > 5_000
