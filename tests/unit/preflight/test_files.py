"""What cannot run is refused with one line before anything is built: by a dry run, a run and an evaluation.

Models are real (tiny) folders, each spoiled in one way. Run and dry run read through the same function.
"""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from megatron_coreward.actor.checkpoint.folder import copy_hf_files, saved_sizes, write_state
from megatron_coreward.config.model_shape import ModelShape, read_shape
from megatron_coreward.evaluation import program as evaluate
from megatron_coreward.preflight import files
from megatron_coreward.train import main as train
from tests.support.hub import REPOSITORY, use_cache, write_cache
from tests.support.models import tiny_model
from tests.support.spoiled import POINTER, SPOILED, WEIGHTS, set_json, write


class Programs:
    """train --dry-run, train and evaluate in this process: exit code and the one line of the error."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.questions = folder / "questions.jsonl"
        self.questions.write_text('{"question": "1+1?", "answer": "2"}\n')

    def train(self, model: Any, *overrides: str, dry: bool = True) -> tuple[int, str]:
        given = [f"model.path={model}", f"run.output_dir={self.folder / 'run'}", "rollout.memory_gb=0.1"]
        given += ["data.source=synthetic", "data.synthetic_pairs=200", "evaluation.limit=3", *overrides]
        return self._code_and_text(train(["--dry-run", *given] if dry else given))

    def evaluate(self, model: Any, *overrides: str) -> tuple[int, str]:
        given = ["--model", str(model), "--file", str(self.questions), *overrides]
        return self._code_and_text(evaluate.main(given))

    def _code_and_text(self, code: int) -> tuple[int, str]:
        output = self.capsys.readouterr()
        assert "Traceback" not in output.err
        errors = [line for line in output.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code != 0), output.err
        return code, errors[0] if errors else output.out

    def refused(self, message: str, model: Any, *overrides: str) -> None:
        for dry in (True, False):
            code, text = self.train(model, *overrides, dry=dry)
            assert code == 2 and message in text, text
        assert not (self.folder / "run").exists()


@pytest.fixture
def programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Programs:
    return Programs(tmp_path, capsys)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def model(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "model")


@pytest.mark.parametrize("kind", SPOILED)
def test_a_spoiled_model_is_refused(kind: str, model: Path, programs: Programs) -> None:
    edit, message = SPOILED[kind]
    edit(model)
    programs.refused(message, model)


def test_a_sound_model_is_planned(model: Path, programs: Programs) -> None:
    code, text = programs.train(model)
    assert code == 0 and "nothing was built" in text and "not read" not in text


@pytest.mark.parametrize("kind", sorted(set(SPOILED) - {"fewer layers", "a tensor too many", "another head"}))
def test_an_evaluation_refuses_it_too(kind: str, model: Path, programs: Programs) -> None:
    edit, message = SPOILED[kind]
    edit(model)
    code, text = programs.evaluate(model)
    assert code == 2 and message.rpartition("(model.path)")[2] in text, text


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rollout.temperature=2.5", "rollout.temperature is 2.5, but must be at least 0.01 and at most 2."),
        ("evaluation.temperature=3", "evaluation.temperature is 3.0, but must be at least 0.01 and at most"),
        ("run.seed=5000000000", "run.seed is 5000000000, but must be at least 0 and at most 4294967295."),
        ("run.seed=4294967296", "run.seed is 4294967296, but"),
        ("reward.equality=foo", "reward.equality is 'foo', but must be one of math, exact."),
        ("rollout.memory_gb=-1", "rollout.memory_gb is -1.0, but must be above 0."),
        ("reward.workers=0", "reward.workers is 0, but must be at least 1."),
        ("reward.timeout_s=0", "reward.timeout_s is 0.0, but must be above 0."),
        ("model.dtype=float16", "model.dtype is 'float16', but must be one of auto, float32, bfloat16."),
        ("rollout.max_num_seqs=0", "rollout.max_num_seqs is 0, but must be at least 1."),
        ("rollout.memory_gb=1000000", "rollout.memory_gb is 1e+06, but this machine has"),
        ("rollout.tensor_parallel_size=2", "rollout.tensor_parallel_size is 2, but must divide the 1 ranks."),
        ("rollout.max_response_tokens=5000", "but the model's context is 4096"),
    ],
)
def test_settings_are_refused_by_training_and_evaluation(
    override: str, message: str, model: Path, programs: Programs
) -> None:
    programs.refused(message, model, override)
    code, text = programs.evaluate(model, override)
    assert code == 2 and message in text, text


def test_the_largest_seed(model: Path, programs: Programs) -> None:
    assert programs.train(model, "run.seed=4294967295", "rollout.temperature=2")[0] == 0
    code, text = programs.evaluate(model, "run.seed=4294967295", "--seeds", "2")
    assert code == 2 and "no seed may be above 4294967295" in text


def test_an_adapter_alone(tmp_path: Path, programs: Programs) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    write("adapter_config.json", '{"base_model_name_or_path": "owner/base"}')(folder)
    write("adapter_model.safetensors", "x")(folder)
    programs.refused("holds a LoRA adapter of owner/base", folder)


def test_what_a_folder_is_instead_of_a_model(tmp_path: Path, model: Path, programs: Programs) -> None:
    run = tmp_path / "other_run"
    step = run / "checkpoints" / "step_000003"
    step.mkdir(parents=True)
    (run / "metrics.jsonl").touch()
    programs.refused("without an exported model (hf/). Set model.checkpoint to one of its checkp", run)
    programs.refused(f"for example {step}, and model.path to its start model", run / "checkpoints")
    shutil.copytree(model, run / "hf")
    programs.refused(f"{run} is a run's folder. Set model.path to its model, {run / 'hf'}.", run)
    (step / "state.json").write_text("{}")
    programs.refused(f"{step} is a checkpoint. Set model.checkpoint to it", step)
    gguf = tmp_path / "gguf"
    gguf.mkdir()
    (gguf / "model.Q4_K_M.gguf").touch()
    programs.refused("holds GGUF (model.Q4_K_M.gguf), which is not read", gguf)
    programs.refused("GGUF is not read: take the folder", gguf / "model.Q4_K_M.gguf")
    shutil.copytree(model, tmp_path / "models" / "toy")
    programs.refused(f"Set model.path to one: {tmp_path / 'models' / 'toy'}.", tmp_path / "models")
    cached = shutil.copytree(model, tmp_path / "models--owner--toy" / "snapshots" / "0a1b")
    programs.refused(f"Set model.path to one: {cached}.", cached.parents[1])
    programs.refused(f"holds config.json, {model}.", model / "model.safetensors")
    data = tmp_path / "data"
    data.mkdir()
    programs.refused(f"{data} is empty. Put a model there: hf download", data)
    (data / "train.parquet").touch()
    programs.refused("holds data (train.parquet), which data.original", data)
    code, text = programs.evaluate(run)
    assert code == 2 and f"{run} is a run's folder. Set --model to its model, {run / 'hf'}." in text


def test_half_a_download(model: Path, programs: Programs) -> None:
    """With and without config.json, as the hub's client leaves a --local-dir that it was stopped at."""
    unfinished = model / ".cache" / "huggingface" / "download" / "model.safetensors.0a1b.incomplete"
    unfinished.parent.mkdir(parents=True)
    unfinished.touch()
    assert programs.train(model)[0] == 0, "all is there"
    message = f"A download to {model} has not ended (1 files *.incomplete)."
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    programs.refused(message, model)
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    write("model.safetensors.index.json", json.dumps({"weight_map": shards}))(model)
    programs.refused(f"are missing: {shards['b']}. {message}", model)
    (model / "config.json").unlink()
    programs.refused(message, model)


