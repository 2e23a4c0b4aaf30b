"""Three steps of the training program with a tiny model; every weight sync is verified."""

import subprocess
from pathlib import Path

from megatron_coreward.utils.metrics import read_metrics
from tests.support.models import tiny_model
from tests.support.paths import ROOT
from tests.support.programs import TRAIN, command, environment, settings, write_data
from tools.gpu_check.table import Figures

STEPS = 3
SHOWN = (
    *("mismatch/mean_abs", "policy/loss", "policy/grad_norm", "time/rollout", "time/sync", "time/step"),
    *("memory/rollout_gb", "memory/update_gb"),
)


def eager(folder: Path) -> Figures:
    return steps(folder, eager=True)


def graphs(folder: Path) -> Figures:
    return steps(folder, eager=False)


def steps(folder: Path, *, eager: bool) -> Figures:
    """Figures of the last step, of docs/metrics.md."""
    model = tiny_model(folder / "model", heads=4, kv_heads=2, head_dim=64)
    options = settings(
        model,
        folder / "run",
        write_data(folder / "data"),
        run__steps=STEPS,
        rollout__gpu_memory_utilization=0.3,
        rollout__enforce_eager=str(eager).lower(),
        weight_sync__verify="true",
    )
    code = subprocess.run(command(1, *TRAIN, *options), cwd=ROOT, env=environment(), check=False).returncode
    assert code == 0, f"the training program ended with exit code {code}"
    records = [record for record in read_metrics(folder / "run") if "policy/loss" in record]
    assert len(records) == STEPS, f"{len(records)} steps instead of {STEPS}"
    assert all("time/verify" in record for record in records), "a sync was not verified"
    last = records[-1]
    return {"steps": len(records), **{name: last[name] for name in SHOWN if name in last}}
