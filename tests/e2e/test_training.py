"""Complete runs with real Megatron-Core and real vLLM, as a user starts them, and their output files."""

import json
import signal
import time
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from transformers import AutoModelForCausalLM, AutoTokenizer

from megatron_coreward.utils.metrics import read_metrics
from tests.support.metric_names import undocumented
from tests.support.models import tiny_model
from tests.support.programs import TRAIN, kill, launch, settings, start, without_times, write_data

MISMATCH_MEAN, MISMATCH_MAX = 2e-5, 5e-4
SMALL_BLOCKS = "tests/support/small_blocks.py"


@pytest.fixture(scope="module")
def straight(apprentice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four uninterrupted steps at TP2, two rollout replicas, cached prefixes; ground truths are there."""
    folder = tmp_path_factory.mktemp("straight")
    output = folder / "run"
    result = launch(2, SMALL_BLOCKS, *resumable_settings(apprentice, output, write_data(folder / "data")))
    assert result.returncode == 0, result.stdout
    return output


def resumable_settings(model: Path, output: Path, data: Path, **overrides: object) -> list[str]:
    """Two optimizer steps per rollout batch and a cosine schedule: the case that resuming gets wrong.

    The evaluation asks training questions, so that an uninterrupted run finds prompts in its prefix cache
    that a resumed one has to compute.
    """
    return settings(
        model,
        output,
        data,
        run__steps=4,
        parallel__tensor=2,
        algorithm__updates_per_batch=2,
        weight_sync__verify="true",
        checkpoint__every=1,
        checkpoint__keep_last=0,
        evaluation__file=data / "train_original.parquet",
        evaluation__limit=48,
        evaluation__samples=1,
        evaluation__every=1,
        **overrides,
    )


def test_a_run_leaves_figures_rollouts_and_a_model(straight: Path, apprentice: Path) -> None:
    records = read_metrics(straight)
    assert [int(record["step"]) for record in records] == [0, 1, 2, 3, 4]
    for record in records[1:]:
        assert not undocumented(record.keys() - {"step"})
        assert record["mismatch/mean_abs"] < MISMATCH_MEAN
        assert record["mismatch/max_abs"] < MISMATCH_MAX
        assert 0 < record["reward/mean"] < 1, "without unequal rewards this run proves nothing"
        assert record["policy/grad_norm"] > 0
    assert {"eval/greedy_pass@1", "eval/pass@1", "eval/maj@1"} <= records[0].keys() & records[-1].keys()

    rows = pq.read_table(straight / "rollouts" / "step_000001.parquet").to_pylist()
    assert len(rows) == 16 * 2 * 8
    assert {row["weights_version"] for row in rows} == {0}
    assert {
        row["weights_version"]
        for row in pq.read_table(straight / "rollouts" / "step_000004.parquet").to_pylist()
    } == {3}

    model = AutoModelForCausalLM.from_pretrained(straight / "hf", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(straight / "hf")
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is 12 plus 30?"}], add_generation_prompt=True, return_tensors="pt"
    )
    ids = prompt["input_ids"] if not isinstance(prompt, torch.Tensor) else prompt
    text = tokenizer.decode(model.generate(ids, max_new_tokens=16, do_sample=False)[0, ids.shape[1] :])
    assert "\\boxed{" in text

    before = load_file(apprentice / "model.safetensors")
    after = load_file(straight / "hf" / "model.safetensors")
    assert before.keys() == after.keys()
    unchanged = [name for name in before if torch.equal(before[name], after[name])]
    assert not unchanged


def test_vllm_finds_the_last_evaluation_in_the_exported_folder(straight: Path, tmp_path: Path) -> None:
    result = launch(
        1,
        *("-m", "megatron_coreward.evaluate", "--model", str(straight / "hf"), "--output", str(tmp_path)),
        *(
            "--file",
            str(straight.parent / "data" / "train_original.parquet"),
            "--limit",
            "48",
            "--samples",
            "1",
        ),
    )
    assert result.returncode == 0, result.stdout
    found = json.loads((tmp_path / "summary.json").read_text())
    last = json.loads((straight / "evaluations" / "step_000004.json").read_text())
    [outcomes] = found["benchmarks"]["train_original"]["outcomes"]
    assert outcomes == {"seed": 1, **last["outcomes"]}


def test_every_tensor_changes_at_every_step(straight: Path) -> None:
    """Layers lie stacked in a checkpoint; each of them has to move."""
    steps = [_checkpoint_tensors(path) for path in sorted((straight / "checkpoints").iterdir())]
    assert len(steps) == 4
    for before, after in pairwise(steps):
        assert before.keys() == after.keys() and len(after) > 8
        for name, tensor in after.items():
            parts = zip(before[name], tensor, strict=True) if ".layers." in name else [(before[name], tensor)]
            assert not any(torch.equal(old, new) for old, new in parts), name


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_or_killed_run_goes_on_as_if_nothing_had_happened(
    how: signal.Signals, straight: Path, apprentice: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    arguments = resumable_settings(apprentice, output, write_data(tmp_path / "data"))
    process = start(2, SMALL_BLOCKS, *arguments)
    deadline = time.monotonic() + 300
    while len(read_metrics(output)) < 3:  # the evaluation before and two steps
        assert process.poll() is None and time.monotonic() < deadline, "the run did not reach step 2"
        time.sleep(0.1)
    if how == signal.SIGTERM:
        process.send_signal(how)
        _, messages = process.communicate(timeout=120)
        assert "run.resume=true" in messages
        assert (output / "checkpoints" / f"step_{int(read_metrics(output)[-1]['step']):06d}").is_dir()
    else:
        kill(process)
    assert int(read_metrics(output)[-1]["step"]) < 4, "the run ended before the signal came"

    refused = launch(2, *TRAIN, *arguments)
    assert refused.returncode != 0 and "run.resume" in refused.stdout

    resumed = launch(2, SMALL_BLOCKS, *arguments, "run.resume=true")
    assert resumed.returncode == 0, resumed.stdout
    assert _weights(output).keys() == _weights(straight).keys()
    for name, tensor in _weights(straight).items():
        assert torch.equal(tensor, _weights(output)[name]), name
    assert without_times(output) == without_times(straight)
    assert _lines(output) == _lines(straight), "a step is there twice, or missing"
    assert _texts(output, 4) == _texts(straight, 4)


def test_experts_on_two_ranks_train_and_reach_the_engine(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", "qwen3_moe", tied=False, kv_heads=2)
    output, data = tmp_path / "run", write_data(tmp_path / "data")
    options = settings(
        model,
        output,
        data,
        run__steps=2,
        parallel__expert=2,
        reward__method="random",  # the model answers nothing, and shall be moved all the same
        weight_sync__verify="true",
    )
    result = launch(2, *TRAIN, *options)
    assert result.returncode == 0, result.stdout
    steps = [record for record in read_metrics(output) if "mismatch/mean_abs" in record]
    assert len(steps) == 2
    for record in steps:
        assert record["mismatch/mean_abs"] < MISMATCH_MEAN and record["policy/grad_norm"] > 0
    before, after = (load_file(folder / "model.safetensors") for folder in (model, output / "hf"))
    assert before.keys() == after.keys()
    assert not any(torch.equal(before[name], after[name]) for name in before if "experts" in name)


def test_a_second_run_in_the_folder_is_refused(apprentice: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = settings(
        apprentice, output, write_data(tmp_path / "data"), run__steps=50, checkpoint__every=1
    )
    process = start(1, *TRAIN, *arguments)
    deadline = time.monotonic() + 300
    while not list(output.glob("checkpoints/step_*")):
        assert process.poll() is None and time.monotonic() < deadline, "the run did not reach step 1"
        time.sleep(0.1)
    second = launch(1, *TRAIN, *arguments, "run.resume=true")
    running = process.poll() is None
    kill(process)
    assert running, "the first run has ended: this proves nothing"
    assert second.returncode == 2 and "Traceback" not in second.stdout
    assert f"in use by process {process.pid}" in second.stdout and "run.output_dir" in second.stdout


def test_resume_without_a_complete_checkpoint_keeps_the_old_figures(
    straight: Path, apprentice: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    (output / "checkpoints" / "step_000002").mkdir(parents=True)
    figures = (straight / "metrics.jsonl").read_text()
    (output / "metrics.jsonl").write_text(figures)
    result = launch(
        1, *TRAIN, *settings(apprentice, output, write_data(tmp_path / "data")), "run.resume=true"
    )
    assert result.returncode == 2
    assert "run.resume=true, but" in result.stdout and "Traceback" not in result.stdout
    assert (output / "metrics.jsonl").read_text() == figures


@pytest.mark.parametrize("truth", ["poisoned", "empty", "absent"])
def test_training_never_sees_ground_truth(
    truth: str, reference_run: Path, apprentice: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    result = launch(
        1, *TRAIN, *settings(apprentice, output, write_data(tmp_path / "data", truth), run__steps=2)
    )
    assert result.returncode == 0, result.stdout
    for name, tensor in _weights(reference_run).items():
        assert torch.equal(tensor, _weights(output)[name]), name
    assert _texts(output, 2) == _texts(reference_run, 2)


@pytest.fixture(scope="module")
def reference_run(apprentice: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two steps on one rank with the true answers beside the questions."""
    folder = tmp_path_factory.mktemp("reference")
    result = launch(
        1, *TRAIN, *settings(apprentice, folder / "run", write_data(folder / "data"), run__steps=2)
    )
    assert result.returncode == 0, result.stdout
    records = read_metrics(folder / "run")
    assert "diagnostics/original/label_accuracy" in records[-1]
    assert records[-1]["original/signal_groups"] > 0
    return folder / "run"


def _checkpoint_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The model's tensors, by Megatron name."""
    reader = FileSystemReader(path)
    stored = reader.read_metadata().state_dict_metadata
    tensors = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in stored.items()
        if isinstance(entry, TensorStorageMetadata) and not name.startswith("optimizer")
    }
    torch.distributed.checkpoint.load(tensors, storage_reader=reader, no_dist=True)
    return tensors


def _weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "hf" / "model.safetensors")


def _texts(run: Path, step: int) -> list[str]:
    return pq.read_table(run / "rollouts" / f"step_{step:06d}.parquet")["text"].to_pylist()


def _lines(run: Path) -> list[tuple[int, ...]]:
    """Step and number of figures of every line, but for the seconds a checkpoint took: a killed run may have
    saved without getting to write that down."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(record["step"], len(record)) for record in records if "time/checkpoint" not in record]
