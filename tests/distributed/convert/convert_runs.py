"""Work of test_convert.py's ranks: convert in both directions, load at any layout, train, convert."""

import ctypes
from pathlib import Path
from typing import Any

import torch

from megatron_coreward.actor import parallel
from megatron_coreward.actor.convert.convert import hf_to_megatron, megatron_to_hf
from megatron_coreward.actor.convert.verify import verify
from megatron_coreward.config.schema import ParallelConfig
from megatron_coreward.utils.distributed import TorchCommunicator
from tests.distributed.checkpoint.checkpoint_runs import (
    Tensors,
    config_of,
    make_policy,
    save,
    train,
    weights_of,
)
from tests.support.models import tiny_model

SIZES = {"heads": 4, "kv_heads": 2, "vocab": 301}
"""A vocabulary that TP2 pads."""
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"family": "llama", "tied": True, **SIZES},
    "qwen2": {"family": "qwen2", "tied": False, **SIZES},
    "qwen3": {"family": "qwen3", "tied": True, "layers": 3, **SIZES},
}
LAYOUTS = {
    "dp2": ParallelConfig(),
    "tp2": ParallelConfig(tensor=2, sequence=True),
    "pp2": ParallelConfig(pipeline=2),
}
SHARD_BYTES = 100_000
"""Several files; the largest tensor has 154,112 bytes, three of a layer's 65,536 or less."""


def two_ranks(rank: int, root: Path) -> dict[str, Any]:
    """Everything that needs ranks. Files are left in `root`, and looked at by the tests."""
    comm = TorchCommunicator()
    seen: dict[str, Any] = {"shares": {}, "equal": {}, "loaded": {}, "trained": {}}
    for name in MODELS:
        shares: list[tuple[int, int]] = []
        hf_to_megatron(
            str(root / name),
            root / "converted" / name,
            comm,
            on_bytes=lambda *args: shares.append(args),  # noqa: B023
        )
        seen["shares"][name] = shares
        megatron_to_hf(root / "converted" / name, root / "back" / name, comm, shard_bytes=SHARD_BYTES)
        seen["equal"][name] = verify(str(root / "back" / name), root / "converted" / name, comm)
    parallel.destroy()
    for layout_name, layout in LAYOUTS.items():
        for name in MODELS:
            case = layout_name, name
            config = config_of(root / name, layout)
            config.model.checkpoint = str(root / "converted" / name)
            policy = make_policy(config)
            seen["loaded"][case] = weights_of(policy)
            train(policy, 1)
            seen["trained"][case] = weights_of(policy)
            save(root / "saved" / layout_name / name, policy)
        parallel.destroy()
    for layout_name in LAYOUTS:
        for name in MODELS:
            saved = root / "saved" / layout_name / name / "step_000002"
            megatron_to_hf(saved, root / "exported" / layout_name / name, comm)
    parallel.destroy()
    return seen if rank == 0 else {"shares": seen["shares"]}


def peak_memory(_: int, root: Path) -> dict[str, Any]:
    """Bytes that each direction takes at its peak, above what the process had before."""
    largest = 4096 * 256 * 4
    model = tiny_model(root / "model", "llama", heads=4, kv_heads=4, head_dim=64, layers=20, vocab=4096)
    comm = TorchCommunicator()
    hf_to_megatron(str(model), root / "warm", comm)  # imports and caches
    megatron_to_hf(root / "warm", root / "warm_back", comm)
    peaks = {}
    for direction in ("hf-to-megatron", "megatron-to-hf"):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed would be used before new memory is
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak to what is in use
        before = _status("VmHWM")
        if direction == "hf-to-megatron":
            hf_to_megatron(str(model), root / "checkpoint", comm)
        else:
            megatron_to_hf(root / "checkpoint", root / "hf", comm)
        peaks[direction] = _status("VmHWM") - before
    parallel.destroy()
    size = (model / "model.safetensors").stat().st_size
    return {"largest": largest, "model": size, "peaks": peaks}


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def same_bits(a: Tensors, b: Tensors) -> list[str]:
    """Names that are not the same on both sides, bit for bit."""
    return [
        name
        for name in sorted(a.keys() | b.keys())
        if name not in a
        or name not in b
        or a[name].dtype != b[name].dtype
        or not torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8))
    ]
