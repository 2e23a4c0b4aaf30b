"""What a finished run leaves behind: one small JSON file, made of its run folder and two evaluations.

Greedy outcomes on the test split are strings of 0 and 1, one digit per question in the order of the split; in
the task `wordings` question 2i is the plain and 2i + 1 the hard wording of problem i.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from arms import Run
from rules import Result, chosen_checkpoint

from megatron_coreward.evaluation.health import first_alarms
from megatron_coreward.reporting.changes import read_scores
from megatron_coreward.utils.bootstrap import pass_at_k
from megatron_coreward.utils.folders import publish_file, temporary_name
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.run_names import EVALUATIONS

GREEDY = "greedy_pass@1"
START, CHOSEN, LAST = "start", "chosen", "last"
"""The models that the test split is asked of; `chosen` is the checkpoint of rule S1."""
FIGURES = {
    "agreement": "coreward/agreement",
    "majority_share": "{view}/majority_share",
    "top_answer_share": "{view}/top_answer_share",
    "vote_accuracy": "diagnostics/{view}/vote_accuracy",
    "entropy": "{view}/entropy",
}
"""Kept of every training step; of one wording, the original."""
DIGITS = 3
"""After the point, of what is kept of steps."""


def collect(folder: Path, run: Run, tests: Mapping[str, dict[str, Any]], facts: Mapping[str, Any]) -> Result:
    """The figures of a finished run.

    Args:
        folder: its run folder.
        tests: what `tested` gives, for START, CHOSEN and LAST.
        facts: of where it ran: commit, processor, torch, start_model, seconds.
    """
    records = read_metrics(folder)
    probes = probes_of(folder)
    step, _ = chosen_checkpoint(probes)
    names = sorted({name for probe in probes for name in probe} - {"step"})
    steps = [record for record in records if "reward/mean" in record]
    figures = {
        name: [_rounded(record.get(figure.format(view="original"))) for record in steps]
        for name, figure in FIGURES.items()
    }
    return {
        **{"name": run.name, "stage": run.stage, "task": run.task, "arm": run.arm, "seed": run.seed},
        **{"rate": run.rate, **facts, "chosen": step, "alarms": first_alarms(probes)},
        "probe": {
            "step": [int(probe["step"]) for probe in probes],
            **{name: [probe.get(name) for probe in probes] for name in names},
        },
        "steps": {name: values for name, values in figures.items() if any(v is not None for v in values)},
        "validation": _validation(folder),
        "test": dict(tests),
    }


def probes_of(folder: Path) -> list[dict[str, float]]:
    """The figures of a run's probes, each with its step; [] before the first."""
    return [
        {name: value for name, value in record.items() if name == "step" or name.startswith("probe/")}
        for record in read_metrics(folder)
        if "probe/agreement" in record
    ]


def tested(summary: Path) -> dict[str, Any]:
    """The outcomes in a summary.json of `coreward evaluate` on the synthetic problems, in short."""
    measured = json.loads(summary.read_text())["benchmarks"]["synthetic"]
    [outcomes] = measured["outcomes"]
    means = {name: round(m["value"], 4) for name, m in measured["metrics"].items()}
    samples = len(outcomes["sampled"][0])
    return {
        "greedy": "".join(map(str, outcomes["greedy"])),
        **{name: means[name] for name in ("pass@1", f"pass@{samples}", f"maj@{samples}")},
    }


def _validation(folder: Path) -> dict[str, list[Any]]:
    """Each measure by evaluation, beside "step"."""
    columns: dict[str, list[Any]] = {}
    for path in sorted((folder / EVALUATIONS).glob("step_*.json")):
        scores = read_scores(path)
        [sampled_QK] = scores.sampled_SQK
        measures = {name.removeprefix("eval/"): value for name, value in scores.metrics().items()}
        measures[f"pass@{scores.samples}"] = float(pass_at_k(sampled_QK, scores.samples).mean())
        columns.setdefault("step", []).append(int(path.stem.removeprefix("step_")))
        for name, value in measures.items():
            columns.setdefault(name, []).append(round(value, 4))
    return columns


def write_result(result: Result, path: Path) -> None:
    """The file appears when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = temporary_name(path)
    unfinished.write_text(json.dumps(result) + "\n")
    publish_file(unfinished, path)


def read_results(folder: Path) -> list[Result]:
    """The results in `folder`, which make one table, by name.

    Raises:
        ValueError: they are of different commits, or of different start models for one task.
    """
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    _check_alike(folder, "commits", {result["commit"]: result["name"] for result in results})
    for task in sorted({result["task"] for result in results}):
        models = {r["start_model"]: r["name"] for r in results if r["task"] == task}
        _check_alike(folder, f"start models of the task {task}", models)
    return results


def _check_alike(folder: Path, what: str, found: Mapping[str, str]) -> None:
    if len(found) > 1:
        given = ", ".join(f"{value[:12]} ({name})" for value, name in found.items())
        raise ValueError(f"{folder} holds results of different {what}: {given}; move one kind away")


def check_same_origin(results: Sequence[Result], commit: str, start_models: Mapping[str, str]) -> None:
    """Raises ValueError if runs of this commit or of these start models could not join the table."""
    for result in results:
        here = {"commit": commit, "start_model": start_models[result["task"]]}
        for name, value in here.items():
            if result[name] != value:
                raise ValueError(
                    f"{result['name']} of the {result['stage']} has {name} {result[name][:12]}, but a run "
                    f"made now would have {value[:12]}; use the tag of the results, or move them away"
                )


def outcomes_of(result: Result, model: str) -> np.ndarray:
    """Greedy outcomes on the test split by problem, the mean over its wordings; float64 [P]."""
    digits = np.array([int(digit) for digit in result["test"][model]["greedy"]], dtype=float)
    return digits.reshape(-1, wordings_of(result["task"])).mean(axis=1)


def wordings_of(task: str) -> int:
    """Questions that the held-out splits of a task hold of each problem."""
    return 2 if task == "wordings" else 1


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
