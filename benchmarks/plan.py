"""Compares the predictions of `coreward plan` and of phases/flops.py with what the actor uses on this CPU.

    python -m benchmarks.plan [--tokens 512] [--cases tiny] [--output FILE.json]

Builds models with random weights (tiny ones of each family, and the shape of SmolLM2-135M), and measures one
micro-batch's forward and backward pass in the real policy:

  weights, gradients, optimizer   bytes of the tensors themselves
  kept for backward               storages that autograd saved up to the loss, without weights
  peak                            most bytes alive at once among the outputs of torch operators
  head and log-probs              the same for head and token_stats only
  FLOPs                           torch.utils.flop_counter, with attention counted as whole squares

Nothing is timed, so a busy machine does not matter. Exits with 1 if a value is more than 15% off.
"""

import argparse
import json
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, mm_flop, sdpa_backward_flop_count, sdpa_flop_count

from megatron_coreward.actor import parallel
from megatron_coreward.actor.compute.offload import optimizer_tensors
from megatron_coreward.actor.compute.token_stats import VocabularyShard, token_stats
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import ModelShape, read_shape
from megatron_coreward.config.schema import Config
from megatron_coreward.phases import flops
from megatron_coreward.planning import activations
from megatron_coreward.planning.activations import Pass
from megatron_coreward.preflight.costs import memory_per_rank
from megatron_coreward.types import ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from tests.support.models import tiny_model

LIMIT = 0.15
PROMPT_SHARE = 0.25


@dataclass(frozen=True)
class Case:
    """A model and how it is trained on; `responses` of equal length share the tokens."""

    name: str
    family: str
    model: dict[str, Any]
    settings: tuple[str, ...] = ()
    responses: int = 4


SMOLLM2 = {"heads": 9, "kv_heads": 3, "head_dim": 64, "layers": 30, "vocab": 49152, "intermediate_size": 1536}
SMALL = {"heads": 4, "kv_heads": 2, "layers": 4, "vocab": 2048}
LONG = {**SMALL, "layers": 8, "vocab": 300}
CASES = [
    Case("tiny Qwen3", "qwen3", SMALL),
    Case("tiny Qwen2.5", "qwen2", SMALL, responses=2),
    Case("tiny Llama, no repeated heads", "llama", {**SMALL, "kv_heads": 4}),
    Case("tiny Llama, head of its own", "llama", {**SMALL, "tied": False}),
    Case("tiny Qwen3, bfloat16", "qwen3", SMALL, ("model.dtype=bfloat16",)),
    Case("tiny Qwen3, selective", "qwen3", SMALL, ("memory.recompute=selective",)),
    Case("tiny Qwen3, full", "qwen3", SMALL, ("memory.recompute=full",)),
    Case("tiny Qwen3, long", "qwen3", LONG, responses=1),
    Case("tiny Qwen3, long, full", "qwen3", LONG, ("memory.recompute=full",), responses=1),
    Case("tiny Qwen2.5, long, selective", "qwen2", LONG, ("memory.recompute=selective",), responses=1),
    Case("SmolLM2-135M", "llama", SMOLLM2),
    Case("SmolLM2-135M, selective", "llama", SMOLLM2, ("memory.recompute=selective",)),
    Case("SmolLM2-135M, full", "llama", SMOLLM2, ("memory.recompute=full",)),
]


