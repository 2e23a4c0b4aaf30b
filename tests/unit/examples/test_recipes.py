"""The recipes in examples/gpu/: the paper's settings, valid layouts, memory at the start, scripts."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.schema import Config
from megatron_coreward.planning.devices import DEVICES, Cluster
from megatron_coreward.planning.layouts import make_plan
from megatron_coreward.planning.memory import FIRST_SYNC, MemoryPlan
from megatron_coreward.preflight.checks import validate
from megatron_coreward.preflight.costs import GIB, count_parameters
from tests.support.paths import ROOT

EXAMPLES = ROOT / "examples"
RECIPES = EXAMPLES / "gpu"
SCRIPTS = sorted([*EXAMPLES.rglob("*.sh"), *EXAMPLES.rglob("*.sbatch")])
DATA = ("train_original.parquet", "train_rewrite_Qwen3-32B.parquet", "test.parquet")


def sizes(
    family: str, hidden: int, mlp: int, layers: int, heads: int, kv: int, vocab: int, **more: Any
) -> dict[str, Any]:
    return {
        "architectures": [f"{family}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv,
        "vocab_size": vocab,
        **more,
    }


def llama3(factor: float) -> dict[str, Any]:
    scaling = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    return {"head_dim": 128, "max_position_embeddings": 131072, "rope_scaling": scaling}


EXPERTS = {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True}
QWEN3 = {"head_dim": 128, "max_position_embeddings": 32768}
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    "qwen2.5_3b": (
        sizes(
            "Qwen2", 2048, 11008, 36, 16, 2, 151936, max_position_embeddings=32768, tie_word_embeddings=True
        ),
        3_085_938_688,
    ),
    "qwen2.5_7b": (
        sizes("Qwen2", 3584, 18944, 28, 28, 4, 152064, max_position_embeddings=131072),
        7_615_616_512,
    ),
    "qwen3_1.7b_base": (
        sizes("Qwen3", 2048, 6144, 28, 16, 8, 151936, tie_word_embeddings=True, **QWEN3),
        1_720_574_976,
    ),
    "qwen3_4b_base": (
        sizes("Qwen3", 2560, 9728, 36, 32, 8, 151936, tie_word_embeddings=True, **QWEN3),
        4_022_468_096,
    ),
    "qwen3_8b_base": (sizes("Qwen3", 4096, 12288, 36, 32, 8, 151936, **QWEN3), 8_190_735_360),
    "llama3.2_3b_instruct": (
        sizes("Llama", 3072, 8192, 28, 24, 8, 128256, tie_word_embeddings=True, **llama3(32.0)),
        3_212_749_824,
    ),
    "qwen3_30b_a3b": (
        sizes("Qwen3Moe", 2048, 6144, 48, 32, 4, 151936, **QWEN3, **EXPERTS),
        30_532_122_624,
    ),
    "llama3.3_70b_instruct": (sizes("Llama", 8192, 28672, 80, 64, 8, 128256, **llama3(8.0)), 70_553_706_496),
}
"""Recipe -> the published config.json, as far as it is read here, and the published number of parameters."""

LARGE = {"llama3.3_70b_instruct": (64, 128), "qwen3_30b_a3b": (16, 32)}
"""Recipes for several nodes, and their numbers of GPUs."""
WORLDS = [(name, ranks) for name in MODELS for ranks in LARGE.get(name, (4, 8, 32))]

PAPER = {
    "data.batch_pairs": 128,
    "data.max_prompt_tokens": 512,
    "rollout.samples": 8,
    "rollout.temperature": 1.0,
    "rollout.max_response_tokens": 3072,
    "run.epochs": 3,
    "run.steps": 0,
    "reward.method": "co_reward",
    "algorithm.clip": 0.2,
    "algorithm.kl_coef": 0.005,
    "algorithm.kl_estimator": "k3",
    "algorithm.aggregation": "seq-mean",
    "algorithm.advantage": "group-norm",
    "algorithm.updates_per_batch": 1,
    "optimizer.lr": 3e-6,
    "optimizer.schedule": "cosine",
    "optimizer.min_lr": 0.0,
    "optimizer.warmup_ratio": 0.1,
    "optimizer.weight_decay": 0.01,
    "optimizer.beta1": 0.9,
    "optimizer.beta2": 0.999,
    "optimizer.eps": 1e-8,
    "optimizer.clip_grad": 1.0,
    "evaluation.every": 10,
    "evaluation.temperature": 0.8,
    "checkpoint.every": 10,
}
"""docs/paper_settings.md."""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data files that the recipes name, as the working directory."""
    (tmp_path / "data/math").mkdir(parents=True)
    for name in DATA:
        (tmp_path / "data/math" / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(name: str, project: Path, *overrides: str) -> Config:
    """The recipe on a folder with the true config.json in place of the hub id."""
    model = project / name
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps(MODELS[name][0]))
    (model / "model.safetensors").touch()
    (model / "tokenizer.json").touch()
    return load_config([RECIPES / f"{name}.yaml"], [f"model.path={model}", *overrides])


