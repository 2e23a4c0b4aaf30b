"""The changes of a run: first and last evaluation with paired intervals, first and last steps."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from megatron_coreward.evaluation.measures import Scores, compare
from megatron_coreward.utils.bootstrap import Interval
from megatron_coreward.utils.metrics import three_digits
from megatron_coreward.utils.run_names import CONFIG_FILE, EVALUATIONS

COLUMNS = ("measure", "before", "after", "change", "95% interval")
TRAINING_FIGURES = {
    "vote accuracy, original questions": "diagnostics/original/vote_accuracy",
    "vote accuracy, rephrased questions": "diagnostics/rephrased/vote_accuracy",
    "agreement of the two votes": "coreward/agreement",
    "mean reward": "reward/mean",
    "log-prob gap to vLLM, mean (nats)": "mismatch/mean_abs",
    "log-prob gap to vLLM, largest (nats)": "mismatch/max_abs",
}
AVERAGED_STEPS = 10
SEED = 1


class Change(NamedTuple):
    """A measure before and after, and the change with its paired 95% interval where there is one.

    `before` is None where a run is too short to have a before.
    """

    measure: str
    before: float | None
    after: float
    interval: Interval | None = None


def evaluation_changes(folder: Path) -> list[Change]:
    """The measures of the first and the last evaluation of a run folder.

    Raises:
        ValueError: there are fewer than two evaluations, or they are of different questions.
    """
    return _changes(*_first_and_last(folder))


def changes_by(labels: Mapping[int, str], folder: Path) -> list[Change]:
    """evaluation_changes of the questions of each label, by question id; those labelled "" are in none.

    Raises:
        ValueError: as evaluation_changes; a question that was asked is not in `labels`.
    """
    before, after = _first_and_last(folder)
    asked = before.question_ids_Q.tolist()
    if not labels.keys() >= set(asked):
        raise ValueError(
            f"the evaluation questions of {folder / CONFIG_FILE} are no longer those that the run was asked; "
            "leave --by out"
        )
    labels_Q = np.array([labels[question_id] for question_id in asked])
    changes = []
    for name in sorted(set(labels_Q.tolist()) - {""}):
        chosen_Q = labels_Q == name
        found = _changes(before.of(chosen_Q), after.of(chosen_Q))
        changes += [c._replace(measure=f"{c.measure}, {name} ({chosen_Q.sum()})") for c in found]
    return changes


def _first_and_last(folder: Path) -> tuple[Scores, Scores]:
    files = sorted((folder / EVALUATIONS).glob("step_*.json"))
    if len(files) < 2:
        raise ValueError(f"{folder / EVALUATIONS} holds {len(files)} evaluations; before and after need two")
    return read_scores(files[0]), read_scores(files[-1])


def _changes(before: Scores, after: Scores) -> list[Change]:
    old, new = before.metrics(), after.metrics()
    return [
        Change(name.removeprefix("eval/"), old[name], new[name], interval)
        for name, interval in compare(before, after, SEED).items()
    ]


def read_scores(file: Path) -> Scores:
    """The scores in a file of a run folder's evaluations."""
    return Scores.from_outcomes([json.loads(file.read_text())["outcomes"]])


def training_changes(records: Sequence[dict[str, float]]) -> list[Change]:
    """Means over the first and the last ten steps, in shorter runs over the first and the last half.

    The two never overlap: of an odd number of steps the one in the middle is left out.
    """
    changes = []
    for label, name in TRAINING_FIGURES.items():
        values = [record[name] for record in records if name in record]
        if values:
            count = min(AVERAGED_STEPS, len(values) // 2)
            last = values[-max(count, 1) :]
            before = sum(values[:count]) / count if count else None
            changes.append(Change(label, before, sum(last) / len(last)))
    return changes


def table_row(change: Change) -> tuple[str, ...]:
    """The cells of COLUMNS."""
    measure, before, after, interval = change
    if interval is None or before is None:
        return (measure, "" if before is None else three_digits(before), three_digits(after), "", "")
    return (
        *(measure, f"{before:.3f}", f"{after:.3f}", f"{interval.value:+.3f}"),
        f"{interval.low:+.3f} to {interval.high:+.3f}",
    )
