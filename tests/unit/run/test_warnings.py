"""Each warning is said once, with the key to look at, and stands in the run's last line again."""

import logging
from pathlib import Path

import numpy as np
import pytest

from megatron_coreward.config.keys import all_keys
from megatron_coreward.data.pairs import load_pairs
from megatron_coreward.data.sampler import PairSampler
from megatron_coreward.run.warnings import FIRST_RESPONSES, RULES, STEPS_WITHOUT_SIGNAL, RunWarnings
from megatron_coreward.types import QuestionPair, ScoredResponse, View
from megatron_coreward.utils.logging import repeated_warnings, setup_logging, warn
from tests.support.paths import ROOT

HEALTHY = {
    "reward/mean": 0.4,
    "original/answered": 0.9,
    "rephrased/answered": 0.8,
    "original/signal_groups": 0.5,
    "rephrased/signal_groups": 0.4,
    "diagnostics/original/pass@1": 0.3,
    "diagnostics/rephrased/pass@1": 0.2,
}
PROBE = {
    "probe/agreement": 0.5,
    "probe/answer_entropy": 0.8,
    "probe/top_answer_share": 0.1,
    "probe/answer_information": 2.0,
    "probe/kept_by_chance": 0.9,
}


def responses(count: int, answer: str = "7") -> list[ScoredResponse]:
    empty = np.zeros(0, np.int32)
    return [
        ScoredResponse(
            n, View.ORIGINAL, 0, (1,), empty, empty, f"words of response {n}", "stop", 0, answer=answer
        )
        for n in range(count)
    ]


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, logger="megatron_coreward.run.warnings")
    return caplog


def test_a_healthy_run_says_nothing(said: pytest.LogCaptureFixture) -> None:
    warnings = RunWarnings(total_steps=40)
    warnings.on_evaluation({"eval/greedy_pass@1": 0.5})
    for _ in range(2 * STEPS_WITHOUT_SIGNAL):
        warnings.on_step(HEALTHY, responses(FIRST_RESPONSES))
    warnings.on_evaluation({"eval/greedy_pass@1": 0.41})
    assert not said.records and warnings.summary() == ""


def test_what_was_wrong_with_the_data_stands_in_the_last_line(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "A?", "rephrased": "B?", "answer": ["1", "2"]}\n')
    with repeated_warnings() as said:
        load_pairs(str(file))
        PairSampler([QuestionPair(0, "A?", "B?", (1,), (2,))], batch_pairs=2)
    load_pairs(str(file))
    warnings = RunWarnings(total_steps=40, said=said)
    assert warnings.summary() == (
        "with 2 warnings: ground truths not read (look at data.original (its answers)); "
        "batches smaller than asked for (look at data.batch_pairs)"
    )
    warnings.on_step(HEALTHY, responses(1))
    warnings.on_evaluation({"eval/greedy_pass@1": 0.5})
    warnings.on_evaluation({"eval/greedy_pass@1": 0.1})
    assert warnings.summary().startswith("with 3 warnings: ground truths not read")


@pytest.mark.parametrize("share", [0.0, 0.02])
def test_a_model_that_does_not_box(said: pytest.LogCaptureFixture, share: float) -> None:
    warnings = RunWarnings(total_steps=40)
    silent = HEALTHY | {"original/answered": share, "rephrased/answered": share}
    warnings.on_step(silent, responses(FIRST_RESPONSES - 1, answer=""))
    assert not said.records, "too few to know"
    warnings.on_step(silent, responses(1, answer=""))
    warnings.on_step(silent, responses(1, answer=""))
    [line] = [record.getMessage() for record in said.records]
    assert line.startswith(f"no answers: {share:.0%} of the first 64 responses hold a boxed answer")
    assert "'words of response 0'" in line and "'words of response 1'" in line and "response 2" not in line
    assert "data.system_prompt" in line
    assert warnings.summary().startswith("with 1 warning: no answers (look at data.system_prompt")


def test_truths_that_never_match(said: pytest.LogCaptureFixture) -> None:
    warnings = RunWarnings(total_steps=40)
    wrong = HEALTHY | {"diagnostics/original/pass@1": 0.0, "diagnostics/rephrased/pass@1": 0.0}
    warnings.on_step(wrong, responses(FIRST_RESPONSES))
    assert "not one of the first 64 responses matches a ground truth. Look at data.original" in said.text


def test_without_truths_nothing_is_said_of_them(said: pytest.LogCaptureFixture) -> None:
    warnings = RunWarnings(total_steps=40)
    warnings.on_step({k: v for k, v in HEALTHY.items() if "diagnostics" not in k}, responses(FIRST_RESPONSES))
    assert not said.records


