"""Forward and backward of the log-probs: the policy's own pass against whole logits of plain torch.

    python -m benchmarks.log_probs [--tokens 4096] [--repeats 3] [--tiny] [--output FILE.json]

The model has random weights and a single layer, of hidden size 1,024, under a vocabulary of 151,936, so that
the head is nearly all of it. Both ways compute the gradients of all weights from one packed micro-batch of
responses as in actor.py, a quarter of them prompt; "whole logits" is the model of transformers with
log_softmax, without packing. Peak memory is what a pass takes beyond what was resident before it.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoModelForCausalLM

from benchmarks.actor import SHAPES, config_of, make_batch, policy_of
from benchmarks.options import leave, row_parser
from benchmarks.record import Record, paired
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.utils.distributed import initialize
from megatron_coreward.utils.memory import PeakMemory
from tests.support.models import tiny_model


def whole_logits(model: Any, sequences: list[torch.Tensor], prompt: int) -> None:
    """Forward and backward over sequences of one length, `prompt` tokens of each being prompt."""
    ids = torch.stack(sequences)
    logits = model(ids, logits_to_keep=ids.shape[1] - prompt + 1).logits[:, :-1]
    logps = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, prompt:, None])
    (-logps.mean()).backward()
    model.zero_grad(set_to_none=False)


def ways_of(
    policy: MegatronPolicy, batch: TrainBatch, folder: Path
) -> tuple[dict[str, Callable[[], Any]], int]:
    """The two ways, and the rows of logits that each of them needs."""
    lengths, rows = batch.lengths_R.tolist(), len(batch.rollout_logps_T)
    assert len(set(lengths)) == 1, "whole logits are computed of sequences of one length"
    prompt = lengths[0] - rows // len(lengths)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    draw = torch.Generator().manual_seed(0)
    sequences = [torch.randint(250, (length,), generator=draw) for length in lengths]
    objective = GrpoObjective(policy.config.algorithm)
    return {
        "policy": lambda: policy.accumulate_gradients(batch, objective),
        "whole logits": lambda: whole_logits(model, sequences, prompt),
    }, rows


def peaks(ways: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Peak memory of a pass in GB beyond what is resident before."""
    found, peak = {}, PeakMemory()
    for name, work in ways.items():
        peak.restart()
        before = peak.since_restart_gb()
        work()
        found[name] = round(peak.since_restart_gb() - before, 3)
    return found


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="a toy model and 256 tokens")
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    tokens = 256 if options.tiny else options.tokens
    initialize()
    with tempfile.TemporaryDirectory() as name:
        shape = SHAPES["tiny" if options.tiny else "0.6B"] | {"layers": 1}
        folder = tiny_model(Path(name), "qwen3", **shape)
        policy = policy_of(config_of(folder, "local", tokens, "none"))
        ways, rows = ways_of(policy, make_batch(policy, tokens), folder)
    found, extra = paired(ways, options.repeats), peaks(ways)
    dist.destroy_process_group()
    record = Record(
        row="log_probs",
        settings={"tokens": tokens, "rows of logits": rows, "vocabulary": shape["vocab"]}
        | {"threads": torch.get_num_threads()},
        ways=found,
        ratios={"policy / whole logits": ("policy", "whole logits")},
        goals={"policy / whole logits": "at most 1.25"},
        notes={f"peak GB beyond the resident, {name}": value for name, value in extra.items()},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