def test_data_is_read_as_by_the_run(tmp_path: Path, model: Path, programs: Programs) -> None:
    good = [{"original_question": f"{i}+1?", "rephrased_question": f"1 plus {i}?"} for i in range(200)]
    bad: dict[str, tuple[str, str]] = {
        "columns.jsonl": ('{"words": "1+1?"}\n', "no column"),
        "row.jsonl": ('{"original_question": "", "rephrased_question": "b"}\n', "line 1"),
        "broken.jsonl": ("{\n", "not readable as JSON lines"),
        "empty.jsonl": ("", "the file is empty"),
        "pointer.parquet": (POINTER, "this is a Git LFS pointer, not the data"),
        "none.parquet": ("x", "not readable as Parquet"),
    }
    for name, (text, message) in bad.items():
        (tmp_path / name).write_text(text)
        programs.refused(message, model, "data.source=parquet", f"data.original={tmp_path / name}")
        programs.refused(message.split(":")[0][:9], model, f"evaluation.file={tmp_path / name}")
    programs.refused(
        "a folder. Set it to a file in it (", model, "data.source=parquet", f"data.original={tmp_path}"
    )
    file = tmp_path / "good.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in good))
    given = ("data.source=parquet", f"data.original={file}", "data.batch_pairs=10")
    code, text = programs.train(model, *given)
    assert code == 0 and "200 pairs / 10 = 20" in text
    programs.refused("all 200 pairs have a longer prompt", model, *given, "data.max_prompt_tokens=5")


