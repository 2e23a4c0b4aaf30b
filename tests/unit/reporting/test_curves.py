"""The curves of a run, and `coreward report RUN --output NAME.png`."""

import math

from megatron_coreward.cli.report import main
from megatron_coreward.evaluation.health import AGREEMENT, BY_CHANCE, ENTROPY, INFORMATION, KEPT, TOP
from megatron_coreward.reporting.curves import PANELS, PROBE, draw
from megatron_coreward.utils.metrics import MetricsWriter, read_metrics
from tests.support.metric_names import METRICS

HEALTHY_PROBE = {AGREEMENT: 0.5, ENTROPY: 0.8, TOP: 0.1, INFORMATION: 2.0}


def test_draws_the_panels_that_have_data(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.log(0, {"eval/greedy_pass@1": 0.5, "eval/maj@8": 0.6})
    writer.log(1, {"policy/kl": 0.1, "mismatch/mean_abs": math.nan})
    writer.log(2, {"policy/kl": 0.2, "mismatch/mean_abs": 1e-6, "eval/greedy_pass@1": 0.6})
    writer.close()
    assert main([str(tmp_path), "--output", str(tmp_path / "out" / "curves.png")]) == 0
    assert (tmp_path / "out" / "curves.png").stat().st_size > 10_000
    shown = {axes.get_title(): axes for axes in draw(read_metrics(tmp_path)).axes if axes.get_visible()}
    assert list(shown) == ["Held-out accuracy", "KL to the start model", "Log-prob mismatch with vLLM (nats)"]
    greedy, maj = shown["Held-out accuracy"].lines
    assert (greedy.get_label(), list(greedy.get_xdata()), list(greedy.get_ydata())) == (
        "eval/greedy_pass@1",
        [0, 2],
        [0.5, 0.6],
    )
    assert maj.get_label() == "eval/maj@8"


def test_marks_the_alarms_of_a_probe(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step, kept in enumerate([1.0, 0.6, 0.6, 0.95]):
        chance = {} if step else {BY_CHANCE: 0.7}
        writer.log(5 * step, {**HEALTHY_PROBE, **chance, KEPT: kept})
        writer.log(5 * step + 1, {"policy/kl": 0.1})
    writer.close()
    [axes] = [axes for axes in draw(read_metrics(tmp_path)).axes if axes.get_title() == PROBE]
    *figures, chance, alarm = axes.lines
    assert {line.get_label() for line in figures} == {*HEALTHY_PROBE, KEPT} - {INFORMATION}
    assert (chance.get_label(), list(chance.get_ydata())) == (BY_CHANCE, [0.7, 0.7])
    assert (alarm.get_label(), list(alarm.get_xdata())) == ("forgetting alarm", [10, 10])


def test_draws_only_metrics_that_exist():
    wanted = [name for _, names, _ in PANELS for name in names]
    assert [name for name in wanted if not any(m.startswith(name) for m in METRICS)] == []


def test_a_picture_shows_one_run(tmp_path, capsys):
    for name in ("a", "b"):
        writer = MetricsWriter(tmp_path / name)
        writer.log(1, {"policy/kl": 0.1})
        writer.close()
    runs = [str(tmp_path / name) for name in ("a", "b")]
    assert main([*runs, "--output", str(tmp_path / "curves.png")]) == 2
    assert "is a picture, which shows one run, but 2 are given" in capsys.readouterr().err


def test_a_folder_without_figures_is_an_error(tmp_path, capsys):
    (tmp_path / "metrics.jsonl").touch()
    assert main([str(tmp_path), "--output", str(tmp_path / "curves.png")]) == 2
    assert "holds no figures yet" in capsys.readouterr().err
