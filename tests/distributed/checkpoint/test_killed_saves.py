"""After a kill -9 at any moment of a save the next run finds the last good checkpoint."""

import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.checkpoint import killed_saves
from tests.distributed.checkpoint.checkpoint_runs import same
from tests.distributed.checkpoint.killed_saves import FAULTS, FIRST, MOMENTS, ONE_OF_TWO, SECOND
from tests.support.models import tiny_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"), vocab=301)


@pytest.fixture(scope="module")
def forks() -> Any:
    """Processes that start with everything imported, and without the threads of this one."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    return context


def call(forks: Any, ranks: int, work: Any, folder: Path, *args: Any) -> tuple[list[int], list[Any]]:
    """Exit codes and results of `work` in new processes, by rank."""
    processes = [
        forks.Process(target=killed_saves.run, args=(work, rank, ranks, folder, *args))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode is not None, "a process hangs"
    results = [folder.parent / f"result_{rank}" for rank in range(ranks)]
    codes = [process.exitcode for process in processes]
    return codes, [pickle.loads(result.read_bytes()) for result in results if result.exists()]


@pytest.mark.parametrize("in_background", [True, False], ids=["background", "waiting"])
@pytest.mark.parametrize("moment", MOMENTS)
def test_the_last_good_checkpoint_loads(
    moment: str, in_background: bool, model: Path, forks: Any, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints"
    codes, _ = call(forks, 1, killed_saves.save_twice, folder, model, moment, in_background)
    assert codes == [-9]
    codes, (seen,) = call(forks, 1, killed_saves.go_on, folder, model)
    assert codes == [0]
    expected = MOMENTS[moment][1]
    states = pickle.loads((tmp_path / "states").read_bytes())
    assert not same(states[FIRST], states[SECOND])
    replaced = moment == "between the renames, replacing"
    assert seen["found"] == (f".step_{SECOND:06d}.replaced" if replaced else f"step_{expected:06d}")
    assert seen["state"] == {"step": expected}
    assert same(seen["loaded"], states[expected])
    assert f"step_{FIRST:06d}" in seen["left"] or expected == SECOND, "an earlier checkpoint was deleted"
    assert seen["after"] == ["step_000003"], "leftovers"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_writer_is_an_error_on_every_rank(
    fault: str, ranks: int, model: Path, forks: Any, tmp_path: Path
) -> None:
    codes, results = call(forks, ranks, killed_saves.fail_and_go_on, tmp_path / "run", model, fault)
    assert codes == [0] * ranks
    for seen in results:
        assert "the checkpoint of step 2 could not be written" in seen["error"]
        assert "Earlier checkpoints are intact" in seen["error"]
        assert f"MiB free): rank {ranks - 1}: Worker failure: " in seen["error"]
        assert FAULTS[fault][1] in seen["error"] and "\n" not in seen["error"]
    assert results[0]["left"] == ["step_000001"], "rank 0 removes what was half written"
    assert results[0]["after"] == ["step_000001", "step_000003"]


@pytest.mark.parametrize("moment", ONE_OF_TWO)
def test_one_rank_of_two_is_killed_in_a_save(moment: str, model: Path, forks: Any, tmp_path: Path) -> None:
    """The other one ends with an error instead of waiting for ever; torchrun would end it as well."""
    folder = tmp_path / "checkpoints"
    victim, _ = ONE_OF_TWO[moment]
    codes, _ = call(forks, 2, killed_saves.one_rank_dies, folder, model, moment)
    assert codes[victim] == -9 and codes[1 - victim] == 1
    codes, (seen,) = call(forks, 1, killed_saves.go_on, folder, model)
    assert codes == [0]
    assert (seen["found"], seen["state"]) == (f"step_{FIRST:06d}", {"step": FIRST})
    assert seen["after"] == ["step_000003"], "leftovers"


def test_a_background_save_has_the_state_of_its_begin(model: Path, forks: Any, tmp_path: Path) -> None:
    codes, (seen,) = call(forks, 1, killed_saves.train_while_saving, tmp_path / "run", model)
    assert codes == [0]
    assert seen["during"] == [], "it was complete before the updates: this proves nothing"
    assert not same(seen["begun"], seen["moved"])
    assert same(seen["loaded"], seen["begun"])
