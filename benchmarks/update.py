"""The policy update against the bare matrix products of its shapes.

    python -m benchmarks.update [--tokens 4096] [--repeats 5] [--tiny] [--output FILE.json]

One rank with all cores; random weights in the shape of SmolLM2-135M; responses as in actor.py. The products
are those of the linear layers and the head, forward and both of the backward pass, in the same sizes. The
share of their rate is (products' seconds / products' FLOPs) / (update's seconds / its useful FLOPs).
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.actor import SHAPES, config_of, make_batch, policy_of
from benchmarks.convert import SIZES
from benchmarks.options import leave, row_parser
from benchmarks.record import Record, paired
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.model_shape import ModelShape, read_shape
from megatron_coreward.config.precision import HEAD_CHUNK_BYTES
from megatron_coreward.phases.flops import head_flops, linear_flops_per_token, useful_flops
from megatron_coreward.utils.distributed import initialize
from tests.support.models import tiny_model


def products(shape: ModelShape, tokens: int, rows: int, *, backward: bool = True) -> Callable[[], None]:
    """Every product of a linear layer and of the head in one forward pass, and in the backward pass.

    The head's are in chunks, as in actor/compute/token_stats.py.
    """
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    sizes = [
        (tokens, shape.hidden, queries + 2 * keys),
        (tokens, queries, shape.hidden),
        (tokens, shape.hidden, 2 * shape.active_intermediate),
        (tokens, shape.active_intermediate, shape.hidden),
    ] * shape.layers
    chunk = max(1, HEAD_CHUNK_BYTES // (4 * shape.vocab))
    sizes += [(min(chunk, rows - start), shape.hidden, shape.vocab) for start in range(0, rows, chunk)]
    operands = {(m, k, n): (torch.randn(m, k), torch.randn(k, n), torch.randn(m, n)) for m, k, n in {*sizes}}

    def work() -> None:
        for size in sizes:
            inputs, weight, gradient = operands[size]
            inputs @ weight
            if backward:
                gradient @ weight.T
                inputs.T @ gradient

    return work


def main() -> None:
    parser = row_parser(__doc__, repeats=5, tiny="a toy model and 256 tokens")
    parser.add_argument("--tokens", type=int, default=4096)
    options = parser.parse_args()
    tokens = 256 if options.tiny else options.tokens
    initialize()
    with tempfile.TemporaryDirectory() as name:
        folder = tiny_model(Path(name), "llama", **(SHAPES["tiny"] if options.tiny else SIZES))
        config = config_of(folder, "local", tokens, "none")
        policy, shape = policy_of(config), read_shape(folder)
        batch, objective = make_batch(policy, tokens), GrpoObjective(config.algorithm)
        lengths, rows = batch.lengths_R.tolist(), len(batch.rollout_logps_T)
        bare = products(shape, sum(lengths), rows)
        ways = paired({"update": lambda: policy.update(batch, objective), "products": bare}, options.repeats)
    dist.destroy_process_group()
    response = rows // len(lengths)  # those of actor.make_batch are equally long
    useful = 3 * useful_flops(shape, [(length - response, [response]) for length in lengths])
    plain = 3 * (linear_flops_per_token(shape) * sum(lengths) + head_flops(shape, rows))
    record = Record(
        row="update",
        settings={"tokens": sum(lengths), "response rows": rows, "threads": torch.get_num_threads()},
        ways=ways,
        ratios={"products / update": ("products", "update")},
        goals={"products / update": f"0.75 x {plain / useful:.3f}, products' FLOPs by useful ones"},
        notes={"useful GFLOP": round(useful / 1e9, 1), "GFLOP of the products": round(plain / 1e9, 1)},
    )
    leave(record, options.output)


if __name__ == "__main__":
    main()
