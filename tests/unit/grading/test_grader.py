"""Equal and unequal answers, time limits and workers of the grader."""

import os
import signal
import subprocess
import sys
import time
from itertools import combinations, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.grading.workers import TIMED_OUT, WorkerPool
from tests.cases.answers import EQUAL, UNEQUAL

HANG = r"\lfloor9^{9^{9^9}}\rfloor"  # sympy would write the digits down
TERM, SINE = (r"\sin(0)", ()), ["0.0"]


@pytest.fixture(scope="module")
def grader():
    with Grader(timeout_s=10.0) as grader:
        yield grader
        assert grader.timeouts == 0


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_in_both_directions(grader, a, b):
    assert grader.equal(grader.form(a), grader.form(b))
    assert grader.equal(grader.form(b), grader.form(a))


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_in_both_directions(grader, a, b):
    assert not grader.equal(grader.form(a), grader.form(b))
    assert not grader.equal(grader.form(b), grader.form(a))


def test_no_answer_is_in_no_class_and_equals_nothing(grader):
    assert grader.classes(["", "1", ""]) == [NO_ANSWER, 0, NO_ANSWER]
    assert not grader.equal("", "")
    assert grader.classes([]) == []
    assert grader.classify([]) == []


def test_classes_do_not_depend_on_order(grader):
    forms = [grader.form(a) for a in ["0.5", r"\frac12", "", r"\sin(\pi/6)", r"\max(x,3)", r"\max(3,x)", "7"]]
    class_of = dict(zip(forms, grader.classes(forms), strict=True))
    assert sorted(class_of.values()) == [NO_ANSWER, 0, 0, 0, 1, 2, 2]
    for order in list(permutations(forms))[::1800]:
        with Grader() as fresh:
            assert fresh.classes(order) == [class_of[form] for form in order]


def test_a_unit_may_be_left_out_but_joins_its_class(grader):
    forms = [grader.form(a) for a in ["5", "5 cm", r"5\text{ cm}"]]
    assert grader.classes(forms) == [0, 0, 0]
    assert grader.classes(forms[1:] + [grader.form("5 km")]) == [0, 0, 1]
    assert grader.classes([*forms, grader.form("5 km")]) == [0, 1, 1, 2]


def test_long_answers_are_equal_to_themselves_only(grader):
    a, b = grader.form("1+" * 200 + "x"), grader.form("1+" * 200 + "y")
    assert grader.classes([a, b, a, "1"]).count(grader.classes([a, b, a, "1"])[0]) == 2


def test_exact_mode_compares_strings_and_needs_no_worker():
    with Grader("exact") as grader:
        forms = [grader.form(a) for a in ["5", "5.0", " 5", "|x-1|", "|1-x|", "5", ""]]
        assert grader.classes(forms) == [1, 2, 0, 4, 3, 1, NO_ANSWER]
        assert not grader._pool._idle


def test_simple_answers_need_no_worker():
    with Grader() as grader:
        assert grader.classes(["1", "0.5", r"\frac{1}{2}", "x+1", "(1,2)", "yes"]) == [2, 1, 1, 3, 0, 4]
        assert grader.classes(["nosolution", "thevalueisx>3", "x+1"]) == [0, 1, 2], "nor does prose"
        assert (
            len(set(grader.classes([r"2\sqrt{3}", "x<1", r"(0,1)\cup(2,3)", "1+i", r"1\pm i", "f(3)"]))) == 6
        )
        assert grader.classes(["[" * 99, "(1", "1", "1)", "{" * 50 + "1" + "}" * 50]) == [3, 0, 1, 2, 4]
        assert grader.classes(["9^{9^{9^9}}", "9^{9^{9^8}}", "1"]) == [2, 1, 0], "nor what is far too large"
        assert not grader._pool._idle


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet=r"\{}()[]^_,=<+-/! 0129axi", max_size=12), max_size=4))
def test_any_text_can_be_graded(grader, texts):
    forms = [grader.form(text) for text in texts]
    classes = grader.classes(forms)
    assert [c == NO_ANSWER for c in classes] == [form == "" for form in forms]
    for (form_a, a), (form_b, b) in combinations(zip(forms, classes, strict=True), 2):
        assert form_a != form_b or a == b


