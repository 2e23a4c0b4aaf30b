import os
import random
import signal
import subprocess
import sys
import time
from itertools import combinations, permutations

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron_coreward.coreward.grader import NO_ANSWER, Grader
from megatron_coreward.coreward.workers import TIMED_OUT, WorkerPool

EQUAL = [
    # method 5.1, 5.2
    (r"\dfrac12", r"\frac{1}{2}"),
    ("(1,2)", "(1, 2)"),
    ("x=5", "5"),
    ("5 ", "5"),
    ("142", "142.0"),
    ("1,000", "1000"),
    ("0.25", r"\frac{1}{4}"),
    (r"\text{A}", "A"),
    (r"\sqrt8", r"2\sqrt2"),
    ("{5}", "5"),
    ("x^2+2x+1", "(x+1)^2"),
    # decided in process
    (r"\frac{2}{4}", "1/2"),
    ("50\\%", "50"),
    (r"90^\circ", "90"),
    (r"\$5.00", "5"),
    ("(A)", "A"),
    ("070", "70"),
    (r"\{1,2\}", r"\{2, 1\}"),
    ("1,2", r"\{1,2\}"),
    (r"x\in[0,1)", "[0,1)"),
    ("y=2x+1", "2x+1"),
    ("Yes", r"\text{yes}"),
    (r"5\text{ cm}", "5"),
    ("5 cm", r"5\,\mathrm{cm}"),
    ("101_2", "101_{2}"),
    ("101_2", "101"),
    ("p-q", "-q+p"),
    (r"1.5\times10^3", "1500"),
    (r"\left(\frac{1}{2},3\right)", "(0.5,3)"),
    (r"\pi/2", r"\frac{\pi}{2}"),
    # decided by math-verify
    (r"1\frac{1}{2}", r"\frac{3}{2}"),
    ("x<5", "5>x"),
    ("2x+3y=6", "4x+6y=12"),
    (r"\sin(\pi/6)", r"\frac12"),
    (r"\log_2 8", "3"),
    ("10!", "3628800"),
    (r"\binom{5}{2}", "10"),
    (r"1\pm 2", "-1,3"),
    ("3+4i", "4i+3"),
    ("a=1, b=2", "b=2,a=1"),
    (r"\cos x", r"\sin(x+\frac{\pi}{2})"),
    (r"|x-1|", "|1-x|"),
    (r"\operatorname{arctan}(1)", r"\frac{\pi}{4}"),
    (r"\begin{pmatrix}1\\0.5\end{pmatrix}", r"\begin{pmatrix} 1 \\ \frac12 \end{pmatrix}"),
    (r"(-\infty,2)\cup(3,\infty)", r"(3,\infty)\cup(-\infty,2)"),
]
UNEQUAL = [
    ("1", "2"),
    ("5", "-5"),
    ("1/3", "0.3333"),
    (r"\sqrt2", "1.41421"),
    ("10^{15}+1", "10^{15}"),
    ("2^{10}", "20"),
    ("5 cm", "5 km"),
    ("101_2", "101_3"),
    ("3t", "3"),
    ("2 3", "23"),
    ("1,2", "12"),
    ("x=5", "x=6"),
    ("x", "y"),
    ("(1,2)", "(2,1)"),
    ("[1,2]", "(1,2)"),
    ("(1,2)", r"\{1,2\}"),
    ("(1,2)", "1,2"),
    (r"\{1,2\}", r"\{1,3\}"),
    ("tea", "eat"),
    (r"\text{even}", r"\text{odd}"),
    ("A", "B"),
    ("x+1", "x+2"),
    ("2x+z=5", "5"),
    ("x<5", "x>5"),
    ("x<5", r"x\le5"),
    ("0.841471", r"\sin(1)"),
    (r"\cos x", r"\sin x"),
    ("10!", "3628801"),
    ("3+4i", "3-4i"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"),
    ("nosolution", "0"),
    (r"(-\infty,2)\cup(3,\infty)", r"(-\infty,2)"),
]
HANG = "9^{9^{9^9}}"  # sympy would write the digits down


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
    forms = [grader.form(a) for a in ["0.5", r"\frac12", "", r"\sin(\pi/6)", "x<5", "5>x", "7"]]
    class_of = dict(zip(forms, grader.classes(forms), strict=True))
    assert sorted(class_of.values()) == [NO_ANSWER, 0, 0, 0, 1, 1, 2]
    for order in list(permutations(forms))[::1800]:
        with Grader() as fresh:
            assert fresh.classes(order) == [class_of[form] for form in order]


def test_a_unit_may_be_left_out_but_joins_its_class(grader):
    forms = [grader.form(a) for a in ["5", "5 cm", r"5\text{ cm}"]]
    assert grader.classes(forms) == [0, 0, 0]
    assert grader.classes(forms[1:] + [grader.form("5 km")]) == [0, 0, 1]


def test_long_answers_are_equal_to_themselves_only(grader):
    a, b = grader.form("1+" * 200 + "x"), grader.form("1+" * 200 + "y")
    assert grader.classes([a, b, a, "1"]).count(grader.classes([a, b, a, "1"])[0]) == 2


def test_exact_mode_compares_strings_and_needs_no_worker():
    with Grader("exact") as grader:
        forms = [grader.form(a) for a in ["5", "5.0", " 5", r"\sin(1)", r"\cos(1)", "5", ""]]
        assert grader.classes(forms) == [1, 2, 0, 4, 3, 1, NO_ANSWER]
        assert not grader._pool._idle


def test_simple_answers_need_no_worker():
    with Grader() as grader:
        assert grader.classes(["1", "0.5", r"\frac{1}{2}", "x+1", "(1,2)", "yes"]) == [2, 1, 1, 3, 0, 4]
        assert grader.classes(["nosolution", "thevalueisx>3", "x+1"]) == [0, 1, 2], "nor does prose"
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
        assert grader.equal(r"\sin(\pi/6)", "0.5"), "the next answer gets a new process"
        started = time.monotonic()
        assert grader.classes([HANG, "3", HANG, "x<5", "5>x"]) == [2, 0, 2, 1, 1]
        assert time.monotonic() - started < 1, "a time-out is remembered"
        assert grader.timeouts == 1


def test_a_worker_that_sleeps_or_dies_costs_one_answer():
    pool = WorkerPool(1, timeout_s=0.3)
    try:
        assert pool.run([("compare", "x<5", "5>x")]) == [True]
        os.kill(pool._idle[0].pid, signal.SIGSTOP)
        assert pool.run([("compare", "x<5", "5>x"), ("compare", "1", "1")])[0] is TIMED_OUT
        os.kill(pool._idle[0].pid, signal.SIGKILL)
        assert pool.run([("compare", "x<5", "5>x")]) in ([True], [TIMED_OUT])
        assert pool.run([("compare", "x<5", "5>x")]) == [True]
    finally:
        pool.close()


def test_several_workers_answer_in_the_order_of_the_questions():
    pool = WorkerPool(2, timeout_s=10.0)
    try:
        tasks = [("compare", f"{n}", f"{n % 3}") for n in range(12)]
        assert pool.run(tasks) == [n < 3 for n in range(12)]
        assert len(pool._idle) == 2
    finally:
        pool.close()


def test_workers_end_with_their_parent():
    code = (
        "import os; from megatron_coreward.coreward.workers import WorkerPool\n"
        "pool = WorkerPool(1, 5.0); pool.run([('compare', '1', '1')])\n"
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
        "import runpy, sys; runpy.run_path('megatron_coreward/coreward/math_worker.py')\n"
        "print({'torch', 'numpy', 'vllm', 'megatron_coreward'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.data
def test_ground_truths_equal_themselves_and_few_others(grader, request):
    path = request.config.rootpath.parent / "shared/data/math/test.parquet"
    if not path.exists():
        pytest.skip("needs ../shared/data/math/test.parquet")
    rewards = pq.read_table(path, columns=["reward_model"]).column("reward_model").to_pylist()
    truths = random.Random(0).sample([r["ground_truth"] for r in rewards if r["ground_truth"]], 300)
    loose = [rf"\left( {t} \right)" if t.isdigit() else t.replace(r"\frac", r"\dfrac") + ". " for t in truths]
    forms = [(grader.form(t), grader.form(s)) for t, s in zip(truths, loose, strict=True)]
    different = [pair for pair, same in zip(forms, grader.equal_many(forms), strict=True) if not same]
    assert different == []
    shifted = grader.equal_many([(a, b) for (a, _), (b, _) in zip(forms, forms[1:], strict=False) if a != b])
    assert sum(shifted) <= 2, "neighbouring problems seldom share an answer"
