"""RMSNorm, SwiGLU, rotary embedding and the sum of weight gradients for a CPU, where they are composed of
operators that each read and write memory.

The forward pass writes its result and keeps only its input, the rotation not even that; the backward pass
computes in the memory of the gradient that it returns. A GPU has kernels of its own for all of them.

Shape suffixes: h the size that is normalised, f the MLP's size on this rank, N tokens, H heads, D head size;
what comes before is free.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable


class _RMSNorm(torch.autograd.Function):
    """(input [..., h], weight [h], eps) -> input / sqrt(mean(input^2) + eps) * weight, in float32."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        precise = _at_least_float32(input)
        mean = torch.linalg.vector_norm(precise, dim=-1, keepdim=True).square_().div_(input.shape[-1])
        rate = mean.add_(eps).rsqrt_()
        ctx.save_for_backward(input, weight, rate)
        return (precise * rate).to(input.dtype).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        input, weight, rate = ctx.saved_tensors
        precise, grad, precise_weight = (_at_least_float32(x) for x in (input, grad, weight))
        product = grad * precise
        grad_weight = rate.flatten() @ product.flatten(0, -2)
        along = (product @ precise_weight).unsqueeze(-1) * rate.pow(3) / -input.shape[-1]
        result = torch.mul(grad, precise_weight, out=product).mul_(rate).addcmul_(precise, along)
        return result.to(input.dtype), grad_weight.to(weight.dtype), None


class _SwiGLU(torch.autograd.Function):
    """(gate and value [..., 2f]) -> silu(gate) * value, [..., f]."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(input)
        gate, value = input.chunk(2, dim=-1)
        return F.silu(gate).mul_(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (input,) = ctx.saved_tensors
        gate, value = input.chunk(2, dim=-1)
        result = torch.empty_like(input)
        grad_gate, grad_value = result.chunk(2, dim=-1)
        torch.ops.aten.silu.out(gate, out=grad_value).mul_(grad)
        torch.mul(grad, value, out=grad_gate)
        torch.ops.aten.silu_backward.grad_input(grad_gate, gate, grad_input=grad_gate)
        return result


class _Rotation(torch.autograd.Function):
    """(x [N, 1, H, D], cosines and sines [N, 1, 1, D / 2]) -> x with its halves turned, [N, 1, H, D]."""

    @staticmethod
    def forward(ctx: Any, input: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, sin)
        return _turned(input, cos, sin)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        cos, sin = ctx.saved_tensors
        return _turned(grad, cos, -sin), None, None


def _turned(input: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = input.chunk(2, dim=-1)
    output = torch.empty_like(input, memory_format=torch.contiguous_format)
    output_first, output_second = output.chunk(2, dim=-1)
    product = second * sin
    torch.mul(first, cos, out=output_first).sub_(product)
    torch.mul(second, cos, out=output_second).add_(torch.mul(first, sin, out=product))
    return output


def rms_norm(input: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """torch.nn.functional.rms_norm over the last dimension, [..., h]."""
    output: torch.Tensor = _RMSNorm.apply(input, weight, eps)
    return output


def swiglu(input: torch.Tensor) -> torch.Tensor:
    """silu(gate) * value, [..., f], of the first and the second half of `input`, [..., 2f]."""
    output: torch.Tensor = _SwiGLU.apply(input)
    return output


def rotary(input: torch.Tensor, angles: torch.Tensor, interleaved: bool = False) -> torch.Tensor:
    """Queries or keys [N, 1, H, D] turned by `angles` [N, 1, 1, D], whose halves are equal.

    With the signature of Megatron's `fused_apply_rotary_pos_emb`, in whose place it stands on a CPU.
    """
    assert not interleaved, "no family of models here has interleaved halves"
    half = angles[..., : angles.shape[-1] // 2]
    output: torch.Tensor = _Rotation.apply(input, half.cos().to(input.dtype), half.sin().to(input.dtype))
    return output


def add_weight_gradient(input: torch.Tensor, grad: torch.Tensor, sum: torch.Tensor) -> None:
    """Adds the gradient of a weight [out, in] to `sum`, from input [N, in] and gradient [N, out]."""
    if input.dtype == sum.dtype:
        sum.addmm_(grad.t(), input)  # without a product of the weight's size
    else:
        sum += grad.t() @ input


class WeightGradients:
    """Stands in for Apex's module `fused_weight_gradient_mlp_cuda` and has its function for float32 sums."""

    wgrad_gemm_accum_fp32 = staticmethod(add_weight_gradient)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