def test_a_hang_costs_one_answer():
    with Grader(timeout_s=1.0) as grader:
        started = time.monotonic()
        assert not grader.equal(HANG, r"\sin1")
        assert time.monotonic() - started < 20
        assert grader.timeouts == 1
        assert grader.equal(r"\lceil2.5\rceil", "3"), "the next answer gets a new process"
        started = time.monotonic()
        assert grader.classes([HANG, "3", HANG, "|x|<5", "5>|x|"]) == [2, 0, 2, 1, 1]
        assert time.monotonic() - started < 1, "a time-out is remembered"
        assert grader.timeouts == 1


def test_a_worker_that_sleeps_or_dies_costs_one_answer():
    pool = WorkerPool(1, timeout_s=0.3)
    try:
        assert pool.run([TERM]) == [SINE]
        os.kill(pool._idle[0].pid, signal.SIGSTOP)
        assert pool.run([TERM, TERM])[0] is TIMED_OUT
        os.kill(pool._idle[0].pid, signal.SIGKILL)
        assert pool.run([TERM]) in ([SINE], [TIMED_OUT])
        assert pool.run([TERM]) == [SINE]
    finally:
        pool.close()


def test_what_comes_when_the_budget_is_used_up_is_left_out():
    pool = WorkerPool(1, timeout_s=0.3)
    try:
        tasks = [TERM, (HANG, ()), TERM, TERM]
        assert pool.run(tasks, budget_s=0.2) == [SINE, TIMED_OUT, TIMED_OUT, TIMED_OUT]
        assert pool.run(tasks, budget_s=0.6) == [SINE, TIMED_OUT, SINE, SINE]
    finally:
        pool.close()


def test_answers_that_all_hang_take_no_more_than_their_budget(monkeypatch):
    monkeypatch.setattr("megatron_coreward.grading.grader.TERM_S", 0.01)
    hanging = [HANG.replace("9^{9^{9", f"{n}^{{9^{{9", 1) for n in range(20, 40)]
    with Grader(timeout_s=0.5) as grader:
        started = time.monotonic()
        assert grader.classes(hanging) == list(range(20))
        assert time.monotonic() - started < 10, "each alone takes 0.5 s and a new process"
        assert grader.timeouts == 20


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (r"\int_0^2xdx", "2"),
        (r"\sum_{k=1}^3k", "6"),
        (r"\prod_{k=1}^3k", "6"),
        (r"\lim_{x\to0}x", "0"),
        (r"\frac{d}{dx}x^5", "x^4"),
        (r"\frac{dy}{dx}", r"\frac{y}{x}"),
        (r"[0,3]\cap[1,9)", "[1,3]"),
        (r"1\text{ if }x>0", "2ifx>0"),
        (r"f(x)=x\text{ for }x\geq 0", "x"),
    ],
)
def test_what_is_not_worked_out_or_has_a_condition_equals_itself_only(answer, result):
    with Grader() as grader:
        forms = [grader.form(text) for text in (answer, result, f" {answer}")]
        first, second, third = grader.classes(forms)
        assert first == third != second
        assert not grader._pool._idle, "nobody is asked"


def test_several_workers_answer_in_the_order_of_the_questions():
    pool = WorkerPool(2, timeout_s=10.0)
    try:
        tasks = [(rf"|{n}-4|", ()) for n in range(12)]
        assert [round(float(number)) for (number,) in pool.run(tasks)] == [abs(n - 4) for n in range(12)]
        assert len(pool._idle) == 2
    finally:
        pool.close()


def test_workers_end_with_their_parent():
    code = (
        "import os; from megatron_coreward.grading.workers import WorkerPool\n"
        "pool = WorkerPool(1, 5.0); pool.run([('1', ())])\n"
        "print(pool._idle[0].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    worker = int(parent.stdout)
    for _ in range(100):
        if not _running(worker):
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


def _running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_the_worker_imports_neither_torch_nor_the_package():
    code = (
        "import runpy, sys; runpy.run_path('megatron_coreward/grading/math_worker.py')\n"
        "print({'torch', 'numpy', 'vllm', 'megatron_coreward'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
