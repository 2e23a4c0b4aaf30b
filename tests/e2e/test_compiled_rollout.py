"""vLLM compiled on a CPU: its graphs read the weights of every sync."""

from pathlib import Path

from megatron_coreward.utils.metrics import read_metrics
from tests.support.programs import TRAIN, launch, settings, write_data


def test_a_compiled_engine_takes_new_weights(apprentice: Path, tmp_path: Path) -> None:
    options = settings(
        apprentice,
        tmp_path / "run",
        write_data(tmp_path / "data"),
        run__steps=3,
        optimizer__lr=1e-2,  # old weights would show
        rollout__enforce_eager="false",
    )
    result = launch(1, *TRAIN, *options)
    assert result.returncode == 0, result.stdout
    steps = [record for record in read_metrics(tmp_path / "run") if "mismatch/max_abs" in record]
    assert len(steps) == 3 and all(record["mismatch/max_abs"] < 1e-3 for record in steps)
    assert steps[0]["policy/grad_norm"] > 0  # there were new weights
