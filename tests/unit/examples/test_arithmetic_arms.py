"""The experiment of examples/arithmetic_arms: equal rollouts, its plan and rules, what it refuses."""

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.evaluation.health import first_alarms
from megatron_coreward.preflight.costs import batch_arithmetic
from megatron_coreward.preflight.method import check_method
from megatron_coreward.preflight.monitor import check_monitor
from tests.support.arms import made_up, probe
from tests.support.paths import ROOT

FOLDER = ROOT / "examples" / "arithmetic_arms"
MODULES = ("arms", "rules", "results", "run_arms", "trees", "executor")


@pytest.fixture(scope="module")
def example() -> Iterator[SimpleNamespace]:
    sys.path.insert(0, str(FOLDER))
    yield SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    sys.path.remove(str(FOLDER))


def pilot(example: SimpleNamespace, **changes: Any) -> list[dict[str, Any]]:
    """A result of every run of the pilot; `changes` by arm: rate -> the g of all its probes."""
    return [
        made_up(run, g=changes.get(run.arm, {}).get(run.rate, 0.7)) for run in example.arms.planned("pilot")
    ]


@pytest.fixture(scope="module")
def protocol(example: SimpleNamespace) -> Any:
    return example.rules.freeze(pilot(example))


def test_every_arm_draws_equally_many_responses(example: SimpleNamespace, protocol: Any) -> None:
    drawn = {}
    for run in [*example.arms.planned("pilot"), *example.arms.planned("claims", protocol)]:
        config = load_config([FOLDER / "config.yaml"], [f"{k}={v}" for k, v in run.overrides.items()])
        check_method(config)
        check_monitor(config)
        batch = batch_arithmetic(config, world_size=1, pairs_in_data=2000)
        drawn[run.stage, run.name] = batch.drawn + batch.by_teacher
        assert (ROOT / config.model.path / "model.safetensors").exists() and batch.steps == 60
    assert set(drawn.values()) == {512}, drawn


def test_a_chosen_step_is_evaluated_and_kept(example: SimpleNamespace) -> None:
    """Regret and the test of the chosen checkpoint need both, in quick runs, too."""
    quick = example.executor.QUICK_SETTINGS
    for settings in ([], [f"{key}={value}" for key, value in quick.items()]):
        config = load_config([FOLDER / "config.yaml"], settings)
        assert config.checkpoint.every == config.monitor.every == config.evaluation.every
        assert (config.checkpoint.keep_best, config.checkpoint.keep_best_by) == (1, "probe")
        assert config.run.steps % config.checkpoint.every == 0


def test_the_plan(example: SimpleNamespace, protocol: Any) -> None:
    runs = example.arms.planned("pilot")
    assert len({run.name for run in runs}) == len(runs) == 7 * 3 + 7
    assert {run.arm for run in runs} == set(example.arms.ARMS)
    assert {(run.task, run.seed) for run in runs} == {("arithmetic", 1)}
    assert set(protocol.rates.values()) == {1e-5}, "four arms are also run at the common rate"
    claims = example.arms.planned("claims", protocol)
    assert len({run.name for run in claims}) == len(claims) == 4 * 5 + 3 * 3 + 4 * 5
    alike = replace(protocol, rates=dict.fromkeys(protocol.rates, 3e-5))
    assert len(example.arms.planned("claims", alike)) == 4 * 5 + 3 * 3
    assert {run.task for run in claims} == {"wordings"}
    assert not {run.seed for run in runs} & {run.seed for run in claims}, "new seeds"
    seeds = [run.seed for run in claims]
    assert seeds == sorted(seeds), "what a test pairs comes together"
    assert list(dict.fromkeys(run.arm for run in claims[:11])) == [*protocol.rates]


def test_the_page_states_the_plan_and_the_thresholds(example: SimpleNamespace) -> None:
    committed = example.rules.Protocol.read(FOLDER / "protocol.json")
    page, limits = " ".join((FOLDER / "README.md").read_text().split()), example.rules.thresholds()
    for words in (
        f"**Pilot** ({len(example.arms.planned('pilot'))} runs)",
        f"**Claims** ({len(example.arms.planned('claims', committed))} runs)",
        f"leave k at c or more after {example.rules.NOISE_STEPS} steps",
        f"h < {limits['ENTROPY_LEFT']:g} h0",
        f"q > q0 + {limits['TOP_ADDED']:g}",
        f"I < I0 - {limits['INFORMATION_LOST']:g}",
        f"k < c, of the prompts whose majority had {limits['SURE']:g} or more",
        f"{example.rules.PILOT_CHANCE:.3f} for the pilot's start model",
        f"f < {limits['FLIPS_LEFT']:g} of its maximum so far, and h < {limits['ENTROPY_OF_EXTINCT']:g} h0",
        f"({example.run_arms.GUESS_MINUTES} minutes, two at a time on two cores)",
    ):
        assert words in page, words


