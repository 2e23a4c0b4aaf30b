"""Reward methods of one's own: the page's examples on any placement, their options, and what is refused."""

import logging
import re
import subprocess
import sys
from itertools import count

import numpy as np
import pytest

from megatron_coreward.config.loading import load_config, to_yaml
from megatron_coreward.coreward.diagnostics import ground_truth_figures
from megatron_coreward.coreward.rewards.own import FINGERPRINT, load
from megatron_coreward.coreward.rewards.registry import METHODS, method_of, with_options
from megatron_coreward.coreward.stage import CoRewardStage
from megatron_coreward.grading.grader import Grader
from megatron_coreward.preflight.method import check_method
from megatron_coreward.run.start import warn_of_changes
from megatron_coreward.types import QuestionPair, Response, View
from megatron_coreward.utils.metrics import Figures
from tests.support.fakes import run_threads
from tests.support.pages import blocks

VOTE = blocks("reward_methods.md", "First example: a vote in which sure responses weigh more")[0]
PENALTY = blocks("reward_methods.md", "Second example: Co-Reward with a length penalty")[0]
JUDGE = """
from megatron_coreward.api import Judgement, Method, View

def judge(groups, config):
    return {view: Judgement([1.0] * len(group.answers.classes)) for view, group in groups.items()}

"""
numbers = count()


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a module into the folder that the command is run from; returns its name, which is new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def write(source):
        name = f"own_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


def configured(method, *overrides):
    return load_config([], ["model.path=m", f"reward.method={method}", *overrides])


def response(view, sample, answer, tokens=10, logp=-0.5, text=""):
    return Response(
        *(1, view, sample, (1,), np.arange(tokens, dtype=np.int32), np.full(tokens, logp, np.float32)),
        *(text + (rf"\boxed{{{answer}}}" if answer else ""), "stop", 0),
    )


def judged(config, by_rank, truths=None):
    """Scored responses by key, and the figures, of a step whose responses are held by ranks."""
    config = with_options(config)

    def work(comm):
        grader = Grader()
        return CoRewardStage(comm, grader, config, truths)(by_rank[comm.rank])

    results = run_threads(len(by_rank), work)
    scored = {r.key: r for of_rank, _ in results for r in of_rank}
    return scored, Figures.merged(figures for _, figures in results).as_dict()


ANSWERS = ["7", "7.0", "8", None]
STEP = [response(view, i, a, tokens=10 * (i + 1)) for view in View for i, a in enumerate(ANSWERS)]


def test_the_length_penalty(write):
    name = write(PENALTY)
    config = configured(f"{name}:short", "reward.options.length_weight=0.5", "rollout.max_response_tokens=40")
    check_method(config)
    scored, figures = judged(config, [STEP])
    expected = [1 - 0.5 * 10 / 40, 1 - 0.5 * 20 / 40, 0, 0]
    assert [scored[1, "original", i].reward for i in range(4)] == pytest.approx(expected)
    assert {r.pseudo_label for r in scored.values()} == {"7"}
    assert figures["reward/signal"] == pytest.approx((10 + 20 + 30 + 40) / 4 / 40)
    other, _ = judged(
        config, [[r for r in STEP if r.view is view] for view in (View.REPHRASED, View.ORIGINAL)]
    )
    assert {key: r.reward for key, r in other.items()} == {key: r.reward for key, r in scored.items()}
    grader = Grader()
    pair = QuestionPair(1, "q", "q", (1,), (1,), answer="7")
    truth, _ = ground_truth_figures(list(scored.values()), {1: pair}, grader, method_of(config))
    assert truth.as_dict()["diagnostics/reward_accuracy"] == 1.0, "a penalty leaves the verdict"


def test_the_sure_vote(write):
    """Two sure responses outvote three others."""
    config = configured(f"{write(VOTE)}:sure_vote")
    check_method(config)
    answers = [("1", -2.0), ("1", -2.0), ("1", -2.0), ("2", -0.1), ("2.0", -0.2), (None, 0.0)]
    step = [response(View.ORIGINAL, i, a, logp=logp) for i, (a, logp) in enumerate(answers)]
    scored, _ = judged(config, [step])
    assert [scored[1, "original", i].reward for i in range(6)] == [0, 0, 0, 1, 1, 0]
    assert {r.pseudo_label for r in scored.values()} == {"2"}
    nobody, _ = judged(config, [[response(View.ORIGINAL, i, None) for i in range(2)]])
    assert {(r.reward, r.pseudo_label) for r in nobody.values()} == {(0.0, "")}


