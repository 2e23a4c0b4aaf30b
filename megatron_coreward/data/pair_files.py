"""Writing the files that pairs.py reads: one view per Parquet file, in the schema of the paper's data.

Every file appears under its name only when it is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.config.fields import SYSTEM_PROMPT
from megatron_coreward.data.columns import REPHRASED_COLUMNS
from megatron_coreward.utils.folders import publish_file, temporary_name

_TURN = pa.struct([("content", pa.string()), ("role", pa.string())])
SCHEMA = pa.schema(
    [
        ("level", pa.string()),
        ("type", pa.string()),
        ("data_source", pa.string()),
        ("prompt", pa.list_(_TURN)),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
        ("extra_info", pa.struct([("index", pa.int64()), ("split", pa.string())])),
    ]
)


@dataclass(frozen=True)
class ViewRow:
    """A question in one wording. Rows of both views of a pair have the same `index`."""

    index: int
    question: str
    answer: str | None
    level: str = ""
    subject: str = ""
    rephrased: str | None = None


def write_view(rows: Sequence[ViewRow], path: Path, source: str, split: str) -> None:
    """Writes what view_table makes."""
    write_table(view_table(rows, source, split), path)


def view_table(rows: Sequence[ViewRow], source: str, split: str) -> pa.Table:
    """Rows of one data source and split; an answer of None stays null.

    Rows that hold their rephrasings make a file of both wordings, with the column `rephrased`.
    """
    records = [
        {
            "level": row.level,
            "type": row.subject,
            "data_source": source,
            "prompt": _prompt(row.question),
            "ability": "math",
            "reward_model": {"ground_truth": row.answer, "style": "rule"},
            "extra_info": {"index": row.index, "split": split},
        }
        for row in rows
    ]
    table = pa.Table.from_pylist(records, schema=SCHEMA)
    if any(row.rephrased is not None for row in rows):
        table = table.append_column("rephrased", pa.array([row.rephrased for row in rows], pa.string()))
    return table


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a Parquet file, in the place of an earlier one if there is any."""
    new = temporary_name(path)
    pq.write_table(table, new, compression="zstd")
    publish_file(new, path)


def with_questions(table: pa.Table, questions: Sequence[str]) -> pa.Table:
    """`table`, a view, with other questions in its prompts; all other columns and metadata stay.

    Columns with rephrasings go, since readers would take them before the prompts.
    """
    prompts = pa.array([_prompt(question) for question in questions], type=pa.list_(_TURN))
    changed = table.drop_columns([name for name in REPHRASED_COLUMNS if name in table.column_names])
    if "prompt" in changed.column_names:
        place = changed.schema.get_field_index("prompt")
        changed = changed.set_column(place, pa.field("prompt", prompts.type), prompts)
    else:
        changed = changed.append_column("prompt", prompts)
    return changed.replace_schema_metadata(table.schema.metadata)


def _prompt(question: str) -> list[dict[str, str]]:
    return [{"content": SYSTEM_PROMPT, "role": "system"}, {"content": question, "role": "user"}]
