"""`coreward summarize --by`: the changes of a part of the questions, as if they alone had been asked."""

import json
from pathlib import Path

import numpy as np
import pytest

from megatron_coreward.cli import summarize
from megatron_coreward.config.loading import load_config, to_yaml
from megatron_coreward.evaluation.measures import Scores
from megatron_coreward.reporting.changes import changes_by, evaluation_changes
from megatron_coreward.utils.metrics import MetricsWriter

SUBJECTS = ["plain", "hard", "plain", "", "plain", "hard"]
RIGHT = {0: [0, 0, 0, 1, 1, 0], 4: [1, 0, 1, 0, 1, 0]}
"""By step; the greedy response, and of the two samples the second, which the vote does not take."""


def write_run(folder: Path, rows: list[int], subjects: list[str]) -> Path:
    """A run that was asked the questions of these rows of its file."""
    folder.mkdir()
    texts = [(f"{row} + 1?", f"{row + 1}", subject) for row, subject in enumerate(subjects)]
    questions = [dict(zip(("question", "answer", "subject"), text, strict=True)) for text in texts]
    (folder / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    overrides = ["model.path=m", f"run.output_dir={folder}", f"evaluation.file={folder / 'asked.jsonl'}"]
    (folder / "config.yaml").write_text(to_yaml(load_config([], overrides)))
    (folder / "evaluations").mkdir()
    for step, right in RIGHT.items():
        greedy_Q = np.array(right, dtype=bool)[rows]
        sampled_SQK = np.stack([~greedy_Q, greedy_Q], axis=1)[None]
        scores = Scores(np.array(rows), greedy_Q, sampled_SQK, {2: (~greedy_Q)[None].astype(float)})
        (folder / "evaluations" / f"step_{step:06d}.json").write_text(json.dumps(scores.summary(1)))
    writer = MetricsWriter(folder)
    writer.log(4, {"reward/mean": 0.5})
    writer.close()
    return folder


def test_a_part_is_as_if_it_alone_had_been_asked(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", list(range(6)), SUBJECTS)
    found = changes_by(dict(enumerate(SUBJECTS)), run)
    for name, rows in {"hard": [1, 5], "plain": [0, 2, 4]}.items():
        alone = evaluation_changes(write_run(tmp_path / name, rows, SUBJECTS))
        of_it = [change for change in found if change.measure.endswith(f", {name} ({len(rows)})")]
        assert [c._replace(measure=c.measure.split(",")[0]) for c in of_it] == alone
    names = [change.measure for change in found[::3]]
    assert names == ["greedy_pass@1, hard (2)", "greedy_pass@1, plain (3)"]
    assert found[3][1:3] == (1 / 3, 1.0), "plain, greedy"


def test_the_table_has_the_parts_only_where_they_are_asked_for(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", list(range(6)), SUBJECTS)
    assert summarize.main([str(run)]) == 0
    usual = (run / "summary.md").read_text().splitlines()
    assert summarize.main([str(run), "--by", "subject"]) == 0
    parted = (run / "summary.md").read_text().splitlines()
    assert [line for line in parted if " (2) " not in line and " (3) " not in line] == usual
    assert len(parted) == len(usual) + 6


@pytest.mark.parametrize(
    ("subjects", "by", "said"),
    [
        (SUBJECTS, "level", "have no level; leave --by level out"),
        (SUBJECTS[:4], "subject", "are no longer those that the run was asked; leave --by out"),
        (None, "subject", "asked.jsonl"),
    ],
)
def test_questions_that_do_not_tell(
    subjects: list[str] | None, by: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", list(range(6)), subjects or SUBJECTS)
    file = run / "asked.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    if subjects is not None:
        file.write_text("".join(lines[: len(subjects)]))
    else:
        file.unlink()
    before = sorted(run.iterdir())
    assert summarize.main([str(run), "--by", by]) == 2
    assert said in capsys.readouterr().err
    assert sorted(run.iterdir()) == before, "something was written"