def test_claims_need_a_protocol(example: SimpleNamespace) -> None:
    with pytest.raises(ValueError, match="the claims need a frozen protocol: make one with --freeze"):
        example.arms.planned("claims")


def test_the_checkpoint_of_the_largest_agreement_before_an_alarm(example: SimpleNamespace) -> None:
    choose = example.rules.chosen_checkpoint
    rising = [probe(5 * n, g) for n, g in enumerate([0.5, 0.6, 0.7, 0.8, 0.5, 0.5, 0.5])]
    step, rating = choose(rising)
    assert step == 15 and rating == pytest.approx(0.7)
    assert choose([probe(5 * n, 0.5) for n in range(5)])[0] == 10, "the earliest of equal ones"
    assert choose(rising[:2]) == (0, None), "three probes are needed"
    forgets = [probe(5 * n, 0.5 + 0.1 * n, k=1.0 if n < 3 else 0.8) for n in range(6)]
    assert choose(forgets)[0] == 15 and first_alarms(forgets) == {"forgetting alarm": 20}


def test_rates_above_the_noise_floor_are_left_out(example: SimpleNamespace) -> None:
    runs = [run for run in example.arms.planned("pilot") if run.arm == "random"]

    def kept(*ks: float) -> tuple[float, ...]:
        return example.rules.kept_rates([made_up(run, k_at_20=k) for run, k in zip(runs, ks, strict=True)])

    assert kept(1.0, 0.9, 0.899) == (1e-5, 3e-5)
    assert kept(0.99, 0.99, 0.99) == (1e-5, 3e-5, 1e-4)
    assert kept(0.5, 0.5, 0.5) == (1e-5,), "something has to be trained at"
    results = [made_up(run, k_at_20=k) for run, k in zip(runs, (0.8, 0.7, 0.69), strict=True)]
    for result in results:
        del result["probe"]["probe/kept_by_chance"]
    assert example.rules.kept_rates(results) == (1e-5, 3e-5), "of the pilot it was measured afterwards"


def test_the_label_free_rate(example: SimpleNamespace) -> None:
    results = pilot(
        example, co_reward={1e-5: 0.6, 3e-5: 0.7, 1e-4: 0.8}, split_vote={1e-5: 0.6, 3e-5: 0.6, 1e-4: 0.5}
    )
    rate = example.rules.label_free_rate
    assert rate(results, "co_reward", (1e-5, 3e-5, 1e-4)) == 1e-4
    assert rate(results, "co_reward", (1e-5, 3e-5)) == 3e-5
    assert rate(results, "split_vote", (1e-5, 3e-5, 1e-4)) == 1e-5, "the lower of equal ones"
    assert rate(results, "consensus", (1e-5, 3e-5)) == 3e-5, "it was run at one rate"
    assert rate(results, "consensus", (1e-5,)) == 1e-5, "which may be too high"
    for result in results:
        if (result["arm"], result["rate"]) == ("co_reward", 1e-4):
            result["probe"]["probe/kept_majorities"][1:] = [0.8] * 12
    assert rate(results, "co_reward", (1e-5, 3e-5, 1e-4)) == 3e-5, "a run without a rated checkpoint is last"


def test_labels_decide_nothing(example: SimpleNamespace) -> None:
    results = pilot(example, harmonic={3e-5: 0.9})
    before = example.rules.freeze(results)
    for n, result in enumerate(results):
        result["validation"]["greedy_pass@1"] = [n / 100] * 3
        result["test"] = {}
    assert example.rules.freeze(results) == before
    assert before.best_new_arm == "harmonic"


def test_freeze(example: SimpleNamespace, tmp_path: Path) -> None:
    results = pilot(example, consensus={3e-5: 0.8})
    frozen = example.rules.freeze(results)
    assert frozen.best_new_arm == "consensus" and set(frozen.rates) == {*example.rules.CLAIMED, "consensus"}
    frozen.write(tmp_path / "protocol.json")
    assert example.rules.Protocol.read(tmp_path / "protocol.json") == frozen
    example.rules.check_protocol(frozen, results)
    results[-1]["arm"] = "left_out"  # entropy, which no rule needs
    example.rules.check_protocol(frozen, results)
    without = [r for r in results if (r["arm"], r["rate"]) != ("pooled_vote", 1e-4)]
    with pytest.raises(ValueError, match="cannot be frozen, the pilot lacks pooled_vote at 0.0001"):
        example.rules.freeze(without)
    old = [r for r in results if r["arm"] not in example.rules.NEW_ARMS]
    with pytest.raises(ValueError, match="lacks one of harmonic, agreement_gate, consensus at 3e-05"):
        example.rules.freeze(old)


