"""Loading: strict keys and types, layers in order, and a round trip; none of it imports torch."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from megatron_coreward.config.loading import _RECIPES, load_config, to_yaml
from megatron_coreward.config.schema import Config
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
"""Keys since the first version."""
GIVEN_PATH = "model.path=models/toy"


def load(*overrides: str) -> Config:
    return load_config([], [GIVEN_PATH, *overrides])


def write(folder: Path, text: str) -> Path:
    path = folder / "run.yaml"
    path.write_text(text)
    return path


def test_defaults() -> None:
    expected = Config()
    expected.model.path = "models/toy"
    assert load() == expected


def test_later_layers_win(tmp_path: Path) -> None:
    path = write(tmp_path, "model:\n  path: here\ndata:\n  batch_pairs: 4\n  limit: 9\n")
    config = load_config([path], ["data.batch_pairs=8", "data.batch_pairs=16"])
    assert (config.model.path, config.data.limit, config.data.batch_pairs) == ("here", 9, 16)


def test_empty_section_and_empty_file_set_nothing(tmp_path: Path) -> None:
    assert load_config([write(tmp_path, "data:\n")], [GIVEN_PATH]) == load()
    assert load_config([write(tmp_path, "")], [GIVEN_PATH]) == load()


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("optimizer.lr=3e-5", 3e-5),
        ("optimizer.lr=1", 1.0),
        ("run.resume=true", True),
        ("data.original=12", "12"),
        ("data.original=007", "007"),
        ("data.original=", ""),
        ("data.original=null", "null"),
        ("data.original=2026-01-02", "2026-01-02"),
        ("optimizer.lr=1e-5", 1e-5),
        ("run.seed=1_000", 1000),
        ("data.system_prompt=Think: {step} = 'one', # two", "Think: {step} = 'one', # two"),
    ],
)
def test_override_values(override: str, expected: object) -> None:
    section, name = override.partition("=")[0].split(".")
    value = vars(vars(load(override))[section])[name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batch_pair=3", "Unknown configuration key 'data.batch_pair'. Did you mean data.batch_pairs?"),
        ("batch_pairs=3", "Did you mean data.batch_pairs?"),
        ("optimizer.kl_coef=0", "Did you mean algorithm.kl_coef?"),
        ("data.batch_pairs.x=3", "Did you mean data.batch_pairs?"),
        ("zzz=3", "Unknown configuration key 'zzz'. The sections are run, model, parallel,"),
        ("data=3", "data is a section and cannot be set to '3'. Set its keys: data.source,"),
        ("data.batch_pairs=abc", "data.batch_pairs is 'abc', but must be of type int."),
        ("data.batch_pairs=1.5", "data.batch_pairs is 1.5, but must be of type int."),
        ("data.batch_pairs=2.0", "data.batch_pairs is 2.0, but must be of type int."),
        ("data.batch_pairs=true", "data.batch_pairs is True, but must be of type int."),
        ("data.batch_pairs=", "data.batch_pairs is None, but must be of type int."),
        ("data.batch_pairs=[1]", "data.batch_pairs is [1], but must be of type int."),
        ("data.batch_pairs={a", "data.batch_pairs is '{a', but must be of type int."),
        ("optimizer.lr=fast", "optimizer.lr is 'fast', but must be of type float."),
        (
            "rollout.enforce_eager=no way",
            "rollout.enforce_eager is 'no way', but must be of type bool or auto.",
        ),
        ("optimizer.lr=true", "optimizer.lr is True, but must be of type float."),
        ("optimizer.lr=1" + 400 * "0", "000, but must be of type float."),
        ("algorithm.tis_cap=false", "algorithm.tis_cap is False, but must be of type float."),
        ("run.resume=maybe", "run.resume is 'maybe', but must be of type bool."),
        ("run.resume=5", "run.resume is 5, but must be of type bool."),
        ("run.output_dir=${HOME}", "run.output_dir is '${HOME}', but interpolation is not supported"),
        ("data.limit", "Override 'data.limit' has no '='. Write overrides as key.sub=value."),
    ],
)
def test_bad_override(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load(override)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model:\n  path: [", "is not valid YAML"),
        ("model:\n  path: a\n  path: b\n", "is not valid YAML"),
        ("- a\n", "must hold `section:` blocks"),
        ("data:\n  batch_pair: 3\n", "Did you mean data.batch_pairs?"),
        ("data: 3\n", "data is a section and cannot be set to 3."),
        ("data:\n  limit: many\n", "data.limit is 'many', but must be of type int."),
        ("data:\n  limit: 1\n  limit: 2\n", "found limit twice"),
        ("reward:\n  ties: [first]\n", "reward.ties is ['first'], but must be of type str."),
        ("model:\n  dtype: no\n", "model.dtype is 'False', but must be one of auto, float32, bfloat16."),
        ("data:\n  original: {a: 1}\n", "data.original is {'a': 1}, but must be of type str."),
        ("data:\n  limit: null\n", "data.limit is None, but must be of type int."),
        ("run:\n  steps: 1\n", "model.path is missing: set it in the YAML file or as model.path=VALUE"),
    ],
)
def test_bad_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config([write(tmp_path, text)])


def test_file_values(tmp_path: Path) -> None:
    """A number for a text key is a text, a quoted number for a numeric key a number, a date a text."""
    text = "data: {original: 12, rephrased: 2026-01-02T03:04, limit: '7'}\noptimizer: {lr: 1e-5, eps: '2'}\n"
    config = load_config([write(tmp_path, text + "logging: {wandb_project: }\nrun.steps: 3\n")], [GIVEN_PATH])
    assert (config.data.original, config.data.rephrased, config.data.limit) == ("12", "2026-01-02T03:04", 7)
    assert (config.optimizer.lr, config.optimizer.eps) == (1e-5, 2.0)
    assert (config.logging.wandb_project, config.run.steps) == ("", 3)


@pytest.mark.parametrize(("written", "value"), [("true", True), ("false", False), ("auto", "auto")])
def test_a_bool_or_auto(tmp_path: Path, written: str, value: bool | str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(f"model: {{path: m}}\nrollout: {{enforce_eager: {written}}}")
    config = load_config([path])
    assert config.rollout.enforce_eager == value
    assert load_config([], ["model.path=m", f"rollout.enforce_eager={written}"]) == config
    path.write_text(to_yaml(config))
    assert load_config([path]) == config


def test_files_merge_from_left_to_right(tmp_path: Path) -> None:
    """Key by key: a later file changes what it names, and the error says which file has the mistake."""
    base, mine = tmp_path / "base.yaml", tmp_path / "mine.yaml"
    base.write_text("model: {path: here}\ndata: {limit: 9, batch_pairs: 4}\n")
    mine.write_text("data: {batch_pairs: 8}\n")
    data = load_config([base, mine]).data
    assert (data.limit, data.batch_pairs) == (9, 8)
    assert load_config([mine, base]).data.batch_pairs == 4
    assert load_config([base, mine], ["data.batch_pairs=2"]).data.batch_pairs == 2
    for text, problem in {
        "data: {batch_pair: 1}": "Unknown configuration key",
        "data: {limit: x}": "data.limit is 'x'",
    }.items():
        mine.write_text(text)
        with pytest.raises(ValueError, match=re.escape(f"{mine}: {problem}")):
            load_config([base, mine])


def test_a_recipe_by_an_earlier_name(tmp_path: Path) -> None:
    folder = tmp_path / "examples" / _RECIPES
    folder.mkdir(parents=True)
    (folder / "qwen2.5_3b.yaml").touch()
    for before in ("qwen2.5_3b/config.yaml", "other/qwen2.5_3b.yaml"):
        path = tmp_path / "examples" / before
        with pytest.raises(ValueError, match=re.escape(f"{path} does not exist. It is {folder}/qwen")):
            load_config([path])


def test_a_wrong_value_is_an_error_even_if_a_later_layer_replaces_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.limit is 'many'"):
        load_config([write(tmp_path, "data:\n  limit: many\n")], [GIVEN_PATH, "data.limit=3"])


def test_a_later_layer_gives_what_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "model: {path: here}\nrun:\n  steps: ???\n")
    assert load_config([path], ["run.steps=3"]).run.steps == 3
    with pytest.raises(
        ValueError, match="run.steps is missing: set it in the YAML file or as run.steps=VALUE"
    ):
        load_config([path])


def test_missing_and_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere.yaml does not exist"):
        load_config([tmp_path / "nowhere.yaml"])
    with pytest.raises(ValueError, match="cannot be read"):
        load_config([tmp_path])
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read|is not valid YAML"):
        load_config([binary])


@settings(deadline=None, max_examples=50)
@example(prompt="one\x85two\u2028three", lr=1.0)
@given(prompt=st.text(st.characters(codec="utf-8", exclude_characters="$")), lr=st.floats(1e-12, 1e3))
def test_yaml_round_trip(tmp_path_factory: pytest.TempPathFactory, prompt: str, lr: float) -> None:
    config = load()
    config.data.system_prompt, config.optimizer.lr = prompt, lr
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(to_yaml(config), encoding="utf-8")
    assert load_config([path]) == config


def test_yaml_text_of_a_run_stays_the_same() -> None:
    """Sections, order and style are those of an older run folder; new keys come in between."""
    path = ROOT / "tests/fixtures/first_run/run/config.yaml"
    lines = iter(to_yaml(load_config([path])).splitlines())
    assert all(line in lines for line in path.read_text().splitlines())


def test_no_torch_on_the_way(tmp_path: Path) -> None:
    """Import, load, validate, dry run and reference in a fresh interpreter leave torch unimported."""
    program = """
import io, json, sys
from pathlib import Path
from rich.console import Console
from megatron_coreward.preflight.checks import validate
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.reference_page import render
from megatron_coreward.preflight.dry_run import show

folder = Path(sys.argv[1])
sizes = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2)
sizes |= dict(num_key_value_heads=1, vocab_size=300, architectures=["Qwen2ForCausalLM"])
(folder / "config.json").write_text(json.dumps(sizes))
(folder / "model.safetensors").touch()
(folder / "tokenizer.json").touch()
names = [f"model.path={folder}", f"run.output_dir={folder / 'run'}", "data.source=synthetic"]
config = load_config([], names)
show(config, validate(config, 2), 2, Console(file=io.StringIO()))
render()
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/config.yaml")), ids=lambda path: path.parent.name)
def test_examples_load(path: Path) -> None:
    load_config([path])
