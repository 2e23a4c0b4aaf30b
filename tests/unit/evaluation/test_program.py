"""The evaluation program's output files and refusals, with a scripted engine."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.config.schema import Config
from megatron_coreward.data.prompts import load_tokenizer
from megatron_coreward.evaluation import program as module
from megatron_coreward.evaluation import report
from megatron_coreward.evaluation.inputs import Benchmark, EvaluationInputs
from megatron_coreward.evaluation.measures import Scores, compare
from megatron_coreward.evaluation.model import EvaluatedModel
from megatron_coreward.grading.grader import Grader
from tests.support.fakes import run_threads
from tests.support.models import tiny_model
from tests.support.paths import ROOT
from tests.support.scripted import SCRIPT, ScriptedEngine, config, questions

SIZES = ["data.max_prompt_tokens=200", "rollout.max_response_tokens=16"]
START = ROOT / "examples" / "arithmetic_arms" / "start_model"


def inputs(output: Path | None, ks: list[int], seeds: list[int], samples: int = 4) -> EvaluationInputs:
    benchmarks = [
        Benchmark("all", "all.json", questions(), dropped=2),
        Benchmark("easy", "easy.json", questions()[:1], dropped=0),
    ]
    settings: Config = config(samples)
    settings.model.path = "some/model"
    model = EvaluatedModel(
        config=settings,
        folder=START,
        checkpoint=None,
        scratch=None,
        shape=read_shape(START),
        tokenizer=load_tokenizer(str(START)),
        stop_ids=(),
    )
    return EvaluationInputs(model=model, benchmarks=benchmarks, ks=ks, seeds=seeds, output=output)


def measure(given: EvaluationInputs, world_size: int = 1) -> dict[str, Any]:
    def work(comm: Any) -> None:
        engine = ScriptedEngine(SCRIPT, comm.rank, world_size)
        grader = Grader("math")
        module.measure_all(given, engine, comm, grader)

    run_threads(world_size, work)
    assert given.output is not None
    return json.loads((given.output / report.SUMMARY_FILE).read_text())


def value(part: dict[str, Any], measure: str) -> float:
    return part["metrics"][measure]["value"]


def test_summary_by_hand(tmp_path: Path) -> None:
    summary = measure(inputs(tmp_path, ks=[1, 2, 4], seeds=[1]))
    assert (summary["model"], summary["samples"], summary["ks"]) == ("some/model", 4, [1, 2, 4])
    assert list(summary["benchmarks"]) == ["all", "easy"]
    found = summary["benchmarks"]["all"]
    assert (found["file"], found["questions"], found["dropped"]) == ("all.json", 5, 2)
    assert value(found, "greedy_pass@1") == 0.4
    assert value(found, "avg@4") == value(found, "pass@1") == pytest.approx(0.35)
    assert value(found, "pass@4") == 0.8
    assert value(found, "maj@4") == 0.6
    # Of the 6 pairs of samples: 3 loses that of places 2 and 3 (a tie, and 5 comes first), 10 wins those with
    # its first sample, 6 all but that of the two 3s, 5 those with its last sample.
    assert value(found, "maj@2") == pytest.approx((5 / 6 + 3 / 6 + 5 / 6 + 3 / 6 + 0) / 5)
    interval = found["metrics"]["maj@4"]
    assert 0 <= interval["low"] < 0.6 < interval["high"] <= 1
    assert {level: part["questions"] for level, part in found["levels"].items()} == {
        "Level 1": 2,
        "Level 2": 2,
    }
    assert value(found["levels"]["Level 1"], "avg@4") == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert found["subjects"] == {}
    assert found["responses"]["greedy"] == {"no_answer": 0.4, "cut_off": 0.4, "mean_tokens": 5}
    assert value(summary["benchmarks"]["easy"], "avg@4") == 0.75


def test_outcomes_of_a_summary_compare(tmp_path: Path) -> None:
    found = measure(inputs(tmp_path, ks=[1, 4], seeds=[1]))["benchmarks"]["all"]
    [outcomes] = found["outcomes"]
    assert outcomes["seed"] == 1
    assert outcomes["question_id"] == [3, 10, 6, 5, 8]
    assert outcomes["majority"] == [1, 0, 1, 1, 0], "the vote that training evaluations report"
    scores = Scores.from_outcomes(found["outcomes"])
    assert scores.metrics() == pytest.approx(
        {"eval/greedy_pass@1": 0.4, "eval/pass@1": 0.35, "eval/maj@4": 0.6}
    )
    assert compare(scores, scores, bootstrap_seed=1)["eval/pass@1"] == (0, 0, 0)


def test_seeds_draw_anew_and_the_greedy_response_once(tmp_path: Path) -> None:
    """The second seed gets the next two samples of the script."""
    found = measure(inputs(tmp_path, ks=[1, 2], seeds=[5, 6], samples=2))["benchmarks"]["all"]
    estimate = found["metrics"]["avg@2"]
    assert estimate["by_seed"] == [pytest.approx((1 + 1 / 2 + 1) / 5), pytest.approx((1 / 2 + 1 / 2) / 5)]
    assert estimate["value"] == pytest.approx(0.35)
    assert estimate["spread"] == pytest.approx((0.5 - 0.2) / 2**0.5)
    assert "spread" not in found["metrics"]["greedy_pass@1"]
    assert [outcomes["seed"] for outcomes in found["outcomes"]] == [5, 6]
    rows = pq.read_table(tmp_path / "all.parquet").to_pylist()
    assert [(row["decoding"], row["seed"], row["sample"]) for row in rows if row["question_id"] == 3] == [
        ("greedy", 5, 0),
        ("sampled", 5, 0),
        ("sampled", 5, 1),
        ("sampled", 6, 0),
        ("sampled", 6, 1),
    ]


def test_greedy_only(tmp_path: Path) -> None:
    summary = measure(inputs(tmp_path, ks=[], seeds=[1]))
    found = summary["benchmarks"]["all"]
    assert list(found["metrics"]) == ["greedy_pass@1"]
    assert found["responses"]["sampled"] == {}
    assert len(pq.read_table(tmp_path / "all.parquet")) == 5
    assert (
        "| all | 5<br>2 too long | 0.400<br>0.000 to 0.800 |" in (tmp_path / report.TABLES_FILE).read_text()
    )


def test_ranks_change_nothing(tmp_path: Path) -> None:
    found = []
    for ranks in (1, 2):
        output = tmp_path / f"{ranks}"
        output.mkdir()
        summary = measure(inputs(output, ks=[1, 4], seeds=[1]), ranks)
        found.append((summary, pq.read_table(output / "all.parquet").to_pylist()))
    (alone, one), (together, two) = found
    assert alone == together
    assert one == two and len(one) == 5 * 5


def test_tables_have_a_row_for_each_benchmark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure(inputs(tmp_path, ks=[1, 2, 4], seeds=[1]))
    text = (tmp_path / report.TABLES_FILE).read_text()
    titles = re.findall(r"\*\*(.*)\*\*", text)
    assert titles == [
        "some/model: 95% intervals over questions, 4 samples at temperature 0.8",
        *("pass@k", "maj@k", "by level", "responses"),
    ]
    assert re.search(
        r"\| all \| 5<br>2 too long \| 0\.400<br>.* \| 0\.350<br>.* \| 0\.800<br>.* \| 0\.600<br>", text
    )
    assert "| easy | 1 | 1.000<br>1.000 to 1.000 | 0.750<br>" in text
    shown = capsys.readouterr().out
    for expected in (*titles[1:], "greedy_pass@1", "0.350", "maj@2", "Level 2", "2 too long"):
        assert expected in shown


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), context=256)


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> list[EvaluationInputs]:
    """The inputs that would have been evaluated."""
    accepted: list[EvaluationInputs] = []
    monkeypatch.setattr(module, "run", lambda inputs: accepted.append(inputs) or 0)
    return accepted


def arguments(model: Path, folder: Path) -> list[str]:
    file = folder / "questions.jsonl"
    file.write_text('{"question": "1+1?", "answer": "2"}\n{"question": "2+2?", "answer": "4"}\n')
    return ["--model", str(model), "--file", str(file), *SIZES]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--samples", "0"], "evaluation.samples is 0"),
        (["--samples", "1001"], "--samples is 1001, but must be at most 1000"),
        (["evaluation.temperature=-1"], "evaluation.temperature is -1"),
        (["run.seed=-1"], "run.seed is -1"),
        (["--seeds", "0"], "--seeds is 0, but must be at least 1"),
        (["--samples", "4", "--k", "1,8"], "--k is 1,8, but each k must be from 1 to --samples (4)"),
        (["--k", "0"], "--k is 0, but each k must be from 1"),
        (["--k", "1;2"], "--k is '1;2', but must be whole numbers with commas"),
        (["--greedy-only", "--seeds", "2"], "--greedy-only samples nothing"),
        (["--greedy-only", "--k", "1"], "--greedy-only samples nothing"),
        (["rollout.max_response_tokens=1000"], "= 1200 tokens, but the model's context is 256"),
        (["data.max_prompt_tokens=0"], "data.max_prompt_tokens is 0"),
        (
            ["data.max_prompt_tokens=1"],
            "data.max_prompt_tokens=1: all 2 evaluation questions have a longer prompt",
        ),
        (
            ["rollout.tensor_parallel_size=2"],
            "tensor_parallel_size is 2, but must divide the 1 ranks",
        ),
        (["rollout.tensor_paralel_size=2"], "rollout.tensor_parallel_size"),
        (["--file", "missing.json"], "missing.json"),
        (["--file", "{folder}/gaps.jsonl"], "lines 2, 3 have no answer"),
        (["--file", "{folder}/questions.jsonl"], "both called questions; give one of them another name"),
        (["--labels", "missing.json"], "--labels=missing.json: no such file"),
        (["--labels", "{folder}/other.jsonl"], "other.jsonl has none of the questions"),
        (["--output", "{folder}/other.jsonl/folder"], "--output"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    accepted: list[EvaluationInputs],
    given: list[str],
    expected: str,
) -> None:
    (tmp_path / "gaps.jsonl").write_text(
        '{"question": "1?", "answer": 1}\n{"question": "2?"}\n{"question": "3?"}'
    )
    (tmp_path / "other.jsonl").write_text('{"question": "Other?", "answer": 1}\n')
    changed = [argument.format(folder=tmp_path) for argument in given]
    assert module.main([*arguments(model, tmp_path), *changed]) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error
    assert not accepted, "the engine would have been built"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--model", "missing"], "--model is 'missing'"),
        (["--checkpoint", "{folder}"], "state.json is missing"),
        (["--checkpoint", "{model}"], "is no complete checkpoint: it is a Hugging Face folder"),
        (["--model", "{model}"], "no questions: give --file"),
    ],
)
def test_nothing_to_evaluate(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: list[str], expected: str
) -> None:
    changed = [argument.format(folder=tmp_path, model=model) for argument in given]
    assert module.main([*changed, *SIZES]) == 2
    assert expected in capsys.readouterr().err


def test_model_and_checkpoint_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        module.main(["--model", "a", "--checkpoint", "b"])
    assert "not allowed with argument" in capsys.readouterr().err


def test_inputs(model: Path, tmp_path: Path, accepted: list[EvaluationInputs]) -> None:
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps([{"question": " 2+2?", "answer": "4", "level": 3, "subject": "Sums"}]))
    long = tmp_path / "long.json"
    long.write_text(json.dumps([{"prompt": "x" * 200, "answer": "1"}, {"prompt": "y?", "answer": "1"}]))
    given = [
        "--file",
        f"tiny={long}",
        "--labels",
        str(labels),
        "--samples",
        "6",
        "--seeds",
        "2",
        "run.seed=4",
    ]
    assert module.main([*arguments(model, tmp_path), *given]) == 0
    [read] = accepted
    assert (read.ks, read.seeds) == ([1, 2, 4, 6], [4, 5])
    first, second = read.benchmarks
    assert (first.name, second.name, second.file) == ("questions", "tiny", str(long))
    assert [(q.level, q.subject) for q in first.questions] == [("", ""), ("3", "Sums")]
    assert (first.dropped, second.dropped, [q.question_id for q in second.questions]) == (0, 1, [1])


def test_a_chosen_k(model: Path, tmp_path: Path, accepted: list[EvaluationInputs]) -> None:
    assert module.main([*arguments(model, tmp_path), "--k", "8,1,8"]) == 0
    assert accepted[0].ks == [1, 8]


@pytest.mark.parametrize(("flag", "key"), module.MOVED.items())
def test_an_option_that_is_a_key_now_names_it(
    flag: str, key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        module.main(["--model", "any", flag, "7"])
    assert ended.value.code == 2
    assert f"write {key}=7" in capsys.readouterr().err
