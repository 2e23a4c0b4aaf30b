"""The rollouts of all ranks are written to one file."""

from pathlib import Path

import numpy as np

from megatron_coreward.run.rollouts import read_rollouts, write_rollouts
from megatron_coreward.types import QuestionPair, ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.support.ranks import run_ranks


def write_own_pair(rank: int, folder: Path) -> None:
    pairs = [QuestionPair(i, f"question {i}", f"rephrased {i}", (1,), (2,)) for i in range(2)]
    scored = [
        ScoredResponse(
            pair_id=1 - rank,
            view=view,
            sample=0,
            prompt_ids=(1,),
            response_ids=np.array([5], dtype=np.int32),
            rollout_logps=np.zeros(1, dtype=np.float32),
            text=f"by rank {rank}",
            finish_reason="stop",
            weights_version=0,
        )
        for view in View
    ]
    write_rollouts(folder, 1, pairs, scored, TorchCommunicator())


def test_one_file_in_canonical_order(tmp_path):
    run_ranks(2, write_own_pair, tmp_path)
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000001.parquet"]
    rows = read_rollouts(tmp_path, 1)
    assert [(row["question"], row["text"]) for row in rows] == [
        ("question 0", "by rank 1"),
        ("rephrased 0", "by rank 1"),
        ("question 1", "by rank 0"),
        ("rephrased 1", "by rank 0"),
    ]