class LiveBytes(TorchDispatchMode):
    """Bytes of the storages that operators have made under it and that are alive: now, and at most."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        # What an operator is given is not made by it, even if it returns it or a view of it.
        given = {tensor.untyped_storage()._cdata for tensor in _tensors((args, kwargs or {}))}
        result = func(*args, **(kwargs or {}))
        for tensor in _tensors(result):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage._cdata not in self._known:
                self._add(storage)
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    if isinstance(values, torch.Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))


def make_batch(policy: MegatronPolicy, case: Case, tokens: int) -> TrainBatch:
    """`case.responses` responses of equal length, a quarter of it prompt."""
    length = tokens // case.responses
    prompt = int(length * PROMPT_SHARE)
    response = np.arange(length - prompt, dtype=np.int32) % 250
    scored = [
        ScoredResponse(
            pair_id=number,
            view=View.ORIGINAL,
            sample=0,
            prompt_ids=tuple(range(prompt % 250)) + (1,) * (prompt - prompt % 250),
            response_ids=response,
            rollout_logps=np.zeros(len(response), np.float32),
            text="",
            finish_reason="stop",
            weights_version=0,
            advantage=1.0,
        )
        for number in range(case.responses)
    ]
    batch = policy.shard(with_weights(scored, policy.config, policy.comm))
    return batch.with_log_probs(old=None, ref=batch.rollout_logps_T)


class Saved:
    """Bytes of the storages that autograd has saved so far, weights left out. Stops at the loss."""

    def __init__(self, module: torch.nn.Module) -> None:
        self._weights = {weight.untyped_storage().data_ptr() for weight in module.parameters()}
        self._storages: dict[int, torch.Tensor] = {}
        self.over = False

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if not self.over and pointer not in self._weights:
            self._storages.setdefault(pointer, tensor.detach())  # held, so that no other takes its place
        return tensor

    def take(self) -> int:
        self.over = True
        total = sum(tensor.untyped_storage().nbytes() for tensor in self._storages.values())
        self._storages.clear()
        return total


def measure(policy: MegatronPolicy, batch: TrainBatch, config: Config) -> dict[str, int]:
    """What one accumulation of gradients takes. Three passes, so that no instrument sees another."""
    plain, saved, kept = GrpoObjective(config.algorithm), Saved(policy.model.module), 0

    def objective(logps: torch.Tensor, part: TrainBatch) -> Any:
        nonlocal kept
        kept = saved.take()
        return plain(logps, part)

    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
        policy.accumulate_gradients(batch, objective)
    with LiveBytes() as live:
        policy.accumulate_gradients(batch, plain)
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    formulas = {  # the counter has them for the CPU kernel's relatives only
        attention: lambda q, k, v, *rest, **more: sdpa_flop_count(q, k, v),
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *rest, **more: sdpa_backward_flop_count(grad, q, k, v)
        ),
        torch.ops.aten.addmm_: lambda total, a, b, *rest, **more: mm_flop(a, b),
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        policy.accumulate_gradients(batch, plain)
    tensors = {
        "weights": policy.model.module.parameters(),
        "gradients": [buffer.grad_data for buffer in policy.ddp.buffers],
        "optimizer": optimizer_tensors(policy.optimizer),
    }
    sizes = {name: sum(tensor.nbytes for tensor in some) for name, some in tensors.items()}
    return sizes | {"kept for backward": kept, "peak": live.peak, "FLOPs": counter.get_total_flops()}


def measure_head(shape: ModelShape, dtype: torch.dtype, rows: int) -> int:
    """Peak of head and token_stats, forward and backward, without the head's input and its weight's sum."""
    hidden = torch.randn(rows, shape.hidden, dtype=dtype, requires_grad=True)
    weight = torch.randn(shape.vocab, shape.hidden, dtype=dtype, requires_grad=True)
    # As Megatron sets them.
    weight.main_grad = torch.zeros(shape.vocab, shape.hidden)  # type: ignore[attr-defined]
    weight.zero_out_wgrad = shape.tied  # type: ignore[attr-defined]
    shard = VocabularyShard(
        0, shape.vocab, shape.vocab, parallel.parallel_state.get_tensor_model_parallel_group()
    )
    targets = torch.zeros(rows, dtype=torch.long)
    with LiveBytes() as live:
        token_stats(hidden, weight, targets, shard, 1.0, measured=True).logps.sum().backward()
    return live.peak


def predict(config: Config, shape: ModelShape, case: Case, tokens: int) -> dict[str, int]:
    """The same figures from planning/, and the operations from phases/flops.py."""
    dtype = "bfloat16" if config.model.dtype == "bfloat16" else "float32"
    length = tokens // case.responses
    rows = case.responses * (length - int(length * PROMPT_SHARE))
    packed = Pass(length * case.responses, rows)
    static = memory_per_rank(config, shape, dtype)
    kept = activations.kept_bytes(config, shape, dtype, 0, packed)
    head = activations.head_input_bytes(config, shape, dtype, packed)
    return {
        **{name: static[name] for name in ("weights", "gradients", "optimizer")},
        "kept for backward": kept + head,
        "peak": kept + activations.work_bytes(config, shape, dtype, 0, packed, on_gpu=False),
        "head and log-probs": activations.logits_bytes(
            config, shape, dtype, rows, backward=True, on_gpu=False
        ),
        "FLOPs": flops.training_flops(
            shape, [length] * case.responses, rows, recompute=config.memory.recompute, causal=False
        ),
    }


def run(case: Case, tokens: int, folder: Path) -> dict[str, tuple[int, int]]:
    """Figure -> (predicted, measured)."""
    tiny_model(folder, case.family, **case.model)
    settings = [f"model.path={folder}", "data.source=synthetic", f"optimizer.micro_batch_tokens={tokens}"]
    settings.append("optimizer.share_prompts=false")  # a full micro-batch with the longest attention
    config = load_config([], [*settings, *case.settings])
    shape = read_shape(folder)
    policy = MegatronPolicy(config, parallel.initialize(config.parallel), TorchCommunicator(), 1)
    measured = measure(policy, make_batch(policy, case, tokens), config)
    predicted = predict(config, shape, case, tokens)
    length = tokens // case.responses
    rows = case.responses * (length - int(length * PROMPT_SHARE))
    measured["head and log-probs"] = measure_head(shape, policy.model.dtype, rows)
    return {name: (predicted[name], measured[name]) for name in predicted}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=512, help="of the micro-batch")
    parser.add_argument("--cases", default="", help="only cases whose name contains this")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    initialize()
    table = Table("case", "figure", "predicted", "measured", "predicted / measured")
    found, worst = {}, 0.0
    for case in CASES:
        if options.cases not in case.name:
            continue
        with tempfile.TemporaryDirectory() as name:
            found[case.name] = run(case, options.tokens, Path(name))
        for figure, (predicted, measured) in found[case.name].items():
            worst = max(worst, abs(predicted / measured - 1))
            numbers = (f"{predicted / 1e6:,.2f}", f"{measured / 1e6:,.2f}", f"{predicted / measured:.3f}")
            table.add_row(case.name, figure, *numbers)
    table.caption = f"millions of bytes or FLOPs; at most {worst:.1%} off (limit {LIMIT:.0%})"
    Console().print(table)
    if options.output is not None:
        options.output.write_text(json.dumps(found, indent=1) + "\n")
    dist.destroy_process_group()
    return int(worst > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