def test_texts_stay_where_they_are(write):
    """A signal of the text: as many bytes cross ranks as with a short one."""
    name = write(
        JUDGE + "own = Method(judge, both_views=True, signal=lambda r, config: float('because' in r.text))"
    )
    config, sent = configured(f"{name}:own"), []
    for text in ("because ", "because " * 1000):
        step = [response(view, 0, "1", text=text) for view in View]
        _, figures = judged(config, [step[:1], step[1:]])
        assert figures["reward/signal"] == 1.0
        sent.append(figures["stage/bytes"])
    assert sent[0] == sent[1] > 0


def test_only_a_method_that_declares_it_sees_the_truth(write):
    source = JUDGE.replace("[1.0]", "[float(len(group.truth.forms))]")
    name = write(source + "blind = Method(judge)\nseeing = Method(judge, truth=True)")
    step = [response(View.ORIGINAL, 0, "1")]
    assert [r.reward for r in judged(configured(f"{name}:blind"), [step])[0].values()] == [0.0]
    assert [r.reward for r in judged(configured(f"{name}:seeing"), [step], {1: "1"})[0].values()] == [1.0]
    with pytest.raises(AssertionError, match="ground truths given"):
        judged(configured(f"{name}:blind"), [step], {1: "1"})


OPTIONS = JUDGE + "own = Method(judge, options={'weight': 0.2, 'steps': 3, 'tag': 'x', 'strict': False})"


def test_options_have_the_types_of_their_defaults(write, tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        f"model: {{path: m}}\nreward:\n  method: {write(OPTIONS)}:own\n  options: {{weight: 1e-5, tag: 7}}\n"
    )
    config = with_options(load_config([file], ["reward.options.strict=true", "reward.options.weight=1"]))
    assert config.reward.options == {"weight": 1.0, "steps": 3, "tag": "7", "strict": True}
    assert type(config.reward.options["weight"]) is float
    again = tmp_path / "config.yaml"
    again.write_text(to_yaml(config))
    assert load_config([again]) == config == with_options(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "reward.options.wieght=1",
            "reward.options.wieght is 1, but reward.method=MODULE:own has no such option; its options and "
            "their defaults: weight (0.2), steps (3), tag ('x'), strict (False). Did you mean "
            "reward.options.weight?",
        ),
        (
            "reward.options.weight=much",
            "reward.options.weight is 'much', but must be of type float (default 0.2).",
        ),
        (
            "reward.options.weight=nan",
            "reward.options.weight is 'nan', but must be of type float (default 0.2).",
        ),
        ("reward.options.steps=1.5", "reward.options.steps is 1.5, but must be of type int (default 3)."),
        ("reward.options.strict=1", "reward.options.strict is 1, but must be of type bool (default False)."),
        (
            "reward.options.weight=[1]",
            "reward.options is {'weight': [1]}, but must be names, each with a text",
        ),
        ("reward.options=3", "reward.options is 3, but must be of type dict."),
    ],
)
def test_options_that_are_refused(write, override, message):
    name = write(OPTIONS)
    with pytest.raises(ValueError, match=re.escape(message.replace("MODULE", name))):
        check_method(configured(f"{name}:own", override))