@pytest.mark.parametrize("total_steps", [3, STEPS_WITHOUT_SIGNAL, 40])
def test_no_signal(said: pytest.LogCaptureFixture, total_steps: int) -> None:
    warnings = RunWarnings(total_steps)
    flat = HEALTHY | {"original/signal_groups": 0.0, "rephrased/signal_groups": 0.0}
    needed = min(total_steps, STEPS_WITHOUT_SIGNAL)
    for step in range(1, needed + 1):
        assert not said.records, step
        warnings.on_step(flat, responses(1))
    assert f"no signal: in {needed} steps no group" in said.text and "rollout.samples" in said.text


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        (
            {"coreward/in_band": 0.0, "coreward/labelled": 0.0},
            "the entropy of every group's answers was outside",
        ),
        ({"coreward/in_band": 0.1, "coreward/labelled": 0.0}, "there were answers, but no group got a label"),
        ({"coreward/in_band": 0.1, "coreward/labelled": 0.1}, ""),
        ({"coreward/labelled": 0.0, "original/answered": 0.0, "rephrased/answered": 0.0}, ""),
    ],
)
def test_a_gate_that_excludes_every_group_is_said_in_the_first_step(
    figures: dict[str, float], message: str, said: pytest.LogCaptureFixture
) -> None:
    warnings = RunWarnings(total_steps=40)
    warnings.on_step(HEALTHY | figures, responses(1))
    warnings.on_step(HEALTHY | figures, responses(1))
    assert [message in r.getMessage() for r in said.records] == [True] * bool(message)
    later = RunWarnings(total_steps=40, records=[{"step": 1, **HEALTHY, "coreward/labelled": 0.5}])
    said.clear()
    later.on_step(HEALTHY | figures, responses(1))
    assert not said.records, "not the first step"


def test_one_wording_alone_is_looked_at(said: pytest.LogCaptureFixture) -> None:
    warnings = RunWarnings(total_steps=1)
    warnings.on_step({"reward/mean": 0.0, "original/signal_groups": 0.0}, responses(1))
    assert "no signal" in said.text


def test_accuracy_that_fell_also_across_a_resume(said: pytest.LogCaptureFixture) -> None:
    for records in ([], [{"step": 0, "eval/greedy_pass@1": 0.54}, {"step": 1, **HEALTHY}]):
        said.clear()
        warnings = RunWarnings(total_steps=40, records=records)
        if not records:
            warnings.on_evaluation({"eval/greedy_pass@1": 0.54})
        warnings.on_evaluation({"eval/greedy_pass@1": 0.13})
        warnings.on_evaluation({"eval/greedy_pass@1": 0.11})
        [line] = [record.getMessage() for record in said.records]
        assert "greedy_pass@1 fell from 0.540 to 0.130" in line and line.endswith("Look at optimizer.lr")


@pytest.mark.parametrize("first", [1, 3, 4])
def test_an_alarm_of_the_probe_is_said_once_also_across_a_resume(
    said: pytest.LogCaptureFixture, first: int
) -> None:
    """Rings at step 10, and is repeated by a run that goes on from there or later, though it is over then.

    `first` is how many probes there are with the first one of this part of the run.
    """
    kept = {0: 1.0, 5: 0.8, 10: 0.8, 15: 1.0}
    probes = [{"step": step, **PROBE, "probe/kept_majorities": k} for step, k in kept.items()]
    warnings = RunWarnings(total_steps=40, records=probes[: first - 1])
    for number in range(first, len(probes) + 1):
        warnings.on_probe(probes[:number])
    [line] = [record.getMessage() for record in said.records]
    assert line.startswith("forgetting alarm: at step 10 of the answers that the start model was sure of 20%")
    assert line.endswith("Look at optimizer.lr, algorithm.kl_coef")
    assert warnings.summary() == "with 1 warning: forgetting alarm (look at optimizer.lr, algorithm.kl_coef)"


def test_every_rule_names_keys_that_exist_and_stands_on_the_page() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()
    for rule in RULES:
        assert f"| {rule.name} |" in page
        for key in rule.key.split(", "):
            assert key.split(" ")[0] in all_keys(), key


@pytest.mark.parametrize(("rank", "shown"), [(0, 1), (1, 0)])
def test_a_warning_about_the_input_is_shown_once_whatever_the_ranks(
    rank: int, shown: int, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logging(rank)
    warn(logging.getLogger("megatron_coreward.data"), "few pairs", "data.batch_pairs", "there are %d", 3)
    logging.getLogger("megatron_coreward.data").warning("of this rank alone")
    said = capsys.readouterr().err
    assert said.count("there are 3") == shown and said.count("of this rank alone") == 1
