"""The Python interface and a reward method of one's own, as a user starts them: in a folder of their own."""

import json
import subprocess
from pathlib import Path

import pytest

from megatron_coreward.api import load_run
from tests.support.pages import blocks
from tests.support.paths import ROOT
from tests.support.programs import TRAIN, command, environment

START = ROOT / "tests/fixtures/first_run/start"
SETTINGS = f"""
run: {{steps: 1, export_hf: true}}
model: {{path: {START}}}
data: {{source: synthetic, synthetic_pairs: 16, batch_pairs: 4, max_prompt_tokens: 96, system_prompt: ""}}
rollout: {{samples: 4, max_response_tokens: 32, memory_gb: 0.25}}
evaluation: {{limit: 8, samples: 2}}
checkpoint: {{every: 1}}
algorithm: {{kl_coef: 0.0}}
logging: {{tensorboard: false}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").write_text(SETTINGS)
    lines = [{"question": f"What is {n} plus {n + 5}?", "answer": str(2 * n + 5)} for n in range(10, 14)]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


def python(folder: Path, *arguments: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """Runs Python in `folder`, where this package is found but nothing else of the repository's root."""
    (folder / "packages").mkdir(exist_ok=True)
    package = folder / "packages" / "megatron_coreward"
    if not package.exists():
        package.symlink_to(ROOT / "megatron_coreward")
    return subprocess.run(
        command(ranks, *arguments),
        cwd=folder,
        env=environment() | {"PYTHONPATH": str(package.parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )


def test_the_page_runs_from_top_to_bottom(folder: Path) -> None:
    """In one script, which trains twice after a refusal; its own torch is never imported."""
    ending = "import sys\nassert 'torch' not in sys.modules\nprint('the page has ended')\n"
    (folder / "page.py").write_text("\n".join([*blocks("python.md"), ending]))
    result = python(folder, "page.py")
    assert result.returncode == 0 and "the page has ended" in result.stdout, result.stdout
    assert "refused: model.path is 'nowhere'" in result.stdout, result.stdout
    runs = [load_run(folder / "runs" / method) for method in ("majority_voting", "entropy")]
    assert [run.config.reward.method for run in runs] == ["majority_voting", "entropy"]
    assert all(run.metrics["step"] == [0, 1] for run in runs)


def test_a_reward_of_ones_own_is_trained_resumed_and_shown(folder: Path) -> None:
    """On two ranks under torchrun, with an option; resumed on one with a changed file, and a broken one."""
    module = folder / "my_rewards.py"
    source = blocks("reward_methods.md", "Second example: Co-Reward with a length penalty")[0]
    module.write_text(source)
    chosen = ("reward.method=my_rewards:short", "run.output_dir=run", "reward.options.length_weight=0.5")
    train = (*TRAIN, "--config", "run.yaml", *chosen)
    first = python(folder, *train, ranks=2)
    assert first.returncode == 0, first.stdout
    assert f"reward.method my_rewards:short is that of {module}, fingerprint " in first.stdout
    assert "label-free" not in first.stdout
    run = load_run(folder / "run")
    assert run.config.reward.options == {"length_weight": 0.5}
    rows = run.rollouts(1)
    for row in rows:
        right = row["answer"] == row["pseudo_label"] != ""
        assert row["reward"] == pytest.approx(right * (1 - 0.5 * row["response_tokens"] / 32))
    assert any(row["reward"] for row in rows)
    lengths = [row["response_tokens"] / 32 for row in rows]
    figures = {name: column[-1] for name, column in run.metrics.items()}
    assert figures["reward/signal"] == pytest.approx(sum(lengths) / len(lengths))
    assert 0 < figures["diagnostics/reward_accuracy"] <= 1

    shown = python(folder, "-m", "megatron_coreward.show", "run", "--pairs", "0")
    assert shown.returncode == 0 and "judged by label" in shown.stdout, shown.stdout
    report = "from megatron_coreward.cli.report import main; main(['run', '--output', 'r.html'])"
    assert python(folder, "-c", report).returncode == 0
    assert "my_rewards:short" in (folder / "r.html").read_text()

    module.write_text(source + "\nright = METHODS['ground_truth']\n")
    others = ("reward.method=my_rewards:right", "run.output_dir=run", "run.resume=true", "run.steps=2")
    resumed = python(folder, *TRAIN, "--config", "run.yaml", *others)
    assert resumed.returncode == 0, resumed.stdout
    assert "the file of reward.method=my_rewards:right has changed: its fingerprint is" in resumed.stdout
    assert "reward.method my_rewards:right reads the ground truth" in resumed.stdout
    assert load_run(folder / "run").metrics["diagnostics/reward_accuracy"][-1] == 1.0
    module.write_text(source.replace("import METHODS", "import METHODZ"))
    broken = python(folder, *train, "run.resume=true", "run.steps=3")
    assert broken.returncode == 2, broken.stdout
    assert "my_rewards cannot be imported: ImportError: cannot import name 'METHODZ'" in broken.stdout
    assert load_run(folder / "run").metrics["step"][-1] == 2, "nothing was begun"


def test_ranks_with_different_files_are_refused(folder: Path) -> None:
    """As on two nodes, of which one has an older copy: each rank finds the module in a folder of its own."""
    source = blocks("reward_methods.md", "First example: a vote in which sure responses weigh more")[0]
    for rank, line in enumerate(("", "# an older copy\n")):
        (folder / f"node{rank}").mkdir()
        (folder / f"node{rank}" / "votes.py").write_text(line + source)
    (folder / "packages").mkdir()
    (folder / "packages" / "sitecustomize.py").write_text(
        "import os, sys\nsys.path.append(os.path.abspath(f\"node{os.environ.get('RANK', 0)}\"))\n"
    )
    given = ("reward.method=votes:sure_vote", "run.output_dir=run")
    result = python(folder, *TRAIN, "--config", "run.yaml", *given, ranks=2)
    assert result.returncode != 0
    assert "the file of reward.method=votes:sure_vote is '" in result.stdout, result.stdout
    assert "give all nodes the same one" in result.stdout and not (folder / "run").exists()
