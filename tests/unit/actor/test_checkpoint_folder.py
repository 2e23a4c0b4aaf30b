"""Which checkpoints are intact, which is the latest, which are kept: with plain files, without torch."""

import errno
import json
from pathlib import Path

import pytest

from megatron_coreward.actor.checkpoint import folder as checkpoint_folder
from megatron_coreward.actor.checkpoint.folder import (
    Retention,
    best_checkpoint,
    find_damage,
    find_problem,
    latest_checkpoint,
    measure,
    prune,
    ratings_of,
    read_state,
    require_intact,
    run_settings,
    write_state,
)
from tests.support.fakes import ThreadCommunicator, run_threads
from tests.support.paths import FIXTURES


def make(folder: Path, step: int, ratings: dict[str, float] | None = None) -> Path:
    path = folder / f"step_{step:06d}"
    (path / "hf").mkdir(parents=True)
    for rank in range(3):
        (path / f"__{rank}_0.distcp").write_bytes(bytes([rank]) * 1000)
    (path / "hf/config.json").write_text("{}")
    names = ["__0_0.distcp", "__1_0.distcp", "__2_0.distcp", "hf/config.json"]
    write_state(path, {"step": step, "ratings": ratings or {}}, measure(path, names))
    return path


def flip(file: Path) -> None:
    """Another content of the same size."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def left(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step_")) for path in sorted(folder.iterdir())]


def test_a_file_that_one_rank_cannot_read_is_damage_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make(tmp_path, 5)
    original = checkpoint_folder._crc32

    def failing(file: Path) -> int:
        if file.name == "__1_0.distcp":
            raise OSError(errno.EIO, "Input/output error")
        return original(file)

    monkeypatch.setattr(checkpoint_folder, "_crc32", failing)
    found = run_threads(2, lambda comm: find_damage(path, comm))
    assert found == ["__1_0.distcp cannot be read (Input/output error)"] * 2


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("file", ["__0_0.distcp", "__2_0.distcp", "hf/config.json"])
def test_a_flipped_bit_is_found_by_all_ranks(file: str, ranks: int, tmp_path: Path) -> None:
    path = make(tmp_path, 5)
    assert run_threads(ranks, lambda comm: find_damage(path, comm)) == [None] * ranks
    flip(path / file)
    assert find_problem(path) is None, "sizes alone cannot tell"
    found = run_threads(ranks, lambda comm: find_damage(path, comm))
    assert set(found) == {f"{file} does not have the checksum it was written with; its content has changed"}


def test_the_latest_is_the_newest_intact_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (10, 20, 30):
        make(tmp_path, step)
    flip(tmp_path / "step_000030/__1_0.distcp")
    (tmp_path / "step_000020/__2_0.distcp").unlink()

    def find(comm: ThreadCommunicator) -> Path | None:
        return latest_checkpoint(tmp_path, comm)

    assert run_threads(2, find) == [tmp_path / "step_000010"] * 2
    assert "step_000030: __1_0.distcp does not have the checksum" in caplog.text
    assert "step_000020: __2_0.distcp is missing" in caplog.text
    flip(tmp_path / "step_000010/__0_0.distcp")
    assert run_threads(2, find) == [None] * 2


def test_require_intact_names_the_file_on_every_rank(tmp_path: Path) -> None:
    path = make(tmp_path, 1)
    flip(path / "__1_0.distcp")

    def refused(comm: ThreadCommunicator) -> bool:
        with pytest.raises(ValueError, match=r"step_000001 cannot be used: __1_0\.distcp"):
            require_intact(path, comm)
        return True

    assert all(run_threads(2, refused))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no checkpoint: state.json is missing"),
        ("{", "state.json is damaged"),
        ("[]", "state.json is damaged"),
        ('{"step": 1}', "state.json is damaged"),
        ('{"format": 1}', "format 1, and this version reads format 2"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "state.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_state(tmp_path)
    assert message.removeprefix("is ") in str(find_problem(tmp_path))


@pytest.mark.parametrize(
    ("retention", "kept"),
    [
        (Retention(last=0), [1, 2, 3, 4, 5, 6]),
        (Retention(last=0, every=2, best=1), [1, 2, 3, 4, 5, 6]),
        (Retention(last=2), [5, 6]),
        (Retention(last=9), [1, 2, 3, 4, 5, 6]),
        (Retention(last=1, every=3), [3, 6]),
        (Retention(last=1, best=2), [2, 4, 6]),
        (Retention(last=1, every=5, best=1), [2, 5, 6]),
        (Retention(last=1, best=1, best_by="evaluation"), [4, 6]),
        (Retention(last=1, best=3, best_by="evaluation"), [1, 3, 4, 6]),
        (Retention(last=1, best=2, best_by="probe"), [6]),
    ],
)
def test_retention(retention: Retention, kept: list[int], tmp_path: Path) -> None:
    agreement = (None, 0.9, 0.2, 0.7, 0.1, 0.3)
    evaluation = (0.4, None, 0.5, 0.5, None, None)
    for step, values in enumerate(zip(agreement, evaluation, strict=True), start=1):
        named = zip(("agreement", "evaluation"), values, strict=True)
        make(tmp_path, step, {name: value for name, value in named if value is not None})
    assert best_checkpoint(tmp_path, "evaluation") == (tmp_path / "step_000004", 0.5), "the newer of two"
    assert best_checkpoint(tmp_path, "probe") is None
    run_threads(2, lambda comm: prune(tmp_path, retention, comm))
    assert left(tmp_path) == kept


def test_of_equal_ones_by_the_probe_the_earlier_is_better(tmp_path: Path) -> None:
    for step, rating in enumerate((0.4, 0.7, 0.7, 0.7, 0.5), start=1):
        make(tmp_path, step, {"probe": rating, "agreement": rating})
    assert best_checkpoint(tmp_path, "probe") == (tmp_path / "step_000002", 0.7)
    assert best_checkpoint(tmp_path, "agreement") == (tmp_path / "step_000004", 0.7)
    run_threads(1, lambda comm: prune(tmp_path, Retention(last=1, best=2, best_by="probe"), comm))
    assert left(tmp_path) == [2, 3, 5]


def test_what_is_newer_than_the_newest_complete_one_stays(tmp_path: Path) -> None:
    for step in range(1, 5):
        make(tmp_path, step)
    for step in (1, 4):
        (tmp_path / f"step_{step:06d}/state.json").unlink()
    run_threads(1, lambda comm: prune(tmp_path, Retention(last=1), comm))
    assert left(tmp_path) == [3, 4], "4 is for a person to look at; the broken 1 is old"
    (tmp_path / "step_000003/state.json").unlink()
    run_threads(1, lambda comm: prune(tmp_path, Retention(last=1), comm))
    assert left(tmp_path) == [3, 4], "without a complete one nothing goes"


def test_state_says_what_it_was_given(tmp_path: Path) -> None:
    state = read_state(make(tmp_path, 7, {"agreement": 0.25}))
    assert (state["step"], state["ratings"], state["format"]) == (7, {"agreement": 0.25}, 2)
    assert state["files"]["__1_0.distcp"]["bytes"] == 1000
    assert json.loads((tmp_path / "step_000007/state.json").read_text()) == state


def test_ratings_of_the_first_version() -> None:
    assert ratings_of({"signal": 0.4}) == {"agreement": 0.4}
    assert ratings_of({"signal": None}) == {}
    first = FIXTURES / "first_run" / "run" / "checkpoints" / "step_000003"
    assert ratings_of(read_state(first)).keys() == {"agreement"}
    settings = run_settings(first)
    assert settings is not None and settings.stop_token_ids == ()
    assert (
        settings.values["data.system_prompt"] == "" and settings.values["rollout.max_response_tokens"] == 32
    )
