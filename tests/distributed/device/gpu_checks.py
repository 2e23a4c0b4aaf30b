"""Checks of tools/gpu_check on the pretended device, in the checks' own processes; for test_gpu_check.py."""

from pathlib import Path
from unittest import mock

from torch.nn.attention import SDPBackend, sdpa_kernel

from megatron_coreward.utils.distributed import initialize
from tests.distributed.actor.te_runs import engine_at_hand
from tests.support.pretended.cuda import pretended_cuda
from tools.gpu_check.child import load
from tools.gpu_check.parts import actor, pieces
from tools.gpu_check.table import CHECKS, Figures


def pretended(name: str, folder: Path) -> Figures:
    [function] = [check.function for check in CHECKS if check.name == name]
    # transformers' attention is not causal where every operation is intercepted.
    subject = actor.make_subject(folder)
    initialize()  # there is no NCCL: gloo's groups stand in for it
    with (
        sdpa_kernel(SDPBackend.MATH),
        engine_at_hand(),
        mock.patch.object(actor, "make_subject", lambda _: subject),
        mock.patch.object(pieces, "ON_GPU", pieces.ON_CPU),  # the CPU would take minutes
        pretended_cuda(),
    ):
        return load(function)(folder)


def float32(folder: Path) -> Figures:
    return pretended("float32", folder)


def bfloat16(folder: Path) -> Figures:
    return pretended("bfloat16", folder)


def transformer_engine(folder: Path) -> Figures:
    return pretended("transformer_engine", folder)


def attention(folder: Path) -> Figures:
    return pretended("attention", folder)


def log_probs(folder: Path) -> Figures:
    return pretended("log_probs", folder)


def dp2(folder: Path) -> Figures:
    return pretended("dp2", folder)


def tp2(folder: Path) -> Figures:
    return pretended("tp2", folder)


def pp2(folder: Path) -> Figures:
    return pretended("pp2", folder)
