"""The curves of the report page, and the data of each: plain lists and dicts for assets/charts.js."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from megatron_coreward.coreward.rewards.registry import METHODS
from megatron_coreward.reporting.runs import Json, Run, rounded
from megatron_coreward.types import View

ACCURACY, SHARE, NATS, TOKENS = "accuracy", "share", "nats", "tokens"


class Panel(NamedTuple):
    """One figure. `{view}` in `metric` stands for both wordings, `@k` and `level_k` for any number:
    a line for each wording, a figure of its own for each number."""

    title: str
    metric: str
    unit: str = ""
    log: bool = False


class Section(NamedTuple):
    title: str
    note: str
    panels: tuple[Panel, ...]


SECTIONS = (
    Section(
        "Held-out accuracy",
        "Greedy pass@1 and maj@k do not rise by mere sharpening; sampled pass@1 does.",
        (
            Panel("Greedy pass@1", "eval/greedy_pass@1", ACCURACY),
            Panel("Sampled pass@1", "eval/pass@1", ACCURACY),
            Panel("Majority of k samples", "eval/maj@k", ACCURACY),
        ),
    ),
    Section(
        "Votes, labels and agreement",
        "Accuracies are diagnostics: they need the ground truth, which no label-free reward sees.",
        (
            Panel("Vote accuracy", "diagnostics/{view}/vote_accuracy", ACCURACY),
            Panel("Label accuracy", "diagnostics/{view}/label_accuracy", ACCURACY),
            Panel("Either vote is right", "diagnostics/either_vote_accuracy", ACCURACY),
            Panel("pass@1 in training", "diagnostics/{view}/pass@1", ACCURACY),
            Panel("Agreement of the two wordings", "coreward/agreement", SHARE),
            Panel("Share of the majority answer", "{view}/majority_share", SHARE),
            Panel("Teacher and policy agree", "coreward/teacher_agreement", SHARE),
            Panel("Groups with a label", "coreward/labelled", SHARE),
            Panel("Tied votes", "coreward/tied", SHARE),
        ),
    ),
    Section(
        "By difficulty",
        "Diagnostics; only where the data has levels.",
        (
            Panel("Vote accuracy, level k", "diagnostics/{view}/vote_accuracy/level_k", ACCURACY),
            Panel("Label accuracy, level k", "diagnostics/{view}/label_accuracy/level_k", ACCURACY),
        ),
    ),
    Section(
        "Reward and signal",
        "The rewards of different methods are different quantities: compare methods by vote accuracy.",
        (
            Panel("Mean reward", "reward/mean", SHARE),
            Panel("Mean reward, confidence", "reward/mean (nats)", NATS),
            Panel("Rewards that are right", "diagnostics/reward_accuracy", SHARE),
            Panel("Groups with a signal", "{view}/signal_groups", SHARE),
            Panel("Responses with an answer", "{view}/answered", SHARE),
        ),
    ),
    Section(
        "Signs of collapse",
        "One answer to everything, entropy near 0, or lengths that run to the limit.",
        (
            Panel("Top answer share", "{view}/top_answer_share", SHARE),
            Panel("Different answers per group", "{view}/distinct_answers"),
            Panel("Response length", "{view}/response_tokens", TOKENS),
            Panel("Cut at the limit", "{view}/truncated", SHARE),
            Panel("Repetition", "{view}/repetition", SHARE),
            Panel("Entropy of the rollouts", "{view}/entropy", NATS),
            Panel("Entropy of the policy", "policy/entropy", NATS),
            Panel("Self-certainty of the policy", "policy/self_certainty", NATS),
        ),
    ),
    Section(
        "Probe",
        "Held-out pairs without labels (monitor.every).",
        (
            Panel("Greedy answers agree", "probe/agreement", SHARE),
            Panel("Variety of answers to a question", "probe/answer_entropy"),
            Panel("Kept majorities", "probe/kept_majorities", SHARE),
            Panel("Flipped majorities", "probe/flipped_majorities", SHARE),
            Panel("Top answer share", "probe/top_answer_share", SHARE),
            Panel("What an answer says of its question", "probe/answer_information", NATS),
            Panel("KL to the start model", "probe/kl", NATS),
        ),
    ),
    Section(
        "Update",
        "",
        (
            Panel("KL to the reference", "policy/kl", NATS),
            Panel("Gradient norm", "policy/grad_norm"),
            Panel("Loss", "policy/loss"),
            Panel("Clipped tokens", "policy/clip_fraction", SHARE),
            Panel("Learning rate", "policy/lr"),
            Panel("What the teacher keeps of itself", "teacher/alpha", SHARE),
        ),
    ),
    Section(
        "Rollout against actor",
        "Log-probs of the sampled tokens by vLLM and by Megatron. A rise: the engine runs other weights.",
        (
            Panel("Mean difference", "mismatch/mean_abs", NATS, log=True),
            Panel("Largest difference", "mismatch/max_abs", NATS, log=True),
            Panel("KL of rollout and policy", "mismatch/kl", NATS, log=True),
        ),
    ),
    Section(
        "Time and memory, all runs",
        "",
        (
            Panel("Step", "time/step", "s"),
            Panel("Throughput", "throughput/tokens_per_second", "tokens/s"),
            Panel("Generated in the rollout", "throughput/generated_tokens_per_second", "tokens/s"),
            Panel("Trained in the update", "throughput/trained_tokens_per_second", "tokens/s"),
            Panel("Useful work of the update", "throughput/update_tflops", "TFLOP/s"),
            Panel("Useful work of log_probs", "throughput/log_probs_tflops", "TFLOP/s"),
            Panel("Update, share of the product rate", "throughput/update_gemm_share", SHARE),
            Panel("log_probs, share of the product rate", "throughput/log_probs_gemm_share", SHARE),
            Panel("Peak memory", "memory/peak_gb", "GB"),
        ),
    ),
)
REWARD, REWARD_IN_NATS, OTHER = "reward/mean", "reward/mean (nats)", "time/other"
"""The last two are made here: the reward of methods whose reward is a confidence, and the step's time less
that of its phases."""
PHASES = ("rollout", "teacher", "confidence", "reward", "log_probs", "update", "sync", "verify")
OUTSIDE_STEP = ("evaluate", "probe", "checkpoint")
NUM_COLORS = 10
"""Runs have colours of their own up to this number (report_page/report.css); then they come again."""

Series = dict[str, list[Any]]


@dataclass(frozen=True)
class Figures:
    """What charts.js draws. A figure is {title, metric, unit, log, stacked, lines}; a line is {run, metric,
    label, color, dashed}, where `run` counts from 0 and `color` names a CSS variable.

    Attributes:
        sections: {title, note, figures} each.
        by_run: a stacked time and a memory figure per run.
        missing: titles of the panels that no run has figures for.
    """

    sections: list[Json]
    by_run: list[Json]
    missing: list[str]


def series_of(run: Run) -> Series:
    """{"steps": all steps in order, metric: a value per step}: null where absent, "nan" where not finite.

    Besides the logged figures it has REWARD_IN_NATS and OTHER.
    """
    records = [_with_made_figures(run, record) for record in run.records]
    names = sorted({name for record in records for name in record} - {"step"})
    values = {name: [_plain(record.get(name)) for record in records] for name in names}
    return {"steps": [int(record["step"]) for record in records], **values}


def phase_totals(all_series: Sequence[Series]) -> dict[str, list[float | None]]:
    """Phase -> total seconds of each run, None where the run lacks it; with the phases outside the steps."""
    totals = {}
    for phase in (*PHASES, "other", *OUTSIDE_STEP):
        seconds = [
            [v for v in series.get(f"time/{phase}", []) if isinstance(v, float)] for series in all_series
        ]
        if any(seconds):
            totals[phase] = [sum(values) if values else None for values in seconds]
    return totals


def figures_of(runs: Sequence[Run], all_series: Sequence[Series]) -> Figures:
    sections, missing = [], []
    for title, note, panels in SECTIONS:
        figures = []
        for panel in panels:
            drawn = _panel_figures(panel, runs, all_series)
            figures += drawn
            missing += [] if drawn else [panel.title]
        if figures:
            sections.append({"title": title, "note": note, "figures": figures})
    numbered = enumerate(zip(runs, all_series, strict=True))
    by_run = [figure for number, (run, series) in numbered for figure in _phase_figures(number, run, series)]
    return Figures(sections, by_run, missing)


def _with_made_figures(run: Run, record: dict[str, float]) -> dict[str, float]:
    made = dict(record)
    if REWARD in made and run.method in METHODS and METHODS[run.method].confidence:
        made[REWARD_IN_NATS] = made.pop(REWARD)
    if "time/step" in made:
        made[OTHER] = max(0.0, made["time/step"] - sum(made.get(f"time/{phase}", 0.0) for phase in PHASES))
    return made


def _plain(value: float | None) -> float | str | None:
    return rounded(value) if value is None or math.isfinite(value) else "nan"


def _panel_figures(panel: Panel, runs: Sequence[Run], all_series: Sequence[Series]) -> list[Json]:
    """One figure, or one for each number that `k` stands for; [] where no run has the metric."""
    pattern = re.escape(panel.metric).replace(r"\{view\}", f"(?P<view>{'|'.join(View)})")
    pattern = re.sub(r"(@|level_)k$", r"\1(?P<number>\\d+)", pattern)
    lines: dict[str, list[Json]] = {}
    for run, series in enumerate(all_series):
        for metric in sorted(series):
            if match := re.fullmatch(pattern, metric):
                parts = match.groupdict(default="")
                view = parts.get("view", "")
                label = f"{runs[run].name}, {view}" if view else runs[run].name
                line = _line(run, metric, label, f"run-{run % NUM_COLORS}", view == View.REPHRASED)
                lines.setdefault(parts.get("number", ""), []).append(line)
    figures = []
    for number in sorted(lines, key=lambda number: int(number or 0)):
        metric = re.sub(r"(@|level_)k$", rf"\g<1>{number}", panel.metric)
        title = re.sub(r"\bk\b", number, panel.title) if number else panel.title
        figures.append(_figure(title, metric, panel.unit, lines[number], log=panel.log))
    return figures


def _phase_figures(number: int, run: Run, series: Series) -> list[Json]:
    times, slowest, idle, peaks = (
        [
            _line(number, metric, phase, f"phase-{place}")
            for place, phase in enumerate((*PHASES, "other"))
            if (metric := template.format(phase)) in series
        ]
        for template in ("time/{}", "time/max/{}", "time/idle/{}", "memory/{}_gb")
    )
    figures = [
        _figure(f"{run.name}: time per step", "time/...", "s", times, stacked=True),
        _figure(f"{run.name}: time of the slowest rank", "time/max/...", "s", slowest),
        _figure(f"{run.name}: idle share of the ranks", "time/idle/...", SHARE, idle),
        _figure(f"{run.name}: peak memory by phase", "memory/..._gb", "GB", peaks),
    ]
    return [figure for figure in figures if figure["lines"]]


def _line(run: int, metric: str, label: str, color: str, dashed: bool = False) -> Json:
    return {"run": run, "metric": metric, "label": label, "color": color, "dashed": dashed}


def _figure(
    title: str, metric: str, unit: str, lines: list[Json], log: bool = False, stacked: bool = False
) -> Json:
    return {"title": title, "metric": metric, "unit": unit, "log": log, "stacked": stacked, "lines": lines}
