"""The policy update in two pipeline stages, with 1 to 8 micro-batches, against the bubble formula.

    torchrun --nproc-per-node 2 -m benchmarks.pipeline [--micro-batches 1 2 4 8] [--tokens 512] [--repeats 3]
        [--tiny] [--output FILE.json]

Two ranks; random weights in the shape of SmolLM2-135M, but for a vocabulary of 2,048, since a large head
would make the last stage the longer one. Every micro-batch is a response of --tokens tokens with its prompt.
With p stages and m micro-batches a pass takes m + p - 1 times a stage's time for a micro-batch, of which
p - 1 are the bubble. That time is measured where the bubble has no part in it: as the difference
between the most and the fewest micro-batches.
"""

import tempfile
from collections.abc import Callable
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
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from tests.support.models import tiny_model

STAGES = 2


def until_all_end(work: Callable[[], object]) -> None:
    work()
    dist.barrier()


def main() -> None:
    parser = row_parser(__doc__, repeats=3, tiny="a toy model, 64 tokens, 1 and 2 micro-batches")
    parser.add_argument("--micro-batches", nargs="+", type=int, default=[1, 2, 3, 4, 6, 8])
    parser.add_argument("--tokens", type=int, default=512)
    options = parser.parse_args()
    tokens, counts = (64, [1, 2]) if options.tiny else (options.tokens, sorted(options.micro_batches))
    initialize()
    comm = TorchCommunicator()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(comm.broadcast(name))
        if comm.rank == 0:
            tiny_model(folder, "llama", **(SHAPES["tiny"] if options.tiny else SIZES | {"vocab": 2048}))
        dist.barrier()
        config = config_of(folder, "local", tokens, "none", f"parallel.pipeline={STAGES}")
        policy = policy_of(config)
        dist.barrier()  # all ranks have read the folder
    objective = GrpoObjective(config.algorithm)
    ways = {}
    for count in counts:
        batch = make_groups(policy, count if comm.rank == 0 else 0, 1, tokens // 4, tokens - tokens // 4)
        ways[f"m {count}"] = partial(until_all_end, partial(policy.update, batch, objective))
    found = {way: {"wall_s": series["wall_s"]} for way, series in paired(ways, options.repeats).items()}
    dist.destroy_process_group()
    if comm.rank:
        return
    points = dict(zip(ways, counts, strict=True))
    first, *_, last = found
    seconds = {way: median(series["wall_s"]) for way, series in found.items()}
    stage = (seconds[last] - seconds[first]) / (counts[-1] - counts[0])
    shares = {f"idle share, {way}": round(1 - m * stage / seconds[way], 3) for way, m in points.items()}
    formula = {
        f"(p-1)/(m+p-1), {way}": round((STAGES - 1) / (m + STAGES - 1), 3) for way, m in points.items()
    }
    curve = Curve(
        axis="micro-batches m",
        points=points,
        expected={way: (m + STAGES - 1) * stage for way, m in points.items()},
        formula="(m + p - 1) x a stage's time",
    )
    settings = {
        "tokens of a micro-batch": tokens,
        "ranks": STAGES,
        "threads of a rank": torch.get_num_threads(),
    }
    leave(Record("pipeline", settings, found, {}, notes=shares | formula, curve=curve), options.output)


if __name__ == "__main__":
    main()
