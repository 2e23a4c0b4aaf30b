"""The rollouts of every step, as Parquet in the run folder: rollouts/step_000012.parquet.

One row per response with what the reward stage decided, for reading (`python -m megatron_coreward.show`)
and for later analysis. `ground_truth` is there for diagnostics only. Files appear complete or not at all.
"""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from megatron_coreward.roles import Communicator
from megatron_coreward.types import QuestionPair, ScoredResponse
from megatron_coreward.utils.run_names import ROLLOUTS

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("pair_id", pa.int64()),
        ("view", pa.string()),
        ("sample", pa.int32()),
        ("question", pa.string()),
        ("text", pa.string()),
        ("answer", pa.string()),
        ("pseudo_label", pa.string()),
        ("reward", pa.float64()),
        ("advantage", pa.float64()),
        ("finish_reason", pa.string()),
        ("response_tokens", pa.int32()),
        ("mean_logp", pa.float64()),  # mean of vLLM's log-probs; null without tokens
        ("weights_version", pa.int64()),
        ("ground_truth", pa.string()),
    ]
)


def write_rollouts(
    folder: Path,
    step: int,
    pairs: Iterable[QuestionPair],
    scored: Sequence[ScoredResponse],
    communicator: Communicator,
) -> None:
    """Writes the step's responses of all ranks, in canonical order, to one file of the run `folder`.

    A collective: every rank gives what it holds, rank 0 writes. `pairs` must cover `scored`.
    """
    by_id = {pair.pair_id: pair for pair in pairs}
    rows = [_row(step, by_id[response.pair_id], response) for response in scored]
    gathered = [row for share in communicator.gather(rows) for row in share]
    if communicator.rank != 0:
        return
    gathered.sort(key=lambda row: (row["pair_id"], row["view"], row["sample"]))
    path = folder / ROLLOUTS / f"step_{step:06d}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(gathered, schema=SCHEMA), temporary, compression="zstd")
    os.replace(temporary, path)


def rollout_steps(folder: Path) -> list[int]:
    """The steps whose rollouts lie in the run `folder`, in order."""
    matches = (re.fullmatch(r"step_(\d+)\.parquet", p.name) for p in (folder / ROLLOUTS).glob("*"))
    return sorted(int(match[1]) for match in matches if match)


def read_rollouts(folder: Path, step: int) -> list[dict[str, Any]]:
    """The rows of one step. ValueError when it has no rollouts."""
    steps = rollout_steps(folder)
    if step not in steps:
        known = f"it has {_ranges(steps)}" if steps else "it has none yet"
        raise ValueError(f"{folder} has no rollouts of step {step}: {known}")
    return pq.read_table(folder / ROLLOUTS / f"step_{step:06d}.parquet").to_pylist()


def _row(step: int, pair: QuestionPair, response: ScoredResponse) -> dict[str, Any]:
    length = len(response.response_ids)
    return {
        "step": step,
        "pair_id": response.pair_id,
        "view": response.view.value,
        "sample": response.sample,
        "question": pair.question(response.view),
        "text": response.text,
        "answer": response.answer,
        "pseudo_label": response.pseudo_label,
        "reward": response.reward,
        "advantage": response.advantage,
        "finish_reason": response.finish_reason,
        "response_tokens": length,
        "mean_logp": float(np.mean(response.rollout_logps, dtype=np.float64)) if length else None,
        "weights_version": response.weights_version,
        "ground_truth": pair.answer,
    }


def _ranges(steps: Sequence[int]) -> str:
    """Sorted numbers in short: 1-40, 42."""
    spans: list[list[int]] = []
    for step in steps:
        if spans and step == spans[-1][1] + 1:
            spans[-1][1] = step
        else:
            spans.append([step, step])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