def test_every_recipe_is_known() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(MODELS)


@pytest.mark.parametrize(("name", "ranks"), WORLDS)
def test_valid_layout(name: str, ranks: int, project: Path) -> None:
    """Heads, key/value heads, MLP, batch, groups and context, by the checks that a run makes."""
    shape = validate(load(name, project), ranks)
    assert count_parameters(shape) == MODELS[name][1]


@pytest.mark.parametrize("name", MODELS)
def test_invalid_layouts_are_refused(name: str, project: Path) -> None:
    with pytest.raises(ValueError, match="must be a multiple of the data-parallel size"):
        validate(load(name, project, "data.batch_pairs=127"), 128)
    odd = [
        "parallel.tensor=5",
        "parallel.pipeline=1",
        "rollout.tensor_parallel_size=1",
        "data.batch_pairs=130",
    ]
    with pytest.raises(ValueError, match=r"parallel\.tensor is 5, but must divide"):
        validate(load(name, project, *odd), 5)


@pytest.mark.parametrize("name", MODELS)
def test_settings_of_the_paper(name: str, project: Path) -> None:
    config = load(name, project)
    given = {key: vars(vars(config)[key.partition(".")[0]])[key.partition(".")[2]] for key in PAPER}
    assert given == PAPER
    assert config.run.output_dir == f"runs/{name}"


def planned(name: str, ranks: int, project: Path) -> MemoryPlan:
    config = load(name, project)
    plan = make_plan(config, validate(config, ranks), Cluster("H100", DEVICES["H100"], ranks))
    assert plan.works and plan.memory, plan.problems
    return plan.memory


@pytest.mark.parametrize(("name", "ranks"), WORLDS)
def test_fits_into_80_gb(name: str, ranks: int, project: Path) -> None:
    assert planned(name, ranks, project).sequences > 20, "responses of full length at once"


def row_of(name: str, ranks: int, project: Path) -> str:
    """The row of docs/gpu/launch.md: what `coreward plan` says."""
    memory, parallel = planned(name, ranks, project), load(name, project).parallel
    data = ranks // (parallel.tensor * parallel.pipeline)
    size = {phase.phase: f"{phase.total / GIB:.1f}" for phase in memory.phases}
    figures = [size[FIRST_SYNC], size["update"], size["checkpoint"], f"{memory.sequences:,}"]
    layout = f"{parallel.tensor} x {parallel.pipeline} x {data}"
    return f"| {' | '.join([name, str(ranks), layout, *figures])} |"


def test_table_in_the_documentation(project: Path) -> None:
    page = (ROOT / "docs/gpu/launch.md").read_text()
    for name, ranks in WORLDS:
        assert (row := row_of(name, ranks, project)) in page, row


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(EXAMPLES)))
def test_script_parses(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck() -> None:
    subprocess.run(["shellcheck", "--external-sources", *map(str, SCRIPTS)], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", MODELS)
def test_table_of_recipes(name: str) -> None:
    """The row of a recipe names its model and the numbers of GPUs that are checked here."""
    model = load_config([RECIPES / f"{name}.yaml"], []).model.path.partition("/")[2]
    *ranks, most = LARGE.get(name, (4, 8, 32))
    row = f"| [`{name}.yaml`]({name}.yaml) | {model} | {', '.join(map(str, ranks))} or {most} |"
    assert row in (RECIPES / "README.md").read_text(), row


@pytest.mark.parametrize("name", LARGE)
def test_command_for_several_nodes(name: str) -> None:
    nodes = LARGE[name][0] // 8
    script = f"examples/gpu/run.sbatch examples/gpu/{name}.yaml"
    assert f"sbatch --nodes {nodes} --gpus-per-node 8 {script}" in (RECIPES / "README.md").read_text()


def test_job_has_time_to_save() -> None:
    """SLURM warns early enough for torchrun's patience, and may requeue without truncating the log."""
    job = (RECIPES / "run.sbatch").read_text()
    patience = re.search(r"SHUTDOWN_TIMEOUT:-(\d+)", (RECIPES / "run.sh").read_text())
    warning = re.search(r"--signal=B:USR1@(\d+)", job)
    assert patience and warning
    assert int(warning[1]) >= int(patience[1]) + 60
    assert "#SBATCH --requeue\n" in job
    assert "#SBATCH --open-mode=append\n" in job
