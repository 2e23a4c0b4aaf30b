"""Reads a run for the report page: figures, settings, changes, and rollouts of chosen steps and pairs."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

import yaml

from megatron_coreward.reporting.changes import Change, evaluation_changes, training_changes
from megatron_coreward.run.rollouts import read_rollouts, rollout_steps
from megatron_coreward.run.show import check_run_folder
from megatron_coreward.types import View
from megatron_coreward.utils.metrics import read_metrics
from megatron_coreward.utils.run_names import CONFIG_FILE, METRICS_FILE

Item = TypeVar("Item")
Json = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One run folder.

    `settings` maps full keys to values as config.yaml writes them, {} without one. `records` are
    read_metrics' and not empty. `changes` are of evaluations (with an interval) and then of training;
    `not_compared` says why the former are missing, "" where they are not. `rollouts` has one entry per
    chosen step (see step_rollouts); `rollout_steps` counts those that the folder has.
    """

    name: str
    folder: Path
    settings: dict[str, str]
    records: list[dict[str, float]]
    changes: list[Change]
    not_compared: str
    rollouts: list[Json]
    rollout_steps: int

    @property
    def method(self) -> str:
        return self.settings.get("reward.method", "")

    @property
    def views(self) -> list[str]:
        """The wordings that the run has figures of."""
        names = self.metric_names()
        return [view.value for view in View if f"{view.value}/response_tokens" in names]

    def metric_names(self) -> set[str]:
        return {name for record in self.records for name in record} - {"step"}


def check_folders(folders: Sequence[Path]) -> None:
    """ValueError unless all are different run folders with figures. Reads no more than it must."""
    seen: dict[Path, Path] = {}
    for folder in folders:
        check_run_folder(folder)
        if not read_metrics(folder):
            raise ValueError(
                f"{folder / METRICS_FILE} is absent or holds no figures yet; "
                "leave the run out until its first step has ended"
            )
        if folder.resolve() in seen:
            raise ValueError(
                f"the same run is given twice, as {seen[folder.resolve()]} and {folder}; give it once"
            )
        seen[folder.resolve()] = folder


def read_run(folder: Path, name: str, num_steps: int, num_pairs: int) -> Run:
    """Reads all that the report shows of one run; 0 steps or pairs stand for all of them."""
    records = read_metrics(folder)
    changes, not_compared = training_changes(records), ""
    try:
        changes = evaluation_changes(folder) + changes
    except ValueError as error:
        not_compared = str(error)
    steps = rollout_steps(folder)
    return Run(
        name=name,
        folder=folder,
        settings=read_settings(folder),
        records=records,
        changes=changes,
        not_compared=not_compared,
        rollouts=[step_rollouts(folder, step, num_pairs) for step in spread(steps, num_steps)],
        rollout_steps=len(steps),
    )


def run_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell the folders apart."""
    parts = [folder.resolve().parts for folder in folders]
    length = 1
    while len({path[-length:] for path in parts}) < len(parts):
        length += 1
    return [os.path.join(*path[-length:]) for path in parts]


def read_settings(folder: Path) -> dict[str, str]:
    path = folder / CONFIG_FILE
    # BaseLoader leaves every value as the text that stands there
    return dict(_leaves(yaml.load(path.read_text(), yaml.BaseLoader), "")) if path.exists() else {}


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, dict):
        for name, child in node.items():
            yield from _leaves(child, f"{key}.{name}" if key else name)
    else:
        yield key, str(node)


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items at even distances, the first and (from two on) the last among them; 0 = all."""
    last = len(items) - 1
    if count == 0 or count > last:
        return list(items)
    return [items[round(i * last / max(1, count - 1))] for i in range(count)]


def step_rollouts(folder: Path, step: int, num_pairs: int) -> Json:
    """Pairs of one step, evenly spread over its pair ids: {step, total_pairs, pairs: [...]}."""
    by_pair = [list(group) for _, group in groupby(read_rollouts(folder, step), lambda row: row["pair_id"])]
    chosen = [_pair(rows) for rows in spread(by_pair, num_pairs)]
    return {"step": step, "total_pairs": len(by_pair), "pairs": chosen}


def _pair(rows: Sequence[Json]) -> Json:
    groups = [list(group) for _, group in groupby(rows, lambda row: row["view"])]
    return {
        "pair_id": rows[0]["pair_id"],
        "ground_truth": rows[0]["ground_truth"],
        "groups": [_group(group) for group in groups],
    }


def _group(rows: Sequence[Json]) -> Json:
    shown = ("sample", "answer", "finish_reason", "response_tokens", "text")
    measured = ("reward", "advantage", "mean_logp")
    return {
        "view": rows[0]["view"],
        "question": rows[0]["question"],
        "label": rows[0]["pseudo_label"],
        "votes": Counter(row["answer"] for row in rows).most_common(),
        "responses": [
            {name: row[name] for name in shown} | {name: rounded(row[name]) for name in measured}
            for row in rows
        ],
    }


def rounded(value: float | None) -> float | None:
    """To six significant digits, which is more than a reader sees."""
    return None if value is None else float(f"{value:.6g}")
