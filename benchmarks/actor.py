"""Model FLOPs utilisation (MFU) of the policy update: forward, backward and AdamW of one packed micro-batch.

    python -m benchmarks.actor [--shape 0.6B 1.7B] [--tokens 4096 16384] [--impl local transformer_engine]
                               [--recompute none] [--output FILE.json]
    python -m benchmarks.actor --shape tiny --tokens 512        on a CPU: shows only that it runs

The model has random weights in the shape of Qwen3-0.6B or 1.7B and the compute type of model.dtype=auto.
FLOPs are those of phases/flops.py: they count the causal half of attention and no repeated forward pass
(recompute). They are compared with two limits: the best rate of a matrix product in this run, and the card's
stated rate where STATED_TFLOPS has it. Sequences have 1,024 tokens, a quarter of them prompt. The
benchmark uses one device and needs it for itself.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table

from megatron_coreward.actor import parallel
from megatron_coreward.actor.device import compute_device, compute_dtype
from megatron_coreward.actor.policy import MegatronPolicy
from megatron_coreward.algorithm.batch import TrainBatch
from megatron_coreward.algorithm.loss_weights import with_weights
from megatron_coreward.algorithm.objective import GrpoObjective
from megatron_coreward.config.loading import load_config
from megatron_coreward.config.model_shape import read_shape
from megatron_coreward.config.schema import Config
from megatron_coreward.phases.flops import training_flops
from megatron_coreward.types import ScoredResponse, View
from megatron_coreward.utils.distributed import TorchCommunicator, initialize
from megatron_coreward.utils.memory import keep_freed_memory
from tests.support.models import tiny_model

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"heads": 4, "kv_heads": 2, "layers": 4, "vocab": 2048},
    "0.6B": {
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "layers": 28,
        "vocab": 151936,
        "hidden_size": 1024,
        "intermediate_size": 3072,
    },
    "1.7B": {
        "heads": 16,
        "kv_heads": 8,
        "head_dim": 128,
        "layers": 28,
        "vocab": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
    },
}
STATED_TFLOPS = {"A100": 312, "H100": 989, "H200": 989, "B200": 2250}
"""Makers' data sheets: dense bfloat16 without sparsity, 1e12 operations a second."""
RESPONSE, PROMPT = 768, 256
WARM_UP, REPEATS = 2, 5
PRODUCT = {"cuda": 8192, "cpu": 1024}
"""Rows and columns of the matrices whose product is the limit."""


@dataclass(frozen=True)
class Measured:
    """One update. `of_product` and `of_stated` are shares of the two limits."""

    shape: str
    impl: str
    tokens: int
    seconds: float
    tflops: float
    of_product: float
    of_stated: float | None
    peak_gib: float | None


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", nargs="+", choices=SHAPES, default=["0.6B", "1.7B"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 16384])
    parser.add_argument("--impl", nargs="+", choices=["local", "transformer_engine"], default=["local"])
    parser.add_argument("--recompute", choices=["none", "selective", "full"], default="none")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args(arguments)
    initialize()
    product = product_rate()
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shape:
            model = tiny_model(Path(folder) / shape, "qwen3", **SHAPES[shape])
            for impl in options.impl:
                for tokens in options.tokens:
                    config = config_of(model, impl, tokens, options.recompute)
                    found.append(measure(policy_of(config), shape, tokens, product))
    dist.destroy_process_group()
    show(found, product)
    if options.output:
        report = {"device": device_name(), "product_tflops": product / 1e12, "updates": found}
        options.output.write_text(json.dumps(report, default=vars, indent=2) + "\n")
    return 0


def config_of(model: Path, impl: str, tokens: int, recompute: str, *more: str) -> Config:
    """`more` are further settings, key=value."""
    return load_config(
        [],
        [
            f"model.path={model}",
            f"model.transformer_impl={impl}",
            f"optimizer.micro_batch_tokens={tokens}",
            f"memory.recompute={recompute}",
            "algorithm.kl_coef=0",
            *more,
        ],
    )


