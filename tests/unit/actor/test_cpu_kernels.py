"""RMSNorm, SwiGLU, rotation and sums of a CPU against what torch composes and against finite differences."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from megatron_coreward.actor.model.cpu_kernels import WeightGradients, rms_norm, rotary, swiglu

EPS = 1e-6
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 2e-2}


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values.to(dtype).requires_grad_()


def composed_swiglu(x: torch.Tensor) -> torch.Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def composed_rotation(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """As Megatron composes it (rope_utils.py)."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def both(function: Callable, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Result and gradients of the inputs, for an upstream gradient that differs from value to value."""
    output = function(*inputs)
    upstream = draw(*output.shape, dtype=output.dtype, seed=7).detach()
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream)]


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), (draw(5, 1, 8), draw(8, seed=1)))
    heads = draw(5, 1, 3, 12)[..., :8]  # a view, as queries and keys are
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, EPS), (heads, draw(8, seed=1)))
    assert torch.autograd.gradcheck(swiglu, (draw(5, 1, 12),))
    angles = draw(5, 1, 1, 4, seed=1).detach().repeat(1, 1, 1, 2)
    assert torch.autograd.gradcheck(lambda x: rotary(x, angles), (heads,))


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("shape", [(70, 1, 576), (70, 1, 9, 64), (0, 1, 576)])
def test_norm_is_the_composed_one_to_rounding(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    inputs = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1)
    own = both(lambda x, w: rms_norm(x, w, EPS), *inputs)
    torchs = both(lambda x, w: F.rms_norm(x, (shape[-1],), w, EPS), *inputs)
    for one, other in zip(own, torchs, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        scale = max(1e-30, *other.abs().flatten().tolist(), 0.0)
        torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=ROUNDING[dtype])


@pytest.mark.parametrize("dtype", ROUNDING)
def test_swiglu_is_the_composed_one_bit_by_bit(dtype: torch.dtype) -> None:
    x = draw(70, 1, 96, dtype=dtype)
    for one, other in zip(both(swiglu, x), both(composed_swiglu, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("dtype", ROUNDING)
def test_rotation_is_the_composed_one_bit_by_bit(dtype: torch.dtype) -> None:
    x = draw(70, 1, 9, 64, dtype=dtype)
    half = torch.outer(torch.arange(70.0), torch.rand(16, generator=torch.Generator().manual_seed(2)))
    angles = torch.cat((half, half), dim=-1)[:, None, None]

    def of_a_view(rotation: Callable) -> list[torch.Tensor]:
        return both(lambda x: rotation(x[:, :, 2:7, :32], angles), x)  # as queries are one of their product

    for one, other in zip(of_a_view(rotary), of_a_view(composed_rotation), strict=True):
        assert torch.equal(one, other)


def test_only_inputs_are_kept() -> None:
    kept: list[torch.Tensor] = []
    x, w = draw(64, 1, 32), draw(32, seed=1)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        rms_norm(x, w, EPS)
        swiglu(x)
    large = [tensor for tensor in kept if tensor.numel() >= x.numel()]
    assert {tensor.data_ptr() for tensor in large} == {x.data_ptr()}


@pytest.mark.parametrize("dtype", ROUNDING)
def test_a_weight_gradient_is_added_to_the_sum(dtype: torch.dtype) -> None:
    with torch.no_grad():
        input, grad = draw(7, 5, dtype=dtype), draw(7, 3, dtype=dtype, seed=1)
        total = torch.ones(3, 5)
        WeightGradients.wgrad_gemm_accum_fp32(input, grad, total)
        expected = 1 + grad.double().t() @ input.double()
    torch.testing.assert_close(total.double(), expected, rtol=0, atol=4 * ROUNDING[dtype])
