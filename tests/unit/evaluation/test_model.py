"""How a model is asked: the run's settings, the command line over them, and what is said about both."""

import logging
import shutil
from pathlib import Path

import pytest

from megatron_coreward.config.loading import load_config
from megatron_coreward.config.run_settings import RunSettings
from megatron_coreward.evaluation.model import EvaluatedModel, read_model
from tests.support.models import TURN_END, byte_tokenizer, tiny_model

STOP = byte_tokenizer().convert_tokens_to_ids(TURN_END)
RUN = [
    "model.path=m",
    "data.system_prompt=Be brief.",
    "data.max_prompt_tokens=96",
    "rollout.max_response_tokens=24",
    "evaluation.temperature=0.5",
]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of no run, with a context of 256 tokens."""
    return tiny_model(tmp_path_factory.mktemp("plain") / "model", context=256)


@pytest.fixture
def trained(plain: Path, tmp_path: Path) -> Path:
    """The same model as a run leaves it."""
    folder = shutil.copytree(plain, tmp_path / "hf")
    RunSettings.of(load_config([], RUN), [STOP]).write(folder)
    return folder


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="megatron_coreward.evaluation.model")
    return caplog


def read(folder: Path, *given: str) -> EvaluatedModel:
    return read_model(str(folder), None, None, given, world_size=1)


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in said.records if record.name.endswith("evaluation.model")]


def test_a_model_is_asked_as_its_run_asked_it(trained: Path, said: pytest.LogCaptureFixture) -> None:
    model = read(trained)
    config = model.config
    assert (config.data.system_prompt, config.evaluation.temperature) == ("Be brief.", 0.5)
    assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == (96, 24)
    assert lines(said) == ["prompt: system 'Be brief.', up to 96 + 24 tokens, from the run's config"]


def test_the_command_line_wins_and_every_difference_is_said(
    trained: Path, said: pytest.LogCaptureFixture
) -> None:
    model = read(trained, "data.system_prompt=", "evaluation.temperature=0.8", "data.max_prompt_tokens=96")
    assert (model.config.data.system_prompt, model.config.evaluation.temperature) == ("", 0.8)
    assert lines(said) == [
        "prompt: no system turn, up to 96 + 24 tokens, from the run's config and the command line",
        "system prompt differs from the run's: '' here, 'Be brief.' there (data.system_prompt)",
        "temperature differs from the run's: 0.8 here, 0.5 there (evaluation.temperature)",
    ]


def test_stop_tokens_are_the_runs(trained: Path, said: pytest.LogCaptureFixture) -> None:
    RunSettings.of(load_config([], RUN), [7]).write(trained)
    assert read(trained).stop_ids == (7,)
    assert lines(said)[0] == f"stop tokens [7] are the run's; the model's files now say [{STOP}]"


@pytest.mark.parametrize(
    ("given", "lengths", "line"),
    [
        ([], (128, 128), "data.max_prompt_tokens=128, rollout.max_response_tokens=128: what fits"),
        (["data.max_prompt_tokens=200"], (200, 56), "rollout.max_response_tokens=56: what fits"),
        (["rollout.max_response_tokens=16"], (240, 16), "data.max_prompt_tokens=240: what fits"),
    ],
)
def test_default_lengths_fit_the_context(
    given: list[str],
    lengths: tuple[int, int],
    line: str,
    plain: Path,
    said: pytest.LogCaptureFixture,
) -> None:
    config = read(plain, *given).config
    assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == lengths
    fitted, prompt = lines(said)
    assert fitted == f"{line} the model's context of 256 tokens"
    assert prompt.endswith(f"up to {lengths[0]} + {lengths[1]} tokens, of no run: the defaults, or as given")


def test_a_long_context_gets_the_whole_defaults(tmp_path: Path) -> None:
    config = read(tiny_model(tmp_path, context=4096)).config
    assert (config.data.max_prompt_tokens, config.rollout.max_response_tokens) == (1024, 1024)


@pytest.mark.parametrize(
    "given",
    [["data.max_prompt_tokens=256"], ["data.max_prompt_tokens=200", "rollout.max_response_tokens=57"]],
)
def test_lengths_that_were_given_are_refused_if_they_do_not_fit(given: list[str], plain: Path) -> None:
    with pytest.raises(ValueError, match="but the model's context is 256"):
        read(plain, *given)
