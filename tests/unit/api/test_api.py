"""The Python interface: what it imports, reads and refuses. Programs that it starts are in tests/e2e."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_coreward.api import Config, Grader, load_run, vote
from megatron_coreward.api.programs import NotFinite, RunError, Stalled, Stopped, _flags, _run
from tests.support.pages import blocks
from tests.support.paths import ROOT

RUN = ROOT / "tests/fixtures/first_run/run"


IMPORTS = """
import sys, time
start, before = time.process_time(), set(sys.modules)
import megatron_coreward
assert {name for name in vars(megatron_coreward) if not name.startswith("__")} == set()
assert set(sys.modules) - before == {"megatron_coreward"}
import megatron_coreward.api
heavy = {"torch", "transformers", "vllm", "megatron", "wandb", "matplotlib", "sympy"} & set(sys.modules)
assert not heavy, heavy
assert time.process_time() - start < 5, time.process_time() - start
"""


def test_nothing_heavy_is_imported() -> None:
    """It takes half a second of CPU time; torch alone takes several."""
    subprocess.run([sys.executable, "-c", IMPORTS], check=True, timeout=60)


def test_the_blocks_about_configuration_answers_and_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that train or evaluate are run in tests/e2e/test_python.py."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text("model: {path: models/toy}\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "majority_voting").symlink_to(RUN)
    names: dict[str, object] = {}
    quick = ("A configuration", "Read a run", "Compare answers, take a vote")
    for heading in quick:
        for block in blocks("python.md", heading):
            exec(compile(block, heading, "exec"), names)
    config = names["config"]
    assert isinstance(config, Config) and config.optimizer.lr == 1e-5
    assert (config.reward.method, config.model.path) == ("majority_voting", "models/toy")
    assert config.run.steps == 1


def test_configurations_are_checked() -> None:
    config = Config.load(None, {"model.path": Path("here"), "reward": {"options": {"a": 1}}, "run.steps": 3})
    assert (config.model.path, config.reward.options, config.run.steps) == ("here", {"a": 1}, 3)
    with pytest.raises(ValueError, match=r"Did you mean run\.steps\?"):
        Config.load(None, {"model.path": "m", "run.step": 3})
    with pytest.raises(ValueError, match="run.steps is -1, but must be at least 0"):
        Config.load(None, {"model.path": "m", "run.steps": -1})
    with pytest.raises(ValueError, match="model.path is missing"):
        Config.load()
    with pytest.raises(ValueError, match="greater than 0"):
        config.optimizer.lr = -1.0


def test_a_run_is_read() -> None:
    run = load_run(RUN)
    assert run.metrics["step"] == [0, 1, 2, 3] and run.steps == [1, 2, 3]
    assert math.isnan(run.metrics["reward/mean"][0]) and not math.isnan(run.metrics["reward/mean"][1])
    assert {len(column) for column in run.metrics.values()} == {4}
    assert sorted(run.evaluations) == [0, 3]
    last = run.evaluations[3]
    assert (last.questions, last.greedy.value, last.majority.keys()) == (40, 0.4, {4})
    assert last.sampled is not None and last.sampled.low < last.sampled.value < last.sampled.high
    assert run.config.reward.method == "co_rewarding_3"
    assert {row["view"] for row in run.rollouts(2)} == {"original", "rephrased"}
    with pytest.raises(ValueError, match="no rollouts of step 9: it has 1-3"):
        run.rollouts(9)
    with pytest.raises(ValueError, match="is not a run folder"):
        load_run(ROOT / "tests")


def test_votes_and_answers() -> None:
    tied = vote([r"\boxed{1}", r"\boxed{2}"])
    assert (tied.answer, tied.share, tied.tied) == ("1", 0.5, True)
    assert vote([r"\boxed{1}", r"\boxed{2}"], ties="abstain").answer == ""
    assert vote([r"\boxed{1}", "none", "none"], min_agreement=0.5).answer == ""
    nobody = vote(["no box"])
    assert (nobody.answer, nobody.share, nobody.classes) == ("", 0.0, [-1])
    grader = Grader("exact")
    assert not grader.equal("1/2", "0.5") and not grader.equal("", "") and grader.answer("none") == ""


@pytest.mark.parametrize(
    ("code", "kind"),
    [(2, ValueError), (3, Stopped), (4, NotFinite), (5, Stalled), (1, RunError), (143, RunError)],
)
def test_exit_codes_are_exceptions_with_the_sentence(
    code: int,
    kind: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    """The stand-in program writes as `coreward` does, with a line of somebody else's after the error."""
    (tmp_path / "stand_in.py").write_text(
        "import sys\nprint('working', *sys.argv[1:], flush=True)\n"
        f"sys.stderr.write('error: it is so\\nsomebody else\\n')\nsys.exit({code})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr("megatron_coreward.api.programs._MODULE", "stand_in")
    with pytest.raises(kind, match="^it is so$") as error:
        _run("train", "run.yaml")
    assert type(error.value) is kind
    assert not isinstance(error.value, RunError) or error.value.code == code
    assert capsys.readouterr().out == "working train run.yaml\nerror: it is so\nsomebody else\n"


def test_ctrl_c_lets_the_program_save_first(tmp_path: Path) -> None:
    """A terminal sends it to script and program alike."""
    (tmp_path / "stand_in.py").write_text(
        "import signal, sys, time\n"
        "def save(*_):\n    time.sleep(0.5)\n    print('error: saved', flush=True)\n    sys.exit(3)\n"
        "signal.signal(signal.SIGINT, save)\nprint('ready', flush=True)\ntime.sleep(60)\n"
    )
    (tmp_path / "script.py").write_text(
        "from megatron_coreward.api import Stopped, programs\nprograms._MODULE = 'stand_in'\n"
        "try:\n    programs._run('train')\n"
        "except Stopped as error:\n    print('stopped:', error, error.code)\n"
    )
    script = subprocess.Popen(
        [sys.executable, "-u", str(tmp_path / "script.py")],
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert script.stdout is not None and script.stdout.readline() == "ready\n"
    os.killpg(script.pid, signal.SIGINT)
    assert script.communicate(timeout=60)[0].splitlines() == ["error: saved", "stopped: saved 3"]
    assert script.returncode == 0


def test_flags() -> None:
    given = {"model": Path("m"), "greedy_only": True, "k": False, "max_prompt_tokens": 9}
    assert _flags(given) == ["--model", "m", "--greedy-only", "--max-prompt-tokens", "9"]