def write_checkpoint(folder: Path, shape: ModelShape) -> Path:
    """All of a checkpoint that is read before Megatron is: state.json, and the metadata of its tensors."""
    from torch.distributed.checkpoint import save

    layers, mlp = shape.layers, "decoder.layers.mlp.linear_fc2.weight"
    save({mlp: torch.zeros(layers, shape.hidden, shape.intermediate)}, checkpoint_id=folder, no_dist=True)
    copy_hf_files(shape.folder, folder / "hf")
    write_state(folder, {"architecture": shape.architecture, "dims": saved_sizes(shape)}, {})
    return folder


def test_a_checkpoint_to_start_from(tmp_path: Path, model: Path, programs: Programs) -> None:
    own = write_checkpoint(tmp_path / "own", read_shape(model))
    assert programs.train(model, f"model.checkpoint={own}")[0] == 0
    programs.refused(
        "model.checkpoint: /nope is no complete checkpoint: there is no such folder",
        *(model, "model.checkpoint=/nope"),
    )
    programs.refused("it is a Hugging Face folder", model, f"model.checkpoint={model}")
    for name, sizes, difference in (
        ("deeper", {"layers": 3}, "num_layers is 3 in the checkpoint and 2 in the model"),
        ("wider", {"overrides": 0}, "mlp is 128 in the checkpoint and 96 in the model"),
    ):
        options = sizes if name == "deeper" else {"intermediate_size": 128}
        other = read_shape(tiny_model(tmp_path / f"{name}_model", **options))
        path = write_checkpoint(tmp_path / name, other)
        message = f"{path} is of another model than model.path: {difference}"
        programs.refused(message, model, f"model.checkpoint={path}")
    next(own.glob("*.distcp")).write_bytes(b"")
    programs.refused("has 0 bytes instead of", model, f"model.checkpoint={own}")


