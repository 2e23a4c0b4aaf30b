"""The HTML page about one or more runs: the content of runs.py and figures.py in the template of assets/."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from megatron_coreward.reporting.changes import AVERAGED_STEPS, Change
from megatron_coreward.reporting.figures import (
    NUM_COLORS,
    Figures,
    Series,
    figures_of,
    phase_totals,
    series_of,
)
from megatron_coreward.reporting.runs import Json, Run
from megatron_coreward.utils.folders import publish_file, temporary_name
from megatron_coreward.utils.metrics import three_digits

ASSETS = Path(__file__).parent / "assets"
OWN_KEYS = (
    *("run.output_dir", "run.resume", "run.auto_resume", "run.export_hf", "run.stall_timeout_s"),
    "run.profile_steps",
)
OWN_SECTIONS = ("logging", "checkpoint")
"""Settings that keep the books of a run and change nothing that it computes: no differences."""


class MeasureRow(NamedTuple):
    """A run's change of one measure; `run` counts from 0."""

    run: int
    change: Change


class SettingsTable(NamedTuple):
    """Key -> value of each run (None: not in its config.yaml), and key -> value that all share."""

    differing: dict[str, list[str | None]]
    common: dict[str, str]


def page(runs: Sequence[Run]) -> str:
    """The whole page. Every text of a run is escaped: in the HTML by autoescape, in the data by tojson."""
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {
        "allow_nan": False,
        "ensure_ascii": False,
        "separators": (",", ":"),
    }
    all_series = [series_of(run) for run in runs]
    figures = figures_of(runs, all_series)
    return environment.get_template("template.html.j2").render(
        runs=runs,
        num_colors=NUM_COLORS,
        averaged_steps=AVERAGED_STEPS,
        measures=measures(runs),
        scale=interval_scale(runs),
        settings=settings_table(runs),
        figures=figures,
        totals=phase_totals(all_series),
        questions=questions_of(runs),
        three_digits=three_digits,
        data=page_data(runs, all_series, figures),
        css=_asset("report.css"),
        scripts=[_asset("charts.js"), _asset("rollouts.js")],
    )


def write_page(runs: Sequence[Run], path: Path) -> None:
    """The file appears complete or not at all."""
    new = temporary_name(path)
    new.write_text(page(runs), encoding="utf-8")
    publish_file(new, path)


def _asset(name: str) -> Markup:
    """A file of assets/, which goes into the page as it is."""
    return Markup((ASSETS / name).read_text())


def page_data(runs: Sequence[Run], all_series: Sequence[Series], figures: Figures) -> Json:
    """The data for the scripts; of the series, those that are drawn."""
    sections = [figure for section in figures.sections for figure in section["figures"]]
    drawn = {line["metric"] for figure in [*sections, *figures.by_run] for line in figure["lines"]}
    return {
        "figures": [*sections, *figures.by_run],
        "runs": [
            {
                "name": run.name,
                "series": {k: v for k, v in series.items() if k == "steps" or k in drawn},
                "rollouts": [{"step": step["step"]} for step in run.rollouts],
            }
            for run, series in zip(runs, all_series, strict=True)
        ],
    }


def measures(runs: Sequence[Run]) -> dict[str, list[MeasureRow]]:
    """Measure -> a row per run that has it; those with intervals first."""
    table: dict[str, list[MeasureRow]] = {}
    for number, run in enumerate(runs):
        for change in run.changes:
            table.setdefault(change.measure, []).append(MeasureRow(number, change))
    return dict(sorted(table.items(), key=lambda item: item[1][0].change.interval is None))


def interval_scale(runs: Sequence[Run]) -> tuple[float, float]:
    """The lowest and the highest bound of all intervals, 0 included."""
    bounds = [0.0, *(b for run in runs for change in run.changes for b in change.interval or ())]
    return min(bounds), max(bounds)


def settings_table(runs: Sequence[Run]) -> SettingsTable:
    configured = [run.settings for run in runs if run.settings]
    keys = dict.fromkeys(key for settings in configured for key in settings)
    differing = [key for key in keys if len({settings.get(key) for settings in configured}) > 1]
    shown = [k for k in differing if k not in OWN_KEYS and k.partition(".")[0] not in OWN_SECTIONS]
    return SettingsTable(
        differing={key: [run.settings.get(key) for run in runs] for key in shown},
        common={key: configured[0][key] for key in keys if key not in differing},
    )


def _synthetic_questions(run: Run) -> str:
    """What a run without a file asks; runs of before there were tasks and splits ask all of arithmetic."""
    task = run.settings.get("data.synthetic_task", "arithmetic")
    split = run.settings.get("evaluation.synthetic_split", "all")
    named = [name for name, usual in ((task, "arithmetic"), (split, "all")) if name != usual]
    return "synthetic problems" + (f" ({', '.join(named)})" if named else "")


def questions_of(runs: Sequence[Run]) -> dict[str, str]:
    """Run -> the questions that it is evaluated on, as its settings name them; {} where all have the same."""
    named = {}
    for run in runs:
        synthetic = _synthetic_questions(run) if run.settings.get("data.source") == "synthetic" else ""
        if file := run.settings.get("evaluation.file") or synthetic:
            limit = run.settings.get("evaluation.limit", "0")
            named[run.name] = file if limit == "0" else f"the first {limit} of {file}"
    return named if len(set(named.values())) > 1 else {}
