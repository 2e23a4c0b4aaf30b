"""Turns public math data, or your own, into the Parquet files that training, evaluation and rephrasing read.

    python tools/prepare_math.py math  MATH/ --output data/math           # train/ and test/ of JSON files
    python tools/prepare_math.py math  train-00000-of-00001.parquet --output data/math
    python tools/prepare_math.py gsm8k gsm8k/main --output data/gsm8k
    python tools/prepare_math.py dapo  dapo-math-17k.parquet --latin --holdout 500 --output data/dapo
    python tools/prepare_math.py own   mine.csv --question-column text --answer-column key --output data/mine

INPUT is a file or a folder of Parquet, JSON, JSONL or CSV files on this machine; nothing is downloaded. Names
of folders and files that begin with train, test or validation tell the split. OUTPUT gets one file per split
and report.json, and appears only when all of it is complete. Dropped rows are counted by reason: no question,
no answer, duplicates, contradictory answers, questions of the test split or of --exclude files.

Exit codes: 0 done, 2 wrong input.
"""

import argparse
import json
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from megatron_coreward.data.columns import (
    BOX,
    GSM8K_MARK,
    QUESTION_COLUMNS,
    TRUTH_COLUMNS,
    Missing,
    Unreadable,
    find,
    label_of,
    question_of,
    truth_of,
)
from megatron_coreward.data.pair_files import ViewRow, write_view
from megatron_coreward.data.tables import RECORD_SUFFIXES, Record, iter_records, unit_of
from megatron_coreward.grading.answers import normal_form
from megatron_coreward.rephrasing.checks import scripts
from megatron_coreward.utils.folders import publish, temporary_name
from megatron_coreward.utils.logging import print_error

DONE, REFUSED = 0, 2
REPORT = "report.json"
SPLITS = {name: name for name in ("train", "test", "validation")} | {
    "valid": "validation",
    "val": "validation",
}
NO_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json", "config.json")


@dataclass(frozen=True)
class Item:
    """A question as a source has it; blank texts stand for what is missing, `fault` for an unread answer."""

    question: str
    answer: str | None
    level: str = ""
    subject: str = ""
    fault: str = ""


def question_in(record: Record, *names: str) -> str:
    """The question in the first filled column of `names`, by default of those that training reads."""
    columns = names or QUESTION_COLUMNS
    find(record, columns)  # a column that does not exist is an error, an empty one a row without a question
    try:
        return question_of(record, columns).strip()
    except Missing:
        return ""


def answer_in(record: Record, *names: str) -> tuple[str | None, str]:
    """The answer in the first filled column of `names`, and what is wrong with one that cannot be read."""
    find(record, names)
    try:
        return truth_of(record, names).strip(), ""
    except Missing:
        return None, ""
    except Unreadable as error:
        return None, str(error)


def from_math(record: Record) -> Item:
    """Hendrycks MATH and its mirrors: problem, solution or answer, level, type or subject."""
    column = find(record, ("answer", "solution"))
    known = column == "answer" or BOX.search(str(record[column]))
    answer, fault = answer_in(record, column) if known else (None, "")
    level = label_of(record, ("level",))
    level = f"Level {level}" if level.isdigit() else level
    return Item(question_in(record), answer, level, label_of(record, ("type", "subject")), fault)


def from_gsm8k(record: Record) -> Item:
    """GSM8K: question, answer with the number after ####."""
    known = GSM8K_MARK in str(record[find(record, ("answer",))])
    answer, fault = answer_in(record, "answer") if known else (None, "")
    return Item(question_in(record), answer, fault=fault)


DAPO_LEAD = re.compile(r"\s*Solve the following math problem step by step\.[^\n]*\n+")
DAPO_TAIL = re.compile(r"\n+Remember to put your answer on its own line after \"Answer:\"\.?\s*$")


def from_dapo(record: Record) -> Item:
    """DAPO-Math-17k, as released (prompt with an instruction around it) or processed."""
    question = DAPO_TAIL.sub("", DAPO_LEAD.sub("", question_in(record), count=1)).strip()
    answer, fault = answer_in(record, *TRUTH_COLUMNS, "label")
    return Item(question, answer, fault=fault)


def from_own(options: argparse.Namespace) -> Callable[[Record], Item]:
    """A converter for the columns that were named."""

    def convert(record: Record) -> Item:
        answer, fault = answer_in(record, options.answer_column) if options.answer_column else (None, "")
        level, subject = (
            label_of(record, (find(record, (name,)),)).strip() if name else ""
            for name in (options.level_column, options.subject_column)
        )
        return Item(question_in(record, options.question_column), answer, level, subject, fault)

    return convert


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
    files = [f for f in source.rglob("*") if f.suffix.lower() in RECORD_SUFFIXES and f.name not in NO_DATA]
    files = [file for file in files if not any(p.startswith(".") for p in file.relative_to(source).parts)]
    if not files:
        raise ValueError(f"INPUT {source} holds no data file; looked for {', '.join(RECORD_SUFFIXES)}")
    inputs = []
    for file in sorted(files, key=natural):
        found = split or split_of([source.name, *file.relative_to(source).parts])
        if found is None:
            raise ValueError(
                f"INPUT {source}: no name in {file.relative_to(source)} begins with {', '.join(SPLITS)} "
                f"and so tells its split; name it with --split"
            )
        inputs.append((found, file))
    return inputs


