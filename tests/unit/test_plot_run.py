"""tools/plot_run.py: curves of a run."""

import importlib.util
import math
from pathlib import Path

import pytest

from megatron_coreward.utils.metrics import METRICS, MetricsWriter, read_metrics

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plot_run():
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("plot_run", ROOT / "tools" / "plot_run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_draws_the_panels_that_have_data(plot_run, tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.log(0, {"eval/greedy_pass@1": 0.5, "eval/maj@8": 0.6})
    writer.log(1, {"policy/kl": 0.1, "mismatch/mean_abs": math.nan})
    writer.log(2, {"policy/kl": 0.2, "mismatch/mean_abs": 1e-6, "eval/greedy_pass@1": 0.6})
    writer.close()
    assert plot_run.main([str(tmp_path), "--output", str(tmp_path / "out" / "curves.png")]) == 0
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    shown = {
        axes.get_title(): axes for axes in plot_run.draw(read_metrics(tmp_path)).axes if axes.get_visible()
    }
    assert list(shown) == ["Held-out accuracy", "KL to the start model", "Log-prob mismatch with vLLM (nats)"]
    greedy, maj = shown["Held-out accuracy"].lines
    assert (greedy.get_label(), list(greedy.get_xdata()), list(greedy.get_ydata())) == (
        "eval/greedy_pass@1",
        [0, 2],
        [0.5, 0.6],
    )
    assert maj.get_label() == "eval/maj@8"


def test_draws_only_metrics_that_exist(plot_run):
    wanted = [name for _, names, _ in plot_run.PANELS for name in names]
    assert [name for name in wanted if not any(m.startswith(name) for m in METRICS)] == []


def test_a_folder_without_figures_is_an_error(plot_run, tmp_path, capsys):
    assert plot_run.main([str(tmp_path)]) == 2
    assert "metrics.jsonl is absent or holds no figures yet" in capsys.readouterr().err
