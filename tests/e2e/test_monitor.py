"""A probe watches a run and leaves it as it is, to the last bit; a resumed run goes on with its memory."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file

from megatron_coreward.run.rollouts import read_rollouts
from tests.support.metric_names import undocumented
from tests.support.programs import TRAIN, launch, settings, without_times, write_data

FIGURES = {
    f"probe/{name}"
    for name in ("agreement", "answer_entropy", "kept_majorities", "top_answer_share", "answer_information")
}


def test_a_probe_changes_nothing_and_survives_a_resume(apprentice: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")

    def train(name: str, *more: str) -> list[dict[str, float]]:
        arguments = settings(
            *(apprentice, tmp_path / name, data),
            run__steps=3,
            evaluation__file=data / "test.parquet",
            evaluation__limit=8,
            evaluation__samples=2,
            checkpoint__every=1,
            checkpoint__keep_last=0,
        )
        result = launch(1, *TRAIN, *arguments, *more)
        assert result.returncode == 0, result.stdout
        return without_times(tmp_path / name)

    probe = [
        *("monitor.every=1", f"monitor.original={data / 'train_original.parquet'}"),
        *(f"monitor.rephrased={data / 'train_rephrased.parquet'}", "monitor.pairs=24", "monitor.samples=4"),
    ]
    plain, probed = train("plain"), train("probed", *probe)
    assert [{k: v for k, v in record.items() if not k.startswith("probe/")} for record in probed] == plain
    weights, of_probed = (load_file(tmp_path / n / "hf" / "model.safetensors") for n in ("plain", "probed"))
    assert weights.keys() == of_probed.keys()
    assert all(torch.equal(tensor, of_probed[name]) for name, tensor in weights.items())
    for step in (1, 2, 3):  # texts, rewards, advantages
        rows, rows_of_probed = (read_rollouts(tmp_path / name, step) for name in ("plain", "probed"))
        assert len(rows) == 2 * 16 * 8 and rows == rows_of_probed

    for record in probed:
        assert not undocumented(record.keys() - {"step"})
        assert record.keys() >= {*FIGURES - {"probe/kept_majorities"}, "probe/kl"}
    assert "probe/flipped_majorities" not in probed[0] and "probe/flipped_majorities" in probed[-1]
    assert abs(probed[0]["probe/kl"]) < 1e-9 < probed[-1]["probe/kl"]
    assert 0 < probed[0]["probe/answer_entropy"] < 1, "without different answers this run proves nothing"

    shutil.copytree(tmp_path / "probed", tmp_path / "resumed")
    for step in (2, 3):
        shutil.rmtree(tmp_path / "resumed" / "checkpoints" / f"step_{step:06d}")
    assert train("resumed", *probe, "run.resume=true") == probed
