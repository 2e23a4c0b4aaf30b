"""Questions of a source by split, without those that training or a fair test cannot use.

A split counts what it drops by reason: no question, no rephrasing where others have one, no answer,
duplicates, contradictory answers, questions of the test split or of other files. The folder of all splits
appears only when it is complete.
"""

import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_coreward.config.fields import DATA_SUFFIXES
from megatron_coreward.data.columns import Unreadable
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.preparation.formats import Converter, Item, question_in
from megatron_coreward.data.tables import iter_records, unit_of
from megatron_coreward.grading.answers import normal_form
from megatron_coreward.rephrasing.checks import scripts
from megatron_coreward.utils.folders import publish, temporary_name

REPORT = "report.json"
SPLITS = {name: name for name in ("train", "test", "validation")} | {
    "valid": "validation",
    "val": "validation",
}
NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")


def key_of(question: str) -> str:
    return " ".join(question.split())


@dataclass
class Split:
    """Items of a split by question, and what was dropped: counts, and where the first of each was."""

    read: int = 0
    kept: dict[str, Item] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    contradictory: set[str] = field(default_factory=set)

    def drop(self, reason: str, place: str, count: int = 1) -> None:
        self.dropped[reason] += count
        self.first.setdefault(reason, place)

    def add(self, item: Item, place: str, *, unanswered: bool, latin: bool) -> None:
        """Takes an item, or drops it and says why."""
        self.read += 1
        key = key_of(item.question)
        earlier = self.kept.get(key)
        if not key:
            self.drop("no question", place)
        elif item.rephrased == "":
            self.drop("no rephrasing", place)
        elif item.answer is None and not unanswered:
            self.drop(item.fault or "no answer", place)
        elif latin and scripts(item.question) - {"LATIN"}:
            self.drop("other than Latin letters", place)
        elif key in self.contradictory:
            self.drop("contradictory answers", place)
        elif earlier is None:
            self.kept[key] = item
        elif normal_form(earlier.answer or "", "math") == normal_form(item.answer or "", "math"):
            self.drop("duplicate", place)
        else:
            self.drop("contradictory answers", place, 2)
            self.contradictory.add(key)
            del self.kept[key]

    def exclude(self, keys: Iterable[str], reason: str, place: str) -> None:
        for key in keys:
            if self.kept.pop(key, None) is not None:
                self.drop(reason, place)


def find_inputs(source: Path, split: str | None) -> list[tuple[str, Path]]:
    """(split, file) of all data files of a file or folder, folders in natural order."""
    if source.is_file():
        return [(split or split_of([source.name]) or "train", source)]
    if not source.is_dir():
        raise ValueError(f"INPUT {source}: no such file or folder")
    files = [f for f in source.rglob("*") if f.suffix.lower() in DATA_SUFFIXES and f.name not in NO_DATA]
    files = [file for file in files if not any(p.startswith(".") for p in file.relative_to(source).parts)]
    if not files:
        raise ValueError(f"INPUT {source} holds no data file; looked for {', '.join(DATA_SUFFIXES)}")
    inputs = []
    for file in sorted(files, key=natural):
        name = split or split_of([source.name, *file.relative_to(source).parts])
        if name is None:
            raise ValueError(
                f"INPUT {source}: no name in {file.relative_to(source)} begins with {', '.join(SPLITS)} "
                f"and so tells its split; name it with --split"
            )
        inputs.append((name, file))
    return inputs


def split_of(names: Sequence[str]) -> str | None:
    """The split that the names of folders and a file tell; the last of them that tells one wins."""
    for name in reversed(names):
        if match := re.match(rf"({'|'.join(SPLITS)})(?![a-z])", name.lower()):
            return SPLITS[match[1]]
    return None


def natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def read_splits(
    inputs: Iterable[tuple[str, Path]], convert: Converter, unanswered: bool, latin: bool
) -> dict[str, Split]:
    """All items by split; the last two arguments are those of Split.add."""
    splits: dict[str, Split] = {}
    for name, file in inputs:
        split = splits.setdefault(name, Split())
        for number, record in iter_records(str(file), "INPUT"):
            place = f"{file.name} of {file.parent.name}, {unit_of(str(file))} {number}"
            try:
                item = convert(record)
            except Unreadable as error:
                raise ValueError(f"INPUT {place}: {error}; is this the right format for the data?") from error
            split.add(item, place, unanswered=unanswered, latin=latin)
    return splits


def hold_out(splits: dict[str, Split], count: int, seed: int) -> None:
    """Moves `count` random items of train into a new split test."""
    train = splits.get("train", Split())
    if "test" in splits:
        raise ValueError(f"--holdout {count}: the data has a test split already; leave --holdout out")
    if not 0 < count < len(train.kept):
        raise ValueError(
            f"--holdout {count} must be at least 1 and below the {len(train.kept)} rows of train"
        )
    chosen = set(random.Random(f"hold out/{seed}").sample(list(train.kept), count))
    splits["test"] = Split(count, {key: item for key, item in train.kept.items() if key in chosen})
    train.exclude(chosen, "held out as test", f"seed {seed}")


def separate(splits: dict[str, Split], excluded: Sequence[str]) -> None:
    """Takes the questions of the test split and of the files `excluded` out of every other split."""
    foreign = {
        file: {key_of(question_in(record)) for _, record in iter_records(file, "--exclude")}
        for file in excluded
    }
    for name, split in splits.items():
        if name != "test":
            for file, keys in foreign.items():
                split.exclude(keys, f"in {Path(file).name}", file)
            if "test" in splits:
                split.exclude(splits["test"].kept, "in the test split", "the test split")


def check_rows(splits: dict[str, Split], source: Path) -> None:
    for name, split in splits.items():
        if not split.kept:
            reasons = ", ".join(f"{reason} {count}" for reason, count in split.dropped.items())
            ways = "; --keep-unanswered keeps them, `own --answer-column NAME` reads another column"
            raise ValueError(
                f"INPUT {source}: no row of {name} is left ({reasons or 'it has none'})"
                f"{ways if 'no answer' in split.dropped else ''}"
            )


def check_output(folder: Path, overwrite: bool) -> None:
    if not folder.exists():
        return
    if not overwrite:
        raise ValueError(f"--output {folder} exists; choose another folder, or replace it with --overwrite")
    if not (folder / REPORT).is_file():
        raise ValueError(
            f"--output {folder} was not written by this tool (it has no {REPORT}); remove it yourself"
        )


def write(splits: dict[str, Split], folder: Path, source: str) -> None:
    """One file per split and the report. The folder appears when all of it is complete."""
    new = temporary_name(folder)
    shutil.rmtree(new, ignore_errors=True)  # of an earlier call that was killed
    new.mkdir(parents=True)
    for name, split in splits.items():
        rows = [
            ViewRow(index, item.question, item.answer, item.level, item.subject, item.rephrased)
            for index, item in enumerate(split.kept.values())
        ]
        write_view(rows, new / f"{name}.parquet", source, name)
    report = {"source": source, "splits": {name: summary(split) for name, split in splits.items()}}
    (new / REPORT).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    publish(new, folder)


def summary(split: Split) -> dict[str, Any]:
    return {
        "read": split.read,
        "kept": len(split.kept),
        "unanswered": sum(item.answer is None for item in split.kept.values()),
        "dropped": {
            reason: {"rows": count, "first": split.first[reason]} for reason, count in split.dropped.items()
        },
    }