def test_a_protocol_that_the_rules_do_not_make_is_refused(
    example: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = pilot(example)
    frozen = example.rules.freeze(results)
    better = next(r for r in results if r["arm"] == "co_reward" and r["rate"] == 1e-4)
    better["probe"]["probe/agreement"] = [0.9] * 13
    with pytest.raises(ValueError, match=r"protocol\.json has rates=.* make it anew with --freeze"):
        example.rules.check_protocol(frozen, results)
    monkeypatch.setattr(example.rules.health, "ENTROPY_LEFT", 0.4)
    with pytest.raises(ValueError, match=r"protocol\.json has thresholds=.*'ENTROPY_LEFT': 0\.5"):
        example.rules.check_protocol(frozen, pilot(example))


def finished_folder(folder: Path) -> Path:
    """What a training run of ten steps leaves of figures and evaluations."""
    records = [
        {"step": step, "reward/mean": 0.5, "original/top_answer_share": 0.12345} for step in range(1, 11)
    ]
    records += [probe(step, 0.6 + step / 100) for step in (0, 5, 10)]
    records[-1] |= {"probe/kl": 0.1}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "evaluations").mkdir()
    for step, greedy in ((0, [0, 1]), (10, [1, 1])):
        outcomes = {"question_id": [0, 1], "greedy": greedy, "sampled": [[0, 1], [1, 1]], "majority": [0, 1]}
        path = folder / "evaluations" / f"step_{step:06d}.json"
        path.write_text(json.dumps({"outcomes": outcomes}))
    return folder


def test_what_a_run_leaves(example: SimpleNamespace, tmp_path: Path) -> None:
    run, facts = example.arms.planned("pilot")[0], {"commit": "a", "seconds": 7}
    left = example.results.collect(finished_folder(tmp_path), run, {"start": {"greedy": "01"}}, facts)
    assert (left["arm"], left["rate"], left["seconds"], left["commit"]) == ("random", 1e-5, 7, "a")
    assert left["chosen"] == 10 and left["alarms"] == {}
    assert left["probe"]["step"] == [0, 5, 10] and left["probe"]["probe/kl"] == [None, None, 0.1]
    assert left["probe"]["probe/agreement"] == [0.6, 0.65, 0.7]
    assert left["steps"] == {"top_answer_share": [0.123] * 10}, "what a method does not have is left out"
    assert left["validation"]["step"] == [0, 10] and left["validation"]["greedy_pass@1"] == [0.5, 1.0]
    assert left["validation"]["pass@2"] == [1.0, 1.0] and left["validation"]["pass@1"] == [0.75, 0.75]
    example.results.write_result(left, tmp_path / "results" / "one.json")
    assert json.loads((tmp_path / "results" / "one.json").read_text()) == left


def test_the_test_split_in_short(example: SimpleNamespace, tmp_path: Path) -> None:
    """From what `coreward evaluate` writes."""
    outcomes = {
        "seed": 1,
        "question_id": [0, 1],
        "greedy": [0, 1],
        "sampled": [[0, 1], [1, 1]],
        "majority": [0, 1],
    }
    metrics = {name: {"value": 0.12345} for name in ("greedy_pass@1", "pass@1", "pass@2", "maj@2")}
    summary = {"benchmarks": {"synthetic": {"outcomes": [outcomes], "metrics": metrics}}}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    found = example.results.tested(tmp_path / "summary.json")
    assert found == {"greedy": "01", "pass@1": 0.1235, "pass@2": 0.1235, "maj@2": 0.1235}


def write(results: list[dict[str, Any]], folder: Path) -> Path:
    for number, result in enumerate(results):
        (folder / f"{number}.json").write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"commit": "b" * 40}, r"different commits: aaaaaaaaaaaa .*, bbbbbbbbbbbb \(random_lr3e-05_seed1\)"),
        ({"start_model": "f00"}, "different start models of the task arithmetic: "),
    ],
)
def test_results_of_two_origins_do_not_make_a_table(
    example: SimpleNamespace, tmp_path: Path, change: dict[str, str], words: str
) -> None:
    one, two = (made_up(run) for run in example.arms.planned("pilot")[:2])
    with pytest.raises(ValueError, match=words):
        example.results.read_results(write([one, {**two, **change}], tmp_path))


def test_two_tasks_have_two_start_models(example: SimpleNamespace, tmp_path: Path) -> None:
    one, two = (made_up(run) for run in example.arms.planned("pilot")[:2])
    two |= {"task": "wordings", "start_model": "f00"}
    assert len(example.results.read_results(write([one, two], tmp_path))) == 2


