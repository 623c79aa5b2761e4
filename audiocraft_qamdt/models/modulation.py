"""Layer norm that each item of a batch scales and shifts its own way.

On a CPU in float32 every item goes through PyTorch's layer norm with its own weights, which is one pass over the tokens
forwards and one backwards instead of two and five. Every other case (CUDA, other types, torch.compile, small inputs)
takes the norm and the scaling one after the other.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-6
_MIN_ITEM = 1 << 15  # numbers of an item; below, the calls cost more than the passes


class _ItemNorm(torch.autograd.Function):
    """Layer norm of x [B, N, D] with weights and biases [B, D]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor, weight: Tensor) -> Tensor:
        out = torch.empty_like(x)
        mean, rstd = (x.new_empty(*x.shape[:2], 1) for _ in range(2))
        for index in range(len(x)):
            torch.ops.aten.native_layer_norm.out(
                x[index],
                x.shape[2:],
                weight[index],
                bias[index],
                EPSILON,
                out0=out[index],
                out1=mean[index],
                out2=rstd[index],
            )
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous()
        grads = torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias)
        for index in range(len(x)):
            saved = (mean[index], rstd[index], weight[index], bias[index])
            torch.ops.aten.native_layer_norm_backward.out(
                grad[index],
                x[index],
                x.shape[2:],
                *saved,
                [True, True, True],
                out0=grads[0][index],
                out1=grads[1][index],
                out2=grads[2][index],
            )
        return grads[0], grads[2], grads[1]


def _by_item(x: Tensor, shift: Tensor, scale: Tensor) -> bool:
    return bool(
        x.device.type == "cpu"
        and x.dtype == shift.dtype == scale.dtype == torch.float32
        and x.is_contiguous()
        and x[0].numel() >= _MIN_ITEM
        and not torch.compiler.is_compiling()
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply layer norm without weights to x [B, N, D], then scale and shift by [B, 1, D] (DiT, arXiv 2212.09748)."""
    if _by_item(x, shift, scale):
        return _ItemNorm.apply(x, shift.flatten(1), 1 + scale.flatten(1))
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale)