def policy_of(config: Config) -> MegatronPolicy:
    """A policy in a process like that of `coreward train`."""
    if not torch.cuda.is_available():
        keep_freed_memory()
    layout = parallel.initialize(config.parallel)
    return MegatronPolicy(config, layout, TorchCommunicator(), total_updates=100)


def measure(policy: MegatronPolicy, shape: str, tokens: int, product: float) -> Measured:
    config = policy.config
    objective, batch = GrpoObjective(config.algorithm), make_batch(policy, tokens)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    seconds = statistics.median(timed(lambda: policy.update(batch, objective)))
    sizes = read_shape(Path(config.model.path))
    rows = len(batch.rollout_logps_T)
    rate = training_flops(sizes, batch.lengths_R.tolist(), rows) / seconds
    stated = next((rate for name, rate in STATED_TFLOPS.items() if name in device_name()), None)
    peak = torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
    return Measured(
        shape=shape,
        impl=config.model.transformer_impl,
        tokens=tokens,
        seconds=seconds,
        tflops=rate / 1e12,
        of_product=rate / product,
        of_stated=rate / (stated * 1e12) if stated else None,
        peak_gib=peak,
    )


def make_batch(policy: MegatronPolicy, tokens: int) -> TrainBatch:
    """Responses of RESPONSE tokens to prompts of PROMPT, `tokens` in all; a shorter one if they are fewer."""
    count = max(1, tokens // (PROMPT + RESPONSE))
    prompt = PROMPT if tokens >= PROMPT + RESPONSE else tokens // 4
    response = RESPONSE if tokens >= PROMPT + RESPONSE else tokens - prompt
    return make_groups(policy, count, 1, prompt, response)


def make_groups(policy: MegatronPolicy, groups: int, samples: int, prompt: int, response: int) -> TrainBatch:
    """`samples` responses of `response` tokens to each of `groups` prompts of `prompt`."""
    rng = np.random.default_rng(0)
    scored = [
        ScoredResponse(
            pair_id=number,
            view=View.ORIGINAL,
            sample=sample,
            prompt_ids=prompt_ids,
            response_ids=rng.integers(0, 250, response).astype(np.int32),
            rollout_logps=np.zeros(response, np.float32),
            text="",
            finish_reason="stop",
            weights_version=0,
            advantage=float(rng.normal()),
        )
        for number in range(groups)
        for prompt_ids in [tuple(rng.integers(0, 250, prompt).tolist())]
        for sample in range(samples)
    ]
    return policy.shard(with_weights(scored, policy.config, policy.comm))


def product_rate() -> float:
    """The best rate of a square matrix product here, in FLOPs per second."""
    device, size = compute_device(), PRODUCT[compute_device().type]
    one, other = (torch.randn(size, size, dtype=compute_dtype("auto"), device=device) for _ in range(2))
    return 2 * size**3 / min(timed(lambda: one @ other))


def timed(work: Callable[[], Any]) -> list[float]:
    """Seconds of some repetitions."""
    for _ in range(WARM_UP):
        work()
    taken = []
    for _ in range(REPEATS):
        _wait()
        started = time.perf_counter()
        work()
        _wait()
        taken.append(time.perf_counter() - started)
    return taken


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"


def show(found: Sequence[Measured], product: float) -> None:
    table = Table(
        *(
            "shape",
            "modules",
            "tokens",
            "seconds",
            "TFLOP/s",
            "of the product",
            "of the stated rate",
            "peak GiB",
        ),
        title=f"{device_name()}: matrix product {product / 1e12:.2f} TFLOP/s in {compute_dtype('auto')}",
    )
    for one in found:
        stated = "" if one.of_stated is None else f"{one.of_stated:.1%}"
        peak = "" if one.peak_gib is None else f"{one.peak_gib:.1f}"
        table.add_row(
            one.shape,
            one.impl,
            f"{one.tokens:,}",
            f"{one.seconds:.3f}",
            f"{one.tflops:.3g}",
            f"{one.of_product:.1%}",
            stated,
            peak,
        )
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