def test_a_hub_model_that_is_not_in_the_cache_is_planned(
    tmp_path: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def offline(name: str, **options: Any) -> str:
        raise FileNotFoundError(f"{name} is nowhere\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    code, text = programs.train("owner/name")
    assert code == 0 and "200 pairs / 128 = 1" in text and "KV cache" not in text
    [line] = [line for line in text.splitlines() if "not read" in line]
    assert line.startswith("Dry run: model not read: owner/name is not in the cache (owner/name is nowhere)")
    assert "; data not read with its tokenizer: planned for all 200 pairs" in line
    code, text = programs.train("owner/name", dry=False)
    assert code == 2 and "as a hub id it could not be fetched" in text
    code, text = programs.train("owner/name", "data.source=parquet", f"data.original={tmp_path / 'gone'}")
    assert code == 2 and "there is no such file" in text


def test_data_sets_that_are_not_in_the_cache_are_planned(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """From the batch and the limits, with a line about it; what is in the cache is read."""
    use_cache(tmp_path / "hub", monkeypatch)
    pairs = "".join(f'{{"question": "{n}+1?", "rephrased": "{n} and 1?"}}\n' for n in range(7)).encode()
    test = b"question,answer\n1+1?,2\n"
    by_id = ("data.source=parquet", f"data.original=hf://{REPOSITORY}/pairs.jsonl")
    tested = f"evaluation.file=hf://{REPOSITORY}/test.csv"
    unread = "Dry run: data not read: not in the cache, the run fetches "
    code, text = programs.train(model, *by_id, tested, "data.limit=77")
    assert code == 0 and f"{unread}data.original, evaluation.file" in text
    assert "77 pairs / 77 = 1" in text and "KV cache" in text
    code, text = programs.train("owner/name", *by_id, "data.batch_pairs=5")
    assert code == 0 and "; data not read: not in the cache, the run fetches data.original" in text
    assert "5 pairs / 5 = 1" in text
    code, text = programs.train(model, *by_id, tested, dry=False)
    assert code == 2 and f"data.original=hf://{REPOSITORY}/pairs.jsonl: could not be fetched (" in text
    write_cache(tmp_path / "hub", {"pairs.jsonl": pairs})
    code, text = programs.train(model, *by_id, tested)
    assert code == 0 and f"{unread}evaluation.file" in text and "7 pairs / 7 = 1" in text
    write_cache(tmp_path / "hub", {"test.csv": test})
    code, text = programs.train(model, *by_id, tested)
    assert code == 0 and "not read" not in text
    programs.refused(
        f"data.original=hf://{REPOSITORY}: this names no file; set data.original to hf://{REPOSITORY}/FILE; "
        "its data files in the cache are: pairs.jsonl, test.csv",
        *(model, "data.source=parquet", f"data.original=hf://{REPOSITORY}"),
    )
    programs.refused("a data set reads hf://OWNER/NAME", model, "evaluation.file=hf://name")


def test_an_evaluation_reads_data_sets_and_columns_of_other_names(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The file is read before the model's context is found too short, and refused before."""
    use_cache(tmp_path / "hub", monkeypatch)
    write_cache(tmp_path / "hub", {"test.csv": b"text,key\n1+1?,\n"})
    programs.questions = f"hf://{REPOSITORY}/test.csv"
    named = ("data.question_column=text", "data.answer_column=key")
    small = ("data.max_prompt_tokens=48", "rollout.max_response_tokens=8")
    code, text = programs.evaluate(model, *small, *named)
    assert code == 2 and "test.csv:2: line 2 has no answer: column 'key' is blank" in text
    code, text = programs.evaluate(model, *small)
    assert code == 2 and "'problem' among text, key; these names are read; data.question_column=NAME" in text


def test_a_dry_run_fetches_no_weights(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def fetch(name: str, allow_patterns: list[str], local_files_only: bool = False) -> str:
        assert local_files_only or not any("safetensors" in pattern for pattern in allow_patterns)
        return str(model)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    code, text = programs.train("owner/name")
    assert code == 0 and "not read" not in text, "it is in the cache"
    (model / WEIGHTS).unlink()
    code, text = programs.train("owner/name")
    assert code == 0 and "weights not read: those of owner/name are not in the cache" in text
    assert "KV cache" in text
    set_json("config.json", rms_norm_eps="1")(model)
    code, text = programs.train("owner/name")
    assert code == 2 and "rms_norm_eps is '1'" in text


def test_a_disk_that_checkpoints_fill(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    free = {"bytes": 1 << 20}
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(0, 0, free["bytes"]))
    few = ("run.steps=40", "checkpoint.every=10", "checkpoint.keep_last=2", "model.dtype=float32")
    programs.refused("GiB are free, but checkpoints and the export take at least", model, *few)
    parameters = sum(tensor.numel() for tensor in load_file(model / WEIGHTS).values())
    needed = 3 * 12 * parameters + 4 * parameters  # two that stay, one that is being written, the export
    free["bytes"] = needed
    assert programs.train(model, *few)[0] == 0
    free["bytes"] = int(0.9 * needed)
    programs.refused("keep fewer (checkpoint.keep_last", model, *few)
    assert programs.train(model, *few, "checkpoint.keep_last=1")[0] == 0


def test_checkpoints_that_are_there_count_as_free(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage(0, 0, 1 << 20))
    step = programs.folder / "run" / "checkpoints" / "step_000010"
    step.mkdir(parents=True)
    (step / "__0_0.distcp").write_bytes(bytes(1 << 23))
    assert programs.train(model, "run.resume=true", "run.steps=40")[0] == 0


def test_ranks_of_a_machine_share_its_memory(
    model: Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    third = psutil.virtual_memory().total / 2**30 / 3
    assert programs.train(model, f"rollout.memory_gb={third}")[0] == 0
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    programs.refused("GiB of memory for 4 rank(s)", model, f"rollout.memory_gb={third}")


def test_pickled_weights_and_none(model: Path, programs: Programs) -> None:
    (model / WEIGHTS).rename(model / "pytorch_model.bin")
    programs.refused("pickled weights (*.bin, *.pt) can run code and are not read", model)
    assert re.search("tokenizer", programs.evaluate(model)[1]) is None


def test_the_command_for_pickled_weights(model: Path, programs: Programs) -> None:
    """The way out that the error names, as it stands there."""
    torch.save(load_file(model / WEIGHTS), model / "pytorch_model.bin")
    (model / WEIGHTS).unlink()
    code, text = programs.train(model)
    assert code == 2
    command = shlex.split(text.partition("If you trust them: ")[2])
    assert command[0] == "python"
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    assert programs.train(model)[0] == 0
