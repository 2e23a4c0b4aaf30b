"""The conversion tool's answers to wrong input: exit code 2, one clear message, and nothing left behind."""

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_coreward.cli.convert import main, num_bytes
from tests.distributed.checkpoint.checkpoint_runs import files_up_to
from tests.support.models import tiny_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Q, K, NORM = (
    f"model.layers.1.{name}.weight" for name in ("self_attn.q_proj", "self_attn.k_proj", "input_layernorm")
)
INV_FREQ = "model.layers.0.self_attn.rotary_emb.inv_freq"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
Edit = Callable[[Path], None]
GROUP_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Tool:
    """The program in this process: exit code and what it printed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch = monkeypatch
        self.capsys = capsys

    def __call__(self, *arguments: object) -> tuple[int, str]:
        for name in GROUP_VARIABLES:
            self.monkeypatch.delenv(name, raising=False)
        self.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        code = main([str(argument) for argument in arguments])
        output = self.capsys.readouterr()
        return code, " ".join((output.out + output.err).split())


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tool:
    return Tool(monkeypatch, capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("models") / "model", "llama", head_dim=8, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def checkpoint(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "converted"
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in GROUP_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        assert main(["hf-to-megatron", "--hf", str(model), "--output", str(path)]) == 0
    return path


def tensors(edit: Callable[[dict[str, torch.Tensor]], object]) -> Edit:
    """An edit of the weights."""

    def apply(folder: Path) -> None:
        file = load_file(folder / WEIGHTS)
        edit(file)
        save_file({name: tensor.contiguous() for name, tensor in file.items()}, folder / WEIGHTS)

    return apply


def config(**settings: object) -> Edit:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return apply


def index(weight_map: dict[str, str]) -> Edit:
    """An index in place of the single file, whose tensors are in a.safetensors."""

    def apply(folder: Path) -> None:
        names = dict.fromkeys(load_file(folder / WEIGHTS), "a.safetensors")
        (folder / WEIGHTS).rename(folder / "a.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": names | weight_map}))

    return apply


def write(name: str, content: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(content) and None


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def without_weights(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def both_layouts(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder / "single")
    index({})(folder)
    (folder / "single").rename(folder / WEIGHTS)


PICKLE = b"\x80\x02}q\x00."
BROKEN: dict[str, tuple[Edit, str]] = {  # edit of the folder, what the message must say
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json is missing.*--hf"),
    "empty": (empty, r"config\.json is missing"),
    "other family": (config(architectures=["GPT2LMHeadModel"]), "unsupported architecture GPT2LMHeadModel"),
    "no shard": (index({Q: "b.safetensors"}), "names files that are missing: b.safetensors"),
    "shard outside": (index({Q: "../model.safetensors"}), r"names files that are (missing|not there)"),
    "not in its shard": (
        index({"model.other": "a.safetensors"}),
        "a.safetensors holds model.other, but it does not",
    ),
    "no index": (write(INDEX, b"[]"), "holds no JSON object"),
    "no map": (write(INDEX, b"{}"), "is no index of shards"),
    "misshapen": (tensors(lambda t: t.update({Q: t[Q][:31]})), rf"{Q} .* \[31, 32\] .* \[32, 32\]"),
    "other heads": (config(num_key_value_heads=4), r"k_proj.*and 3 other .* \[16, 32\] .* \[32, 32\]"),
    "missing": (tensors(lambda t: t.pop(NORM)), f"has no tensor {NORM}"),
    "all missing": (
        tensors(lambda t: (t.clear(), t.update(x=torch.ones(1)))),
        r"has no tensor model\.embed.* more",
    ),
    "unknown": (
        tensors(lambda t: t.update(a=torch.ones(1), b=torch.ones(1))),
        "does not know: a, b. To leave them out, convert with --allow-extra",
    ),
    "other head": (
        tensors(lambda t: t.update({HEAD: t[EMBEDDING] + 1})),
        f"{HEAD} .* differs from {EMBEDDING}",
    ),
    "pickled": (without_weights, "pickled weights .* can run code and are not read"),
    "pointer": (
        write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        rf"{WEIGHTS} \(--hf\) is a Git LFS pointer.* `git lfs pull`",
    ),
    "both layouts": (both_layouts, f"holds the weights twice, {WEIGHTS} and those of {INDEX}"),
    "adapter": (
        write("adapter_config.json", b'{"base_model_name_or_path": "a/b"}'),
        r"holds a LoRA adapter of a/b .*Merge it .* set --hf to the result",
    ),
    "pickle in disguise": (write(WEIGHTS, PICKLE), f"cannot read .*{WEIGHTS} as safetensors"),
    "cut short": (
        lambda f: write(WEIGHTS, (f / WEIGHTS).read_bytes()[:-1])(f),
        f"cannot read .*{WEIGHTS} as safet",
    ),
    "quantised": (tensors(lambda t: t.update({Q: t[Q].to(torch.int8)})), f"{Q} .* type I8.* take the model"),
    "mixed": (tensors(lambda t: t.update({Q: t[Q].bfloat16()})), f"{Q[:20]}.* choose one with --dtype"),
}


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(model, tmp_path / "model"))


@pytest.mark.parametrize("name", BROKEN)
def test_a_folder_that_cannot_be_converted(name, copy, tool, tmp_path):
    edit, message = BROKEN[name]
    edit(copy)
    code, text = tool("hf-to-megatron", "--hf", copy, "--output", tmp_path / "out" / "new")
    assert code == 2
    assert re.search(message, text), text
    assert "model.path" not in text
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())


FINE = {
    "a redundant head": (tensors(lambda t: t.update({HEAD: t[EMBEDDING].clone()})), ()),
    "rotary buffers": (tensors(lambda t: t.update({INV_FREQ: torch.ones(4)})), ()),
    "extras, if allowed": (tensors(lambda t: t.update(value_head=torch.ones(1))), ("--allow-extra",)),
}


@pytest.mark.parametrize("name", FINE)
def test_what_looks_odd_and_is_fine(name, model, copy, tool, tmp_path):
    edit, options = FINE[name]
    edit(copy)
    assert tool("hf-to-megatron", "--hf", copy, "--output", tmp_path / "new", *options)[0] == 0
    assert tool("verify", "--hf", model, "--checkpoint", tmp_path / "new")[0] == 0


def test_a_type_that_holds_the_values_is_needed(copy, model, tool, tmp_path):
    tensors(lambda t: t[NORM].fill_(7e4))(copy)
    code, text = tool("hf-to-megatron", "--hf", copy, "--output", tmp_path / "new", "--dtype", "float16")
    assert code == 2 and re.search(f"{NORM} has values up to 70000, .* --dtype", text), text
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_cast_is_the_same_both_ways(dtype, model, tool, tmp_path):
    small, back = tmp_path / "small", tmp_path / "back"
    assert tool("hf-to-megatron", "--hf", model, "--output", small, "--dtype", dtype)[0] == 0
    code, text = tool("verify", "--hf", model, "--checkpoint", small, "--show", 2)
    assert code == 1 and "torch.float32 in the folder" in text and "and 18 more" in text
    code, text = tool("verify", "--hf", model, "--checkpoint", small, "--dtype", dtype)
    assert code == 0 and f"all 20 tensors are equal, bit for bit after a cast to {dtype}" in text
    assert tool("megatron-to-hf", "--checkpoint", small, "--output", back)[0] == 0
    wanted = {name: tensor.to(vars(torch)[dtype]) for name, tensor in load_file(model / WEIGHTS).items()}
    found = load_file(back / WEIGHTS)
    assert found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert json.loads((back / "config.json").read_text())["dtype"] == dtype
    wide = tmp_path / "wide"
    assert tool("megatron-to-hf", "--checkpoint", small, "--output", wide, "--dtype", "float32")[0] == 0
    assert {tensor.dtype for tensor in load_file(wide / WEIGHTS).values()} == {torch.float32}


def test_verify_names_what_differs(model, copy, checkpoint, tool):
    assert tool("verify", "--hf", model, "--checkpoint", checkpoint)[0] == 0
    tensors(lambda t: (t[Q][3, 4].add_(0.5), t[NORM].mul_(-1).mul_(-0.0), t.update(mine=torch.ones(1))))(copy)
    code, text = tool("verify", "--hf", copy, "--checkpoint", checkpoint)
    assert code == 1 and "3 differences" in text
    assert re.search(f"{Q[:15]}.*max abs diff 0.5, 1 of 1,024", text), text
    assert "folder only" in text
    tensors(lambda t: (t.pop(K), t.pop("mine")))(copy)
    code, text = tool("verify", "--hf", copy, "--checkpoint", checkpoint)
    assert code == 1 and "checkpoint only" in text, text
    config(num_hidden_layers=1)(copy)
    code, text = tool("verify", "--hf", copy, "--checkpoint", checkpoint)
    assert code == 2 and "num_layers is 1 in config.json and 2 in the checkpoint" in text


def test_a_sign_of_zero_is_a_difference(model, copy, tool, tmp_path):
    tensors(lambda t: t[NORM].zero_())(copy)
    assert tool("hf-to-megatron", "--hf", copy, "--output", tmp_path / "zero")[0] == 0
    tensors(lambda t: t[NORM].mul_(-1))(copy)
    code, text = tool("verify", "--hf", copy, "--checkpoint", tmp_path / "zero")
    assert code == 1 and "max abs diff 0, 32 of 32" in text


@pytest.mark.parametrize("command", ["hf-to-megatron", "megatron-to-hf"])
def test_an_output_that_cannot_be(command, model, checkpoint, tool, tmp_path):
    source = shutil.copytree(model if command == "hf-to-megatron" else checkpoint, tmp_path / "in" / "source")
    arguments = (command, "--hf" if command == "hf-to-megatron" else "--checkpoint", source, "--output")
    before = sorted(tmp_path.rglob("*"))

    def refused(output: Path, message: str, *options: str) -> None:
        code, text = tool(*arguments, output, *options)
        assert code == 2 and re.search(message, text), text

    for output in (source, source / "below", source.parent):
        refused(output, "--output .* is, holds or lies in the source")
        refused(output, "--output .* is, holds or lies in the source", "--overwrite")
    refused(tmp_path / "in", "--output .* is, holds or lies in the source", "--overwrite")
    refused(Path("/proc/new"), "--output /proc/new cannot be written: .*choose another")
    refused(source / ".." / "source" / "config.json" / "new", "--output")
    with mock.patch.object(shutil, "disk_usage", lambda _: mock.Mock(free=10)):
        refused(
            tmp_path / "new", "bytes are needed and 10 are free; *.*choose another|needed and 10 are free"
        )
    assert sorted(tmp_path.rglob("*")) == before
    with files_up_to(40_000):  # a full disk, met while writing
        refused(tmp_path / "new", "--output .*new cannot be written: .*free space or choose another")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["hf-to-megatron", "megatron-to-hf"])
def test_an_output_that_exists(command, model, checkpoint, tool, tmp_path):
    source, option = (model, "--hf") if command == "hf-to-megatron" else (checkpoint, "--checkpoint")
    arguments = (command, option, source, "--output", tmp_path / "new")
    for existing in ("folder", "file"):
        (tmp_path / "new").mkdir() if existing == "folder" else (tmp_path / "new").write_text("mine")
        code, text = tool(*arguments)
        assert code == 2 and "exists; choose another, or replace it with --overwrite" in text
        code, text = tool(*arguments, "--overwrite")
        assert code == 2 and re.search("exists and is no (checkpoint|model folder); remove it", text)
        (tmp_path / "new").rmdir() if existing == "folder" else (tmp_path / "new").unlink()
    assert tool(*arguments)[0] == 0
    kept = next(path for path in (tmp_path / "new").iterdir() if path.suffix in (".distcp", ".safetensors"))
    inode = kept.stat().st_ino
    with files_up_to(40_000):
        assert tool(*arguments, "--overwrite")[0] == 2
    assert kept.stat().st_ino == inode, "what was there is intact"
    assert tool(*arguments, "--overwrite")[0] == 0
    assert kept.stat().st_ino != inode
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def flip_a_weight(folder: Path) -> None:
    with (folder / "__0_0.distcp").open("r+b") as file:
        file.seek(-20_000, 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def empty_again(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("a file")


def put_into_a_run(folder: Path) -> None:
    folder.rename(folder.parent / "step_000007")
    (folder / "checkpoints").mkdir(parents=True)
    (folder.parent / "step_000007").rename(folder / "checkpoints" / "step_000007")


def cut_short(folder: Path) -> None:
    with (folder / "__0_0.distcp").open("r+b") as file:
        file.truncate(1000)


WRONG: dict[str, tuple[Edit, str]] = {  # edit of the checkpoint, what the message must say
    "gone": (shutil.rmtree, "there is no such folder"),
    "a file": (replace_by_file, "it is a file"),
    "empty": (empty_again, "state.json is missing"),
    "a run": (put_into_a_run, "the checkpoints are in it, for example .*/checkpoints/step_000007"),
    "not complete": (lambda f: (f / "__0_0.distcp").unlink(), "__0_0.distcp is missing"),
    "cut short": (cut_short, "__0_0.distcp has 1000 bytes instead of"),
    "a flipped bit": (flip_a_weight, "__0_0.distcp does not have the checksum it was written with"),
    "damaged": (write("state.json", b"{"), "state.json is damaged"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_that_cannot_be_converted(name, model, checkpoint, tool, tmp_path):
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    edit, message = WRONG[name]
    edit(copied)
    commands = [("megatron-to-hf", "--output", tmp_path / "new"), ("verify", "--hf", model)]
    for command, *options in commands:
        code, text = tool(command, "--checkpoint", copied, *options)
        assert code == 2 and re.search(message, text), text
    if name != "a flipped bit":
        code, text = tool("inspect", copied)
        assert code == 2 and re.search(message, text), text
    assert not (tmp_path / "new").exists()


def test_folders_of_the_other_kind(model, checkpoint, tool, tmp_path):
    code, text = tool("hf-to-megatron", "--hf", checkpoint, "--output", tmp_path / "new")
    assert code == 2 and "is a checkpoint, not a Hugging Face folder; megatron-to-hf converts it" in text
    for arguments in (("megatron-to-hf", "--output", tmp_path / "new", "--checkpoint"), ("inspect",)):
        code, text = tool(*arguments, model)
        assert code == 2 and "it is a Hugging Face folder; hf-to-megatron makes a checkpoint of it" in text
    code, text = tool("hf-to-megatron", "--hf", tmp_path / "nothing", "--output", tmp_path / "new")
    assert code == 2 and "--hf is" in text and "no such folder" in text


def test_checksums_can_be_skipped_but_not_the_model(checkpoint, tool, tmp_path):
    copied = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    arguments = ("megatron-to-hf", "--checkpoint", copied, "--skip-checksums", "--output", tmp_path / "new")
    flip_a_weight(copied)
    assert tool(*arguments)[0] == 0
    settings = (copied / "hf/config.json").read_text()
    (copied / "hf/config.json").write_text(
        settings.replace('"num_hidden_layers": 2', '"num_hidden_layers": 1')
    )
    code, text = tool(*arguments, "--overwrite")
    assert (
        code == 2 and "does not fit its own hf/config.json: num_layers is 2 in the checkpoint and 1" in text
    )
    (copied / "hf/config.json").write_text(settings)
    (copied / "__0_0.distcp").write_bytes(bytes((copied / "__0_0.distcp").stat().st_size))
    code, text = tool(*arguments, "--overwrite")
    assert code == 2 and "__0_0.distcp is damaged where" in text


def test_inspect(checkpoint, tool):
    code, text = tool("inspect", checkpoint)
    assert code == 0 and "LlamaForCausalLM" in text and "this tool" in text
    code, text = tool("inspect", checkpoint, "--json")
    found = json.loads(text)
    assert code == 0 and found["step"] == 0 and found["layout"] == {"tensor": 1, "pipeline": 1, "data": 1}
    shapes = {tensor["name"]: tensor["shape"] for tensor in found["tensors"]}
    assert shapes["decoder.layers.mlp.linear_fc1.weight"] == [2, 96, 32]


@pytest.mark.parametrize(
    ("text", "size"), [("5GB", 5 * 10**9), ("1.5 MB", 1_500_000), ("2GiB", 2**31), ("700", 700)]
)
def test_sizes(text, size):
    assert num_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1GB", "1TB", "GB", "1.2.3MB"])
def test_no_sizes(text):
    with pytest.raises(argparse.ArgumentTypeError, match="write it like 5GB"):
        num_bytes(text)
