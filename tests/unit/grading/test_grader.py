"""Equal and unequal answers, time limits and workers of the grader."""

import subprocess
import sys
import time
from itertools import permutations
from pathlib import Path

import pytest

from megatron_coreward.grading import workers
from megatron_coreward.grading.grader import NO_ANSWER, Grader
from megatron_coreward.grading.workers import TIMED_OUT, compute
from tests.cases.answers import EQUAL, UNEQUAL

HANG = r"\lfloor9^{9^{9^9}}\rfloor"  # sympy would write the digits down
TERM, SINE = (r"\sin(0)", ()), ["0.0"]


def classes_of(grader, forms):
    return grader.classify([forms])[0]


@pytest.fixture(scope="module")
def grader():
    grader = Grader(timeout_s=10.0)
    yield grader
    assert grader.timeouts == 0


@pytest.fixture
def nobody_is_asked(monkeypatch):
    monkeypatch.setattr("megatron_coreward.grading.grader.compute", None)


@pytest.mark.parametrize(("a", "b"), EQUAL)
def test_equal_in_both_directions(grader, a, b):
    assert grader.equal(grader.form(a), grader.form(b))
    assert grader.equal(grader.form(b), grader.form(a))


@pytest.mark.parametrize(("a", "b"), UNEQUAL)
def test_unequal_in_both_directions(grader, a, b):
    assert not grader.equal(grader.form(a), grader.form(b))
    assert not grader.equal(grader.form(b), grader.form(a))


def test_no_answer_is_in_no_class_and_equals_nothing(grader):
    assert classes_of(grader, ["", "1", ""]) == [NO_ANSWER, 0, NO_ANSWER]
    assert not grader.equal("", "")
    assert classes_of(grader, []) == []
    assert grader.classify([]) == []


def test_classes_do_not_depend_on_order(grader):
    forms = [grader.form(a) for a in ["0.5", r"\frac12", "", r"\sin(\pi/6)", r"\max(x,3)", r"\max(3,x)", "7"]]
    class_of = dict(zip(forms, classes_of(grader, forms), strict=True))
    assert sorted(class_of.values()) == [NO_ANSWER, 0, 0, 0, 1, 2, 2]
    for order in list(permutations(forms))[::1800]:
        fresh = Grader()
        assert classes_of(fresh, order) == [class_of[form] for form in order]


def test_a_unit_may_be_left_out_but_joins_its_class(grader):
    forms = [grader.form(a) for a in ["5", "5 cm", r"5\text{ cm}"]]
    assert classes_of(grader, forms) == [0, 0, 0]
    assert classes_of(grader, forms[1:] + [grader.form("5 km")]) == [0, 0, 1]
    assert classes_of(grader, [*forms, grader.form("5 km")]) == [0, 1, 1, 2]


def test_long_answers_are_equal_to_themselves_only(grader):
    a, b = grader.form("1+" * 200 + "x"), grader.form("1+" * 200 + "y")
    assert classes_of(grader, [a, b, a, "1"]).count(classes_of(grader, [a, b, a, "1"])[0]) == 2


def test_exact_mode_compares_strings_and_needs_no_process(nobody_is_asked):
    grader = Grader("exact")
    forms = [grader.form(a) for a in ["5", "5.0", " 5", "|x-1|", "|1-x|", "5", ""]]
    assert classes_of(grader, forms) == [1, 2, 0, 4, 3, 1, NO_ANSWER]


def test_simple_answers_need_no_process(nobody_is_asked):
    grader = Grader()
    assert classes_of(grader, ["1", "0.5", r"\frac{1}{2}", "x+1", "(1,2)", "yes"]) == [2, 1, 1, 3, 0, 4]
    assert classes_of(grader, ["nosolution", "thevalueisx>3", "x+1"]) == [0, 1, 2], "nor does prose"
    assert (
        len(set(classes_of(grader, [r"2\sqrt{3}", "x<1", r"(0,1)\cup(2,3)", "1+i", r"1\pm i", "f(3)"]))) == 6
    )
    assert classes_of(grader, ["[" * 99, "(1", "1", "1)", "{" * 50 + "1" + "}" * 50]) == [3, 0, 1, 2, 4]
    assert classes_of(grader, ["9^{9^{9^9}}", "9^{9^{9^8}}", "1"]) == [2, 1, 0], "nor what is far too large"


