"""`nn.Linear` that calls oneDNN on a CPU, where it is 10 to 20 % faster than PyTorch's default path in float32.

PyTorch sends float32 `addmm` to the BLAS it was built with and writes the bias in a pass of its own. oneDNN, which is
part of the same build, has the faster kernels on many CPUs and adds the bias (and in inference the GELU) while the
result is in the registers. Every other case (CUDA, other types, autocast, torch.compile, small products) takes
`torch.nn.functional.linear`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import flop_registry, register_flop_formula

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_MIN_PRODUCTS = 1 << 26  # below, the call itself costs more than the faster kernel saves


def _linear_flops(x: Any, weight: Any, *args: Any, out_shape: Any = None, **kwargs: Any) -> int:
    return 2 * math.prod(x) * weight[0]


if _HAS_ONEDNN and torch.ops.mkldnn._linear_pointwise not in flop_registry:
    register_flop_formula(torch.ops.mkldnn._linear_pointwise)(_linear_flops)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    name, algorithm = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


class _OneDnnLinear(torch.autograd.Function):
    """oneDNN's inference kernel with the gradient that it lacks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _onednn(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)  # [M, O]
        return (
            _onednn(grad, weight.t(), None) if wants_x else None,
            _weight_gradient(x.flatten(0, -2), rows) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """grad.T [O, M] @ x [M, I]; oneDNN is fastest with the narrower matrix first."""
    if grad.shape[1] > x.shape[1]:
        return _onednn(x.t(), grad.t(), None).t()
    return _onednn(grad.t(), x.t(), None)


def _use_onednn(x: Tensor, weight: Tensor) -> bool:
    return bool(
        _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _MIN_PRODUCTS
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Compute `x @ weight.T + bias`, followed by GELU (tanh approximation) where asked.

    Args:
        x: input [..., I].
        weight: [O, I].
        bias: [O], None = no bias.
        gelu: apply GELU to the result; fused into the product where no gradient is wanted.
    Returns:
        [..., O].
    """
    if not _use_onednn(x, weight):
        y = F.linear(x, weight, bias)
    elif torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        y = _OneDnnLinear.apply(x, weight, bias)
    else:
        return _onednn(x, weight, bias, gelu)
    return F.gelu(y, approximate="tanh") if gelu else y


class Linear(nn.Linear):
    """`nn.Linear` with the same parameters, computed by `linear`."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Apply the layer to x [..., I], and GELU where asked; returns [..., O]."""
        return linear(x, self.weight, self.bias, gelu)