def split_of(names: Sequence[str]) -> str | None:
    """Of names of folders and a file; the last that tells a split wins."""
    for name in reversed(names):
        if match := re.match(rf"({'|'.join(SPLITS)})(?![a-z])", name.lower()):
            return SPLITS[match[1]]
    return None


def natural(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(path))]


def read_splits(
    inputs: Iterable[tuple[str, Path]], convert: Callable[[Record], Item], unanswered: bool, latin: bool
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
        file: {key_of(question_in(one)) for _, one in iter_records(file, "--exclude")} for file in excluded
    }
    for name, split in splits.items():
        if name != "test":
            for file, keys in foreign.items():
                split.exclude(keys, f"in {Path(file).name}", file)
            if "test" in splits:
                split.exclude(splits["test"].kept, "in the test split", "the test split")


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
        items = enumerate(split.kept.values())
        rows = [ViewRow(index, one.question, one.answer, one.level, one.subject) for index, one in items]
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


def report_table(splits: dict[str, Split], folder: Path) -> Table:
    table = Table("split", "rows", "", "first", title=f"written to {folder}", title_justify="left")
    table.columns[1].justify = "right"
    for name, split in splits.items():
        table.add_row(name, f"{split.read:,}", "read", "")
        for reason, count in split.dropped.items():
            table.add_row("", f"-{count:,}", f"dropped: {reason}", split.first[reason])
        table.add_row("", f"{len(split.kept):,}", "kept", "", end_section=True)
    return table


def parse_args(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    formats = parser.add_subparsers(dest="format", required=True, metavar="FORMAT")
    for name, description in {
        "math": "Hendrycks MATH: its folder, or tables with problem, solution or answer, level, type",
        "gsm8k": "question, and answer with the number after ####",
        "dapo": "DAPO-Math-17k, as released or processed",
        "own": "any file with a column of questions and one of answers",
    }.items():
        one = formats.add_parser(name, help=description, description=description)
        one.add_argument("input", type=Path, metavar="INPUT", help="file or folder")
        one.add_argument("--output", type=Path, required=True, metavar="DIR")
        one.add_argument("--overwrite", action="store_true", help="replace an earlier output of this tool")
        one.add_argument("--split", help="the split of all of INPUT; otherwise names tell it")
        one.add_argument(
            "--holdout", type=int, default=0, metavar="N", help="make N random rows the test split"
        )
        one.add_argument("--seed", type=int, default=1, help="of --holdout (1)")
        one.add_argument(
            "--exclude",
            action="append",
            default=[],
            metavar="FILE",
            help="leave out questions of this file, a benchmark for example; may be repeated",
        )
        one.add_argument("--keep-unanswered", action="store_true", help="training needs no answers")
        one.add_argument("--latin", action="store_true", help="drop questions in other scripts")
    own = formats.choices["own"]
    own.add_argument("--question-column", required=True, metavar="NAME")
    own.add_argument(
        "--answer-column", metavar="NAME", help="the answer, or a solution with \\boxed{} or ####"
    )
    own.add_argument("--level-column", metavar="NAME")
    own.add_argument("--subject-column", metavar="NAME")
    return parser.parse_args(arguments)


def prepare(options: argparse.Namespace) -> dict[str, Split]:
    """All of it but the printing."""
    check_output(options.output, options.overwrite)
    converters = {"math": from_math, "gsm8k": from_gsm8k, "dapo": from_dapo}
    convert = from_own(options) if options.format == "own" else converters[options.format]
    unanswered = options.keep_unanswered
    if options.format == "own" and not options.answer_column and not unanswered:
        raise ValueError(
            "name the answers with --answer-column, or say --keep-unanswered: training needs none"
        )
    splits = read_splits(find_inputs(options.input, options.split), convert, unanswered, options.latin)
    if options.holdout:
        hold_out(splits, options.holdout, options.seed)
    separate(splits, options.exclude)
    for name, split in splits.items():
        if not split.kept:
            reasons = ", ".join(f"{reason} {count}" for reason, count in split.dropped.items())
            raise ValueError(f"INPUT {options.input}: no row of {name} is left ({reasons or 'it has none'})")
    write(splits, options.output, options.format)
    return splits


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_args(arguments)
    console = Console(stderr=True)
    try:
        with console.status(f"reading {options.input}"):
            splits = prepare(options)
    except (ValueError, OSError) as error:
        print_error(error)
        return REFUSED
    Console().print(report_table(splits, options.output))
    return DONE


if __name__ == "__main__":
    sys.exit(main())