@pytest.mark.parametrize("method", METHODS)
def test_built_in_methods_name_their_options(method):
    known = ", ".join(f"{name} ({default!r})" for name, default in METHODS[method].options.items()) or "none"
    message = f"reward.method={method} has no such option; its options and their defaults: {known}."
    with pytest.raises(ValueError, match=re.escape(message)):
        check_method(configured(method, "reward.options.weight=1"))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("x = (", "cannot be imported: SyntaxError: '(' was never closed (MODULE.py, line 1). Mend it."),
        (
            "import no_such_package",
            "cannot be imported: ModuleNotFoundError: No module named 'no_such_package' (",
        ),
        ("x = 1\ny = x.z", "AttributeError: 'int' object has no attribute 'z' ({folder}/MODULE.py, line 2)"),
        (JUDGE, "own does not exist in {folder}/MODULE.py, where a Method must be"),
        (JUDGE + "owm = Method(judge)", "the methods in it: owm. Did you mean MODULE:owm?"),
        (JUDGE.replace("judge(", "own("), "own is a function in {folder}/MODULE.py, where a Method must be"),
        (JUDGE + "own = Method(judge, entropy=True)", "got an unexpected keyword argument 'entropy'"),
        (JUDGE + "own = Method(judge, signal=len)", "is no function of two arguments (response, config)"),
        (JUDGE + "own = Method(1)", "is no function of two arguments (groups, config)"),
        (
            JUDGE + "own = Method(judge, options={'a': [1]})",
            "the default of its option a is [1]: it must be true",
        ),
        (
            JUDGE.replace("[1.0]", "1.0").replace(" * len(group.answers.classes)", " / 0")
            + "own = Method(judge)",
            "fails on a made-up question with the answers 1, 1, 2 and none: ZeroDivisionError: float "
            "division by zero ({folder}/MODULE.py, line 5). Mend it.",
        ),
        (
            JUDGE.replace("[1.0]", "[1.0, 2.0]") + "own = Method(judge)",
            "ValueError: the method gave 8 rewards to 4 responses. Mend it.",
        ),
        (
            JUDGE.replace("[1.0]", "[float('nan')]") + "own = Method(judge)",
            "which are not all finite numbers",
        ),
        (
            JUDGE.replace("{view:", "{view.other:") + "own = Method(judge)",
            "the method judged rephrased, but was given original",
        ),
        (
            JUDGE + "own = Method(judge, signal=lambda r, c: r.confidence.entropy)",
            "'NoneType' object has no attribute",
        ),
        (JUDGE + "own = Method(judge, signal=lambda r, c: c.reward.options['w'])", "KeyError: 'w'"),
        (
            JUDGE + "own = Method(judge, signal=lambda r, c: 'long')",
            "could not convert string to float: 'long'",
        ),
    ],
)
def test_modules_that_are_refused(write, tmp_path, source, message):
    name = write(source)
    with pytest.raises(ValueError) as error:
        check_method(configured(f"{name}:own"))
    assert "\n" not in str(error.value) and f"reward.method is '{name}:own'" in str(error.value)
    assert message.replace("{folder}", str(tmp_path)).replace("MODULE", name) in str(error.value)


def test_a_module_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        check_method(configured("nowhere.rewards:own"))
    words = ["no module 'nowhere'", f"the folder that the command is run from ({tmp_path})", "PYTHONPATH"]
    assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("name", ["majority", "a:b:c", "my-module:x", ":x", "x:"])
def test_names_that_are_no_module_and_method(name):
    with pytest.raises(
        ValueError, match="must be one of co_reward, .*, or MODULE:NAME, a method of one's own."
    ):
        configured(name)


def test_the_options_of_votes_are_checked_as_for_built_in_methods(write):
    name = write(VOTE)
    with pytest.raises(ValueError, match="reward.ties=abstain is about votes"):
        check_method(configured(f"{name}:sure_vote", "reward.ties=abstain"))
    both = write(PENALTY)
    with pytest.raises(ValueError, match=f"reward.method={both}:short judges one wording by the other"):
        check_method(configured(f"{both}:short", "rollout.views=original"))


def test_a_changed_file_is_said_on_resume(write, caplog):
    name = write(VOTE)
    config, now = configured(f"{name}:sure_vote"), load(f"{name}:sure_vote").fingerprint
    assert (
        re.fullmatch(rf"[0-9a-f]{{{FINGERPRINT}}}", now)
        and now != load(f"{write(PENALTY)}:short").fingerprint
    )
    unchanged = load_config([], ["model.path=m"])
    with caplog.at_level(logging.WARNING):
        for trainer in ({"reward_file": now}, {"reward_file": ""}, {}):
            saved = {"model": {"path": "m"}, "optimizer": {"share_prompts": True}}
            warn_of_changes({"config": saved, "trainer": trainer}, unchanged, now)
            assert not caplog.text, "a key that is new is none that has changed"
        warn_of_changes({"config": {}, "trainer": {"reward_file": "abc"}}, config, now)
    assert f"reward.method={name}:sure_vote has changed: its fingerprint is {now}; it was abc" in caplog.text


def test_the_folder_of_the_command_is_searched_last(write, tmp_path):
    """As an installed command does, for which Python does not look there. No file hides one of Python's."""
    name = write(VOTE)
    (tmp_path / "fractions.py").write_text("raise SystemError")
    program = (
        "import sys; sys.path.remove('')\n"
        "from megatron_coreward.coreward.rewards.own import load\n"
        f"print(load('{name}:sure_vote').source.file)\nimport fractions\n"
        "assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == str(tmp_path / f"{name}.py")
