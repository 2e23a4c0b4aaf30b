"""Traces of chosen steps, idle shares and rates of a run on two ranks, and that they change no result."""

import gzip
import json
from pathlib import Path

import pytest

from megatron_coreward.utils.metrics import read_metrics
from tests.support.programs import TRAIN, launch, settings, without_times, write_data


def test_traced_steps_compute_the_same(apprentice: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "data")
    plain, traced = tmp_path / "plain", tmp_path / "traced"
    for output, steps in ((plain, ""), (traced, "2")):
        options = settings(apprentice, output, data, run__steps=2, run__profile_steps=steps)
        result = launch(2, *TRAIN, *options)
        assert result.returncode == 0, result.stdout
        assert "matrix products of the model's shapes run at" in result.stdout
    assert without_times(traced) == without_times(plain)
    assert not (plain / "profile").exists()
    files = sorted((traced / "profile").iterdir())
    assert [file.name for file in files] == [f"step_000002_rank_{rank}.json.gz" for rank in (0, 1)]
    for file in files:
        events = json.loads(gzip.decompress(file.read_bytes()))["traceEvents"]
        names = {event["name"] for event in events}
        assert {"rollout", "reward", "log_probs", "update", "sync", "aten::mm"} <= names
    for record in read_metrics(plain)[1:]:
        for phase in ("rollout", "reward", "log_probs", "update", "sync"):
            mean, slowest = record[f"time/{phase}"], record[f"time/max/{phase}"]
            assert 0 < mean <= slowest and record[f"time/idle/{phase}"] == 1 - mean / slowest
        rate, products = record["throughput/update_tflops"], record["throughput/gemm_tflops"]
        assert record["throughput/update_gemm_share"] == pytest.approx(rate / products)
        assert 0 < record["throughput/update_gemm_share"] < 1
        assert 0 < record["throughput/log_probs_gemm_share"] < 1
        assert record["throughput/generated_tokens_per_second"] > 0
        assert record["throughput/trained_tokens_per_second"] > 0
