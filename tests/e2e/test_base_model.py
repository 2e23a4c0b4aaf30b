"""A run of a base model, whose folder has no chat template: it is given one, which goes with the model."""

import shutil
from pathlib import Path

import yaml

from megatron_coreward.data.prompts import load_tokenizer
from tests.support.paths import ROOT
from tests.support.programs import TRAIN, launch

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"


def test_a_template_of_ones_own(tmp_path: Path) -> None:
    """By two configuration files. The file may go once the run has begun."""
    model = shutil.copytree(ROOT / "examples/arithmetic_arms/start_model", tmp_path / "model")
    (model / "chat_template.jinja").unlink()
    given = ["--config", str(ROOT / "examples/arithmetic_arms/first_experiment/config.yaml")]
    sizes = [
        "run.steps=1",
        "run.export_hf=true",
        "data.batch_pairs=2",
        "evaluation.limit=4",
        "data.synthetic_pairs=4",
    ]
    refused = launch(1, *TRAIN, *given, *sizes, f"model.path={model}", f"run.output_dir={tmp_path / 'none'}")
    assert refused.returncode == 2 and "set model.chat_template to a Jinja file" in refused.stdout
    template, mine, run = tmp_path / "mine.jinja", tmp_path / "mine.yaml", tmp_path / "run"
    template.write_text(TEMPLATE)
    keys = {"path": str(model), "chat_template": str(template)}
    mine.write_text(yaml.safe_dump({"model": keys, "run": {"output_dir": str(run)}}))
    result = launch(1, *TRAIN, *given, "--config", str(mine), *sizes)
    assert result.returncode == 0, result.stdout
    [checkpoint] = (run / "checkpoints").glob("step_*")
    for folder in (run / "hf", checkpoint / "hf"):
        assert load_tokenizer(str(folder)).chat_template == TEMPLATE
    template.unlink()
    stored = ["--config", str(run / "config.yaml"), "run.resume=true", "run.steps=2"]
    resumed = launch(1, *TRAIN, *stored)
    assert resumed.returncode == 0 and "model.chat_template is now" not in resumed.stdout, resumed.stdout
