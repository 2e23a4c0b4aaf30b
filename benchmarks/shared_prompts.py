"""The policy update with shared prompts against separate sequences, beside what the FLOP count allows.

    python -m benchmarks.shared_prompts [--prompt 120] [--response 48] [--groups 4] [--samples 8]
        [--repeats 3] [--tiny] [--output FILE.json]

One rank with all cores, random weights in the shape of SmolLM2-135M. Both ways have a micro-batch budget of
--micro-batch-tokens, so that a group above it is cut, and each part repeats the prompt. The bound is the
ratio of the useful FLOPs of those very parts: separate sequences by parts that share. The goal is 85% of the
saving that it allows, 1 - 1 / bound.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.actor import SHAPES, config_of, make_groups, policy_of
from benchmarks.convert import SIZES
from benchmarks.options import leave, row_parser
from benchmarks.record import Record, paired
from megatron_coreward.actor.compute.grouping import Size, parts_of_groups
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.model_shape import ModelShape, read_shape
from megatron_coreward.phases.flops import useful_flops
from megatron_coreward.utils.distributed import initialize
from tests.support.models import tiny_model

TITLE = "separate / shared"


def flops(shape: ModelShape, sizes: Sequence[Size], budget: int, share: bool) -> int:
    """Of an update whose groups are cut as `budget` demands."""
    parts = parts_of_groups(sizes, budget, share)
    lengths = [(sizes[part[0]].prompt_tokens, [sizes[i].response_tokens for i in part]) for part in parts]
    return 3 * useful_flops(shape, lengths)


def update(policy: MegatronPolicy, batch: TrainBatch, share: bool) -> None:
    policy._forward.share_prompts = share
    policy.update(batch, GrpoObjective(policy.config.algorithm))


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="a toy model and a quarter of the tokens")
    parser.add_argument("--prompt", type=int, default=120)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--groups", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096, help="the default of a run")
    options = parser.parse_args()
    if options.tiny:
        options.prompt, options.response, options.groups = options.prompt // 4, options.response // 4, 1
    initialize()
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_model(Path(name), "llama", **(SHAPES["tiny"] if options.tiny else SIZES))
        policy, shape = (
            policy_of(config_of(folder, "local", options.micro_batch_tokens, "none")),
            read_shape(folder),
        )
        lengths = options.prompt, options.response
        batch = make_groups(policy, options.groups, options.samples, *lengths)
        ways = {
            "shared": lambda: update(policy, batch, share=True),
            "separate": lambda: update(policy, batch, share=False),
        }
        found = paired(ways, options.repeats)
    dist.destroy_process_group()
    sizes = [Size(group, *lengths) for group in range(options.groups) for _ in range(options.samples)]
    work = {share: flops(shape, sizes, options.micro_batch_tokens, share) for share in (True, False)}
    bound = work[False] / work[True]
    least = 1 / (1 - 0.85 * (1 - 1 / bound))
    kept = ("prompt", "response", "groups", "samples", "micro_batch_tokens")
    record = Record(
        row="shared",
        settings={name: vars(options)[name] for name in kept} | {"threads": torch.get_num_threads()},
        ways=found,
        ratios={TITLE: ("separate", "shared")},
        goals={TITLE: f"at least {least:.2f}, 85% of the saving of the bound {bound:.2f}"},
        notes={f"useful GFLOP, {'shared' if s else 'separate'}": round(w / 1e9, 1) for s, w in work.items()},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
