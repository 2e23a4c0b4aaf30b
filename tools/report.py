"""One HTML page about one or more runs: curves, before and after, settings that differ, rollouts to read.

    python tools/report.py RUN [RUN ...] --output report.html

The page needs no server and no network. It holds the figures of every step, and the responses to some pairs
of some steps (--pairs, --steps), evenly spread, and says how many of how many. What goes into it:
report_runs.py and report_figures.py; how it looks and acts: report_page/.

Exit codes: 0 written; 2 wrong input.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from report_figures import NUM_COLORS, Figures, Series, figures_of, phase_totals, series_of
from report_runs import Json, Run, check_folders, read_run, run_names
from rich.console import Console
from summarize_run import AVERAGED_STEPS, Change

from megatron_coreward.utils.logging import print_error

DONE, REFUSED = 0, 2
PAGE = Path(__file__).parent / "report_page"
OWN_KEYS = ("run.output_dir",)
"""Settings that every run has for itself: not shown as differences."""
LARGE_PAGE_BYTES = 100_000_000


class MeasureRow(NamedTuple):
    """A run's change of one measure; `run` counts from 0."""

    run: int
    change: Change


class SettingsTable(NamedTuple):
    """Key -> value of each run (None: not in its config.yaml), and key -> value that all share."""

    differing: dict[str, list[str | None]]
    common: dict[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        check_options(options)
        check_folders(options.runs)
        names = run_names(options.runs)
        runs = [
            read_run(folder, name, options.steps, options.pairs)
            for folder, name in zip(options.runs, names, strict=True)
        ]
        write_page(options.output, page(runs))
    except (OSError, ValueError) as error:
        print_error(error)
        return REFUSED
    _tell(Console(), options.output, runs)
    return DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="report.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folder (run.output_dir)")
    parser.add_argument("--output", type=Path, default=Path("report.html"), help="page to write")
    parser.add_argument(
        "--steps", type=int, default=6, help="steps per run with rollouts to read (default 6, 0 = all)"
    )
    parser.add_argument("--pairs", type=int, default=6, help="pairs per such step (default 6, 0 = all)")
    return parser


def check_options(options: argparse.Namespace) -> None:
    if options.steps < 0 or options.steps == 1:
        raise ValueError(
            f"--steps is {options.steps}, but the first and the last step are always shown: "
            "give 2 or more, or 0 for all"
        )
    if options.pairs < 0:
        raise ValueError(f"--pairs is {options.pairs}, but must be 1 or more, or 0 for all")
    if options.output.is_dir():
        raise ValueError(f"--output {options.output} is a folder; give the name of a file")
    folder = options.output.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(
            f"--output {options.output}: {folder} cannot be made ({error.strerror}); choose another folder"
        ) from None
    if not os.access(folder, os.W_OK):
        raise ValueError(f"--output {options.output}: {folder} is not writable; choose another folder")


def page(runs: Sequence[Run]) -> str:
    """The whole page. Every text of a run is escaped: in the HTML by autoescape, in the data by tojson."""
    environment = Environment(
        loader=FileSystemLoader(PAGE),
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
        data=page_data(runs, all_series, figures),
        css=_own("report.css"),
        scripts=[_own("charts.js"), _own("rollouts.js")],
    )


def _own(name: str) -> Markup:
    """A file of ours that goes into the page as it is."""
    return Markup((PAGE / name).read_text())


def page_data(runs: Sequence[Run], all_series: Sequence[Series], figures: Figures) -> Json:
    """What the scripts read. Of the series those that are drawn."""
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
    keys = dict.fromkeys(key for settings in configured for key in settings if key not in OWN_KEYS)
    differing = [key for key in keys if len({settings.get(key) for settings in configured}) > 1]
    return SettingsTable(
        differing={key: [run.settings.get(key) for run in runs] for key in differing},
        common={key: configured[0][key] for key in keys if key not in differing},
    )


def write_page(path: Path, html: str) -> None:
    """The file appears complete or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(html, encoding="utf-8")
    os.replace(temporary, path)


def _tell(console: Console, path: Path, runs: Sequence[Run]) -> None:
    size = path.stat().st_size
    console.print(f"{path}: {size / 1e6:.1f} MB", highlight=False, markup=False, soft_wrap=True)
    for run in runs:
        pairs = sum(len(step["pairs"]) for step in run.rollouts)
        line = f"  {run.name}: rollouts of {pairs} pairs in {len(run.rollouts)} of {run.rollout_steps} steps"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if size > LARGE_PAGE_BYTES:
        console.print("a browser may be slow with this page: lower --steps or --pairs", style="yellow")


if __name__ == "__main__":
    sys.exit(main())