def test_a_term_that_takes_too_long_costs_one_answer():
    grader = Grader(timeout_s=1e-4)
    slow = r"\max(x,3)"
    assert not grader.equal(slow, r"\max(3,x)")
    assert grader.timeouts == 2
    assert grader.equal(slow, slow), "an answer equals itself"
    started = time.monotonic()
    assert classes_of(grader, [slow, "3", slow, "|x|<5", "5>|x|"]) == [2, 0, 2, 1, 1]
    assert time.monotonic() - started < 1, "a time-out is remembered"
    assert grader.timeouts == 2


def test_what_would_hang_is_not_asked(nobody_is_asked):
    assert len(set(classes_of(Grader(), [HANG, HANG.replace("9^", "8^", 1), "1"]))) == 3


def test_a_process_that_sleeps_costs_one_answer(monkeypatch, tmp_path):
    script = tmp_path / "sleeps.py"
    script.write_text("import time\nprint('ready\\n[[1], 0.1]', flush=True)\ntime.sleep(99)")
    monkeypatch.setattr(workers, "_SCRIPT", script)
    monkeypatch.setattr(workers, "START_LIMIT_S", 1.0)
    assert compute([TERM, TERM], timeout_s=0.1, budget_s=0.2) == [[1], TIMED_OUT]


def test_a_process_that_does_not_start_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(workers, "_SCRIPT", tmp_path / "missing.py")
    with pytest.raises(RuntimeError, match="is math-verify installed"):
        compute([TERM], timeout_s=1.0, budget_s=1.0)


def test_what_comes_when_the_budget_is_used_up_is_left_out():
    terms = [TERM, (HANG, ()), TERM, TERM]
    assert compute(terms, timeout_s=0.3, budget_s=0.2) == [SINE, TIMED_OUT, TIMED_OUT, TIMED_OUT]
    assert compute(terms, timeout_s=0.3, budget_s=0.6) == [SINE, TIMED_OUT, SINE, SINE]


def test_terms_that_all_hang_take_no_more_than_their_budget():
    started = time.monotonic()
    assert compute([(HANG, ())] * 40, timeout_s=0.5, budget_s=1.2) == [TIMED_OUT] * 40
    assert time.monotonic() - started < 30, "three processes, where each term alone takes one"


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
def test_what_is_not_worked_out_or_has_a_condition_equals_itself_only(answer, result, nobody_is_asked):
    grader = Grader()
    forms = [grader.form(text) for text in (answer, result, f" {answer}")]
    first, second, third = classes_of(grader, forms)
    assert first == third != second


def test_several_processes_answer_in_the_order_of_the_questions():
    terms = [(rf"|{n}-4|", ()) for n in range(5)]
    numbers = compute(terms, timeout_s=10.0, budget_s=20.0, workers=2)
    assert [round(float(number)) for (number,) in numbers] == [4, 3, 2, 1, 0]


def test_processes_end_with_their_parent():
    code = (
        "import os, threading, time; from megatron_coreward.grading.workers import compute\n"
        f"threading.Thread(target=compute, args=([({HANG!r}, ())] * 9, 3.0, 9.0)).start(); time.sleep(1)\n"
        "print(os.getpid(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout.readline()
        parents = {path.name: _stat(path)[1] for path in Path("/proc").glob("[0-9]*")}
        worker = next(pid for pid, parent_pid in parents.items() if parent_pid == str(parent.pid))
        parent.kill()
    for _ in range(300):
        if _stat(Path("/proc", worker))[0] in ("Z", ""):
            return
        time.sleep(0.1)
    pytest.fail("the process outlived its parent")


def _stat(process):
    """State of a process and the id of its parent."""
    try:
        return (process / "stat").read_text().rsplit(")", 1)[1].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return ["", ""]


def test_the_process_imports_neither_torch_nor_the_package():
    code = (
        "import runpy, sys; runpy.run_path('megatron_coreward/grading/math_worker.py')\n"
        "print({'torch', 'numpy', 'vllm', 'megatron_coreward'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
