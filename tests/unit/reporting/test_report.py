"""coreward report: one page about runs, written with the package's own writers."""

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from megatron_coreward.cli import summarize
from megatron_coreward.cli.report import main
from megatron_coreward.config.loading import load_config, to_yaml
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.reporting import figures
from megatron_coreward.reporting.changes import table_row, training_changes
from megatron_coreward.reporting.page import ASSETS, settings_table
from megatron_coreward.reporting.runs import read_run, spread
from megatron_coreward.run.rollouts import write_rollouts
from megatron_coreward.types import QuestionPair, ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from megatron_coreward.utils.metrics import MetricsWriter
from tests.support.metric_names import METRICS

HOSTILE = (
    "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> "
    "{{ 7*7 }} \\(\\frac{1}{2}\\) \u2028 & é"
)
PAIRS = [
    QuestionPair(number, f"What is {number} + 1? {HOSTILE}", f"Add 1 to {number}.", (1,), (2,), answer="5")
    for number in range(10)
]


class Page(HTMLParser):
    """What a browser would make of a page: tags, data blocks by id, and the text outside scripts."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.blocks: dict[str, str] = {}
        self.text = ""
        self._inside = ("", "")  # tag and id of a script or style
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.text += " "
        if tag in ("script", "style"):
            self._inside = (tag, dict(attrs).get("id", ""))

    def handle_endtag(self, tag):
        if tag in ("script", "style"):
            self._inside = ("", "")

    def handle_data(self, data):
        tag, name = self._inside
        if name:
            self.blocks[name] = self.blocks.get(name, "") + data
        elif not tag:
            self.text += data

    @property
    def data(self):
        return json.loads(self.blocks["data"])

    def figure(self, metric: str):
        return next(figure for figure in self.data["figures"] if figure["metric"] == metric)


def response(pair_id: int, view: View, sample: int) -> ScoredResponse:
    answer = ("5", "5", "</b>", "")[sample]
    return ScoredResponse(
        pair_id=pair_id,
        view=view,
        sample=sample,
        prompt_ids=(1,),
        response_ids=np.arange(sample, dtype=np.int32),
        rollout_logps=np.full(sample, -0.5, dtype=np.float32),
        text=f"{sample}: {HOSTILE} {'long ' * 2000}end",
        finish_reason="length" if sample == 3 else "stop",
        weights_version=0,
        answer=answer,
        pseudo_label="5",
        reward=float(answer == "5"),
        advantage=1 / 3 if answer == "5" else -1 / 3,
    )


def make_run(folder: Path, method: str, steps: int = 12, views=tuple(View), rollouts=True, lr="1e-6") -> Path:
    overrides = [f"model.path={HOSTILE}", f"reward.method={method}", f"optimizer.lr={lr}"]
    writer = MetricsWriter(folder)
    (folder / "config.yaml").write_text(
        to_yaml(load_config([], [*overrides, f"run.output_dir={folder}", "run.seed=4"]))
    )
    scored = [response(pair.pair_id, view, sample) for pair in PAIRS for view in views for sample in range(4)]
    if method == "co_reward":
        writer.log(0, {"eval/maj@2": 0.25})
    for step in range(1, steps + 1):
        figures = {"reward/mean": step / 100, "policy/grad_norm": math.nan if step == 2 else 1 / 3}
        figures |= {"time/rollout": 2.0, "time/update": 1.0, "time/step": 3.5, "mismatch/mean_abs": 1e-7}
        for view in views:
            figures[f"{view.value}/response_tokens"] = 100.0
            figures[f"diagnostics/{view.value}/vote_accuracy"] = 0.5
            figures[f"diagnostics/{view.value}/vote_accuracy/level_2"] = 0.25
            figures[f"diagnostics/{view.value}/vote_accuracy/level_10"] = 0.75
        writer.log(step, figures)
        if rollouts:
            write_rollouts(folder, step, PAIRS, scored, TorchCommunicator())
    writer.close()
    return folder


def add_evaluation(folder: Path, step: int, right: int, questions: int = 40) -> None:
    solved = np.arange(questions) < right
    sampled = np.stack([solved] * 2, axis=1)[None]
    scores = Scores(np.arange(questions), solved, sampled, {2: solved[None].astype(float)})
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / f"step_{step:06d}.json").write_text(
        json.dumps(scores.summary(bootstrap_seed=1))
    )


@pytest.fixture(scope="module")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    both = make_run(folder / "both", "co_reward")
    add_evaluation(both, 0, right=10)
    add_evaluation(both, 12, right=22)
    one = make_run(folder / "one_view", "entropy", steps=5, views=(View.ORIGINAL,), lr="2e-6")
    return both, one


def write(tmp_path: Path, *arguments) -> Page:
    output = tmp_path / "new" / "report.html"
    assert main([*map(str, arguments), "--output", str(output)]) == 0
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    return Page(output)


@pytest.fixture(scope="module")
def page(two_runs, tmp_path_factory):
    return write(tmp_path_factory.mktemp("page"), *two_runs)


def refused(capsys, *arguments) -> str:
    assert main([str(a) for a in arguments]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_the_page_loads_nothing_and_runs_only_our_code(page):
    assert not [(tag, a) for tag, a in page.tags if tag in ("link", "img", "iframe", "object") or "src" in a]
    assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
    [policy] = [a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none';")
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert len([a for a in scripts if "type" not in a]) == 2  # charts.js and rollouts.js
    assert len([a for a in scripts if a.get("type") == "application/json"]) == 1 + 6 + 5


def test_our_scripts_put_text_in_as_text():
    for script in ASSETS.glob("*.js"):
        assert not re.findall(
            r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(", script.read_text()
        )


def test_hostile_text_comes_back_whole(page):
    step = json.loads(page.blocks["rollouts-0-1"])
    original, rephrased = step["pairs"][0]["groups"]
    assert original["question"] == PAIRS[0].original and rephrased["question"] == PAIRS[0].rephrased
    assert original["responses"][1]["text"] == f"1: {HOSTILE} {'long ' * 2000}end"
    assert page.text.count(HOSTILE) >= 2  # the model of both runs, in the HTML
    assert page.blocks["rollouts-0-1"].count("<") == 0


def test_a_pair_holds_what_the_reward_stage_decided(page):
    pair = json.loads(page.blocks["rollouts-0-12"])["pairs"][-1]
    assert (pair["pair_id"], pair["ground_truth"]) == (9, "5")
    group = pair["groups"][1]
    assert (group["view"], group["label"]) == ("rephrased", "5")
    assert group["votes"] == [["5", 2], ["</b>", 1], ["", 1]]
    last = {name: value for name, value in group["responses"][3].items() if name != "text"}
    assert last == {
        "sample": 3,
        "answer": "",
        "finish_reason": "length",
        "response_tokens": 3,
        "reward": 0.0,
        "advantage": -0.333333,
        "mean_logp": -0.5,
    }


def test_steps_and_pairs_are_spread_and_counted(two_runs, page, tmp_path):
    assert [one["step"] for one in page.data["runs"][0]["rollouts"]] == [1, 3, 5, 8, 10, 12]
    assert [one["step"] for one in page.data["runs"][1]["rollouts"]] == [1, 2, 3, 4, 5]
    assert "6 of 12" in page.text and "5 of 5" in page.text and "6 of 10" in page.text
    few = write(tmp_path, two_runs[0], "--steps", 2, "--pairs", 1)
    assert [one["step"] for one in few.data["runs"][0]["rollouts"]] == [1, 12]
    assert [pair["pair_id"] for pair in json.loads(few.blocks["rollouts-0-12"])["pairs"]] == [0]
    everything = write(tmp_path, two_runs[0], "--steps", 0, "--pairs", 0)
    assert len(everything.data["runs"][0]["rollouts"]) == 12
    assert len(json.loads(everything.blocks["rollouts-0-7"])["pairs"]) == 10


@pytest.mark.parametrize(
    ("count", "chosen"), [(0, [*range(7)]), (2, [0, 6]), (3, [0, 3, 6]), (9, [*range(7)])]
)
def test_spread(count, chosen):
    assert spread(range(7), count) == chosen


def test_runs_share_figures_and_lack_what_they_lack(page):
    votes = page.figure("diagnostics/{view}/vote_accuracy")
    assert [(line["run"], line["label"], line["dashed"]) for line in votes["lines"]] == [
        (0, "both, original", False),
        (0, "both, rephrased", True),
        (1, "one_view, original", False),
    ]
    levels = [f["title"] for f in page.data["figures"] if f["title"].startswith("Vote accuracy, level")]
    assert levels == ["Vote accuracy, level 2", "Vote accuracy, level 10"]
    assert [line["run"] for line in page.figure("eval/maj@2")["lines"]] == [0]
    assert "KL to the reference" in page.text  # among those without figures
    assert "policy/kl" not in page.data["runs"][0]["series"]


def test_absent_and_not_finite_values_differ(page):
    series = page.data["runs"][0]["series"]
    assert series["steps"] == [*range(13)]
    assert series["policy/grad_norm"][:4] == [None, 0.333333, "nan", 0.333333]


def test_rewards_in_nats_have_a_figure_of_their_own(page):
    assert [line["run"] for line in page.figure("reward/mean")["lines"]] == [0]
    assert [line["run"] for line in page.figure("reward/mean (nats)")["lines"]] == [1]


def test_time_beyond_the_phases_is_other(page):
    stack = next(figure for figure in page.data["figures"] if figure["stacked"])
    assert [line["label"] for line in stack["lines"]] == ["rollout", "update", "other"]
    assert page.data["runs"][0]["series"]["time/other"] == [None, *[0.5] * 12]


def test_before_and_after_with_intervals(page):
    words = " ".join(page.text.split())
    assert "greedy_pass@1 both 0.250 0.550 +0.300 +0.175 to +0.450" in words
    assert re.search(
        r"one_view: no held-out measures; \S+ holds 0 evaluations; before and after need two", words
    )
    assert words.count("agreement of the two votes") == 0


def test_evaluations_of_other_questions_are_not_compared(tmp_path):
    run = make_run(tmp_path / "run", "co_reward", steps=1, rollouts=False)
    add_evaluation(run, 0, right=1)
    add_evaluation(run, 1, right=1, questions=41)
    words = write(tmp_path, run).text
    assert "cannot compare evaluations of different questions" in words
    assert "no rollouts in the folder" in words


def test_settings_that_differ(two_runs):
    runs = [read_run(r, r.name, 2, 1) for r in two_runs]
    table = settings_table(runs)
    assert table.differing == {
        "reward.method": ["co_reward", "entropy"],
        "optimizer.lr": ["1.0e-06", "2.0e-06"],
    }
    assert table.common["run.seed"] == "4" and "run.output_dir" not in table.common


def rewrite(run: Path, *overrides: str) -> None:
    """Gives the run other settings."""
    (run / "config.yaml").write_text(to_yaml(load_config([run / "config.yaml"], overrides)))


def test_book_keeping_is_no_difference(tmp_path):
    runs = [make_run(tmp_path / name, "co_reward", steps=1) for name in ("first", "second")]
    rewrite(
        runs[1], "run.resume=true", "run.stall_timeout_s=7", "logging.wandb=true", "checkpoint.keep_last=9"
    )
    table = settings_table([read_run(run, run.name, 2, 1) for run in runs])
    assert table.differing == {} and "run.resume" not in table.common
    words = " ".join(write(tmp_path, *runs).text.split())
    assert "No setting differs that changes what a run computes." in words


def test_runs_with_other_evaluation_questions_say_so(tmp_path):
    runs = [make_run(tmp_path / name, "co_reward", steps=1) for name in ("first", "second", "third")]
    rewrite(runs[0], "evaluation.file=a.jsonl", "evaluation.limit=0")
    rewrite(runs[1], "evaluation.file=a.jsonl", "evaluation.limit=0")
    assert "different questions" not in write(tmp_path, *runs[:2]).text
    rewrite(runs[1], "evaluation.limit=40")
    words = " ".join(write(tmp_path, *runs).text.split())
    assert "their curves cannot be compared: first: a.jsonl; second: the first 40 of a.jsonl." in words
    synthetic = ("evaluation.file=", "data.source=synthetic", "evaluation.limit=0")
    rewrite(runs[0], *synthetic)
    rewrite(runs[1], *synthetic, "data.synthetic_task=wordings", "evaluation.synthetic_split=test")
    words = " ".join(write(tmp_path, *runs[:2]).text.split())
    assert "first: synthetic problems; second: synthetic problems (wordings, test)." in words


def test_the_title_names_the_runs(page):
    assert page.text.split("both, one_view", 2)[2:], "as the window's title and as the heading"


def test_short_runs_have_no_overlapping_windows(tmp_path, capsys):
    """`before` and `after` share no step, and one step alone has no before."""

    def changed(values):
        records = [{"step": step, "reward/mean": value} for step, value in enumerate(values)]
        return training_changes(records)[0]

    assert changed([0.25])[1:3] == (None, 0.25)
    assert changed([0.1, 0.2])[1:3] == (0.1, 0.2)
    assert changed([0.1, 0.7, 0.2])[1:3] == (0.1, 0.2)
    assert changed([0.0] * 10 + [9.0] * 3 + [1.0] * 10)[1:3] == (0.0, 1.0)
    assert table_row(changed([0.25]))[1:3] == ("", "0.250")
    run = make_run(tmp_path / "run", "co_reward", steps=1)
    add_evaluation(run, 0, right=10)
    add_evaluation(run, 1, right=20)
    assert summarize.main([str(run)]) == 0
    assert "| mean reward |  | 0.0100 |  |  |" in (run / "summary.md").read_text()
    assert "mean reward run 0.0100" in " ".join(write(tmp_path, run).text.split())


def test_a_folder_without_configuration(tmp_path):
    run = make_run(tmp_path / "run", "co_reward", steps=1)
    (run / "config.yaml").unlink()
    assert "the folder has no config.yaml" in write(tmp_path, run).text


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / parent / "run", "co_reward", steps=1) for parent in ("a", "b")]
    assert [run["name"] for run in write(tmp_path, *runs).data["runs"]] == ["a/run", "b/run"]


def test_every_panel_shows_figures_that_exist():
    panels = [panel for section in figures.SECTIONS for panel in section.panels]
    shown = {name for panel in panels for view in View for name in [panel.metric.format(view=view.value)]}
    assert shown - set(METRICS) == {figures.REWARD_IN_NATS}
    assert {f"time/{p}" for p in (*figures.PHASES, *figures.OUTSIDE_STEP)} <= set(METRICS)
    phases = {n.removeprefix("memory/").removesuffix("_gb") for n in METRICS if n.startswith("memory/")}
    assert set(figures.PHASES) == phases - {"peak"}


def test_every_colour_exists():
    css = (ASSETS / "report.css").read_text()
    numbers = [*range(figures.NUM_COLORS)]
    assert sorted({int(n) for n in re.findall(r"--run-(\d+):", css)}) == numbers
    phases = sorted({int(n) for n in re.findall(r"--phase-(\d+):", css)})
    assert phases == [*range(len(figures.PHASES) + 1)]


def test_wrong_input_is_one_line(two_runs, tmp_path, capsys):
    run = two_runs[0]
    (tmp_path / "empty").mkdir()
    MetricsWriter(tmp_path / "begun").close()
    (tmp_path / "file").write_text("")
    assert "is not a folder" in refused(capsys, run, tmp_path / "absent")
    assert "is not a run folder" in refused(capsys, tmp_path / "empty")
    assert "holds no figures yet" in refused(capsys, run, tmp_path / "begun")
    assert "the same run is given twice" in refused(capsys, run, run.parent / "one_view" / ".." / "both")
    assert "first and the last step" in refused(capsys, run, "--steps", 1)
    assert "--pairs is -1" in refused(capsys, run, "--pairs", -1)
    assert "is a folder" in refused(capsys, run, "--output", tmp_path)
    assert "choose another folder" in refused(capsys, run, "--output", tmp_path / "file" / "r.html")
