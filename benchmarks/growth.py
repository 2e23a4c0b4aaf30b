"""How the policy update grows with the length of the responses.

    python -m benchmarks.growth [--responses 24 48 96 192 384 768] [--repeats 3] [--tiny] [--output FILE.json]

One rank with all cores, random weights in the shape of SmolLM2-135M: a group of 8 responses to a prompt of
120 tokens. The curve beside the seconds is the useful FLOPs at the rate of the longest responses.
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist

from benchmarks.actor import SHAPES, config_of, make_groups, policy_of
from benchmarks.convert import SIZES
from benchmarks.options import leave, row_parser
from benchmarks.record import Curve, Record, paired
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.phases.flops import useful_flops
from megatron_coreward.utils.distributed import initialize
from tests.support.models import tiny_model

PROMPT, SAMPLES = 120, 8


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="a toy model, 8 to 32 tokens")
    parser.add_argument("--responses", nargs="+", type=int, default=[24, 48, 96, 192, 384, 768])
    options = parser.parse_args()
    lengths = [8, 16, 32] if options.tiny else sorted(options.responses)
    initialize()
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_model(Path(name), "llama", **(SHAPES["tiny"] if options.tiny else SIZES))
        policy, shape = policy_of(config_of(folder, "local", 4096, "none")), read_shape(folder)
    objective = GrpoObjective(policy.config.algorithm)
    batches = {f"R {length}": make_groups(policy, 1, SAMPLES, PROMPT, length) for length in lengths}
    ways = {way: partial(policy.update, batch, objective) for way, batch in batches.items()}
    found = paired(ways, options.repeats)
    dist.destroy_process_group()
    points = dict(zip(ways, lengths, strict=True))
    flops = {way: 3 * useful_flops(shape, [(PROMPT, [length] * SAMPLES)]) for way, length in points.items()}
    longest = max(points, key=points.__getitem__)
    rate = flops[longest] / median(found[longest]["wall_s"])
    curve = Curve(
        axis="tokens of a response",
        points=points,
        expected={way: value / rate for way, value in flops.items()},
        formula="useful FLOPs at the rate of the longest",
    )
    settings = {"prompt": PROMPT, "samples": SAMPLES, "micro_batch_tokens": 4096}
    settings["threads"] = torch.get_num_threads()
    rates = {
        f"useful GFLOP/s, {way}": round(f / median(found[way]["wall_s"]) / 1e9) for way, f in flops.items()
    }
    leave(Record("growth", settings, found, {}, notes=rates, curve=curve), options.output)


if __name__ == "__main__":
    main()