def test_a_run_must_fit_the_table_that_is_there(example: SimpleNamespace) -> None:
    done = [made_up(example.arms.planned("pilot")[0])]
    models = {"arithmetic": done[0]["start_model"]}
    example.results.check_same_origin(done, done[0]["commit"], models)
    with pytest.raises(
        ValueError, match="has commit aaaaaaaaaaaa, but a run made now would have cccccccccccc"
    ):
        example.results.check_same_origin(done, "c" * 40, models)
    with pytest.raises(ValueError, match="has start_model .*, but a run made now would have d00"):
        example.results.check_same_origin(done, done[0]["commit"], {"arithmetic": "d00"})


def executor_in(example: SimpleNamespace, folder: Path) -> Any:
    """With the start model evaluated already."""
    (folder / "start_arithmetic").mkdir()
    (folder / "start_arithmetic" / "summary.json").touch()
    models = {"arithmetic": "a66067"}
    return example.executor.Executor(folder, folder / "results", 2, {"commit": "a"}, models)


def test_no_run_starts_after_the_hours(
    example: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert executor_in(example, tmp_path).run_all(example.arms.planned("pilot")[:3], -1.0) == []
    assert capsys.readouterr().out == "" and [path.name for path in tmp_path.iterdir()] == [
        "start_arithmetic"
    ]


def test_a_run_that_fails_is_named_with_its_log(
    example: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = example.arms.Run("pilot", "arithmetic", "co_reward", 1, -1.0)
    assert executor_in(example, tmp_path).run_all([run], 60.0) == [run]
    log = tmp_path / f"{run.name}.log"
    assert f"failed   {run.name}: exit code 2, see {log}" in capsys.readouterr().out
    assert "optimizer.lr" in log.read_text()
    assert not (tmp_path / "results").exists()


def test_the_estimate(example: SimpleNamespace) -> None:
    done = [made_up(run) | {"seconds": 300} for run in example.arms.planned("pilot")[:3]]
    say = example.run_arms.estimate
    assert say(done, 0, 2) == "all runs are done"
    assert say([], 28, 2) == (
        "28 runs to do, 2 at a time, 9.0 min each (a guess, as none is finished yet): about 2.1 h"
    )
    assert say(done, 25, 2).endswith("5.0 min each (the mean of 3 finished runs): about 1.1 h"), "13 turns"


def test_a_stage_needs_a_tag(example: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    assert example.run_arms.main(["pilot"]) == 2
    assert capsys.readouterr().err == (
        "error: name the tag of the runs with --tag: all of a table are of one commit (--quick needs none)\n"
    )


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *who, *arguments], check=True, capture_output=True)

    git("init", "-q")
    (tmp_path / "file").write_text("one")
    (tmp_path / ".gitignore").write_text("/build/\n")
    git("add", "-A")
    git("commit", "-qm", "One")
    git("tag", "first")
    (tmp_path / "file").write_text("two")
    git("commit", "-qam", "Two")
    git("tag", "second")
    return tmp_path


def test_a_tag_runs_in_a_tree_of_its_own(example: SimpleNamespace, repository: Path) -> None:
    tree = example.trees.tree_of("first", repository)
    assert tree == repository / "build/arms/first" and (tree / "file").read_text() == "one"
    assert example.trees.tree_of("first", repository) == tree, "used again"
    assert (repository / "file").read_text() == "two"
    with pytest.raises(ValueError, match="there is no tag 'third'"):
        example.trees.tree_of("third", repository)


def test_a_dirty_tree_and_a_moved_tag_are_refused(example: SimpleNamespace, repository: Path) -> None:
    tree = example.trees.tree_of("first", repository)
    (tree / "new").touch()
    with pytest.raises(ValueError, match=r"first has changes \(new\): undo them"):
        example.trees.tree_of("first", repository)
    (tree / "new").unlink()
    subprocess.run(["git", "-C", str(repository), "tag", "-f", "first", "second"], check=True)
    with pytest.raises(ValueError, match="the tag has been moved"):
        example.trees.tree_of("first", repository)


def test_committed_results_are_of_the_plan(example: SimpleNamespace) -> None:
    protocol = example.rules.Protocol.read(FOLDER / "protocol.json")
    for stage in ("pilot", "claims"):
        results = example.results.read_results(FOLDER / "results" / stage)
        if results:
            assert {r["name"] for r in results} <= {r.name for r in example.arms.planned(stage, protocol)}
    if protocol is not None:
        pilot_results = example.results.read_results(FOLDER / "results" / "pilot")
        example.rules.check_protocol(protocol, pilot_results)
