"""Kernels that make the network faster on a CPU; results change in the rounding alone.

`ENABLED` switches all of it: with QAMDT_CPU_KERNELS=0 in the environment, every product is PyTorch's own. On one core
of a Xeon, `python -m benchmarks --only small/forward small/step-0.3 --threads 1` takes 4.8 s and 11.8 s with it, 5.9 s
and 13.9 s without.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

ENABLED = os.environ.get("QAMDT_CPU_KERNELS", "1") != "0"

_CPU_INFO = Path("/proc/cpuinfo")


def _first_processor() -> str:
    """Return what Linux says of the first processor; elsewhere nothing is known of it."""
    if not _CPU_INFO.exists():
        return ""
    with _CPU_INFO.open() as file:  # a server's file has a paragraph for each of its hundreds of cores
        return "".join(itertools.takewhile(str.strip, file))


_PROCESSOR = _first_processor()

# ---- linear layers through the faster library
#
# PyTorch sends float32 `addmm` to the BLAS it was built with. On Intel's processors that is MKL, as fast as oneDNN in
# the other products and 1.3 times as fast in gradients of weights (a Xeon with AMX). Elsewhere oneDNN, which is part of
# the same build, is 10 to 20 % faster. It alone applies the GELU of inference while the result is in the registers.

_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_MKL_IS_FASTEST = torch.backends.mkl.is_available() and "GenuineIntel" in _PROCESSOR
_MIN_PRODUCTS = 1 << 26  # below, the call itself costs more than the faster kernel saves


def _linear_flops(x: Sequence[int], weight: Sequence[int], *args: object, **kwargs: object) -> int:
    return 2 * math.prod(x) * weight[0]


FLOPS = {torch.ops.mkldnn._linear_pointwise: _linear_flops} if _HAS_ONEDNN else {}
"""What PyTorch's `FlopCounterMode` does not know and takes as `custom_mapping`."""


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    if _MKL_IS_FASTEST and not gelu:
        return F.linear(x, weight, bias)
    name, algorithm = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, name, [], algorithm)


class _Context(Protocol):
    """What `torch.autograd.Function` keeps between the two passes."""

    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Linear(torch.autograd.Function):
    """A product with a gradient, which oneDNN's own kernel lacks, made of products by the same library."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias = ctx.needs_input_grad
        rows = grad.flatten(0, -2)  # [M, O]
        return (
            _product(grad, weight.t()) if wants_x else None,
            _weight_gradient(x.flatten(0, -2), rows) if wants_weight else None,
            rows.sum(0) if wants_bias else None,
        )


def _weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """Compute grad.T [O, M] @ x [M, I]; both libraries are fastest with the narrower matrix first."""
    if grad.shape[1] > x.shape[1]:
        return _product(x.t(), grad.t()).t()
    return _product(grad.t(), x.t())


def takes_linear(x: Tensor, weight: Tensor) -> bool:
    """Return whether `linear` is faster for this product than `torch.nn.functional.linear`."""
    return bool(
        ENABLED
        and _HAS_ONEDNN
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] >= _MIN_PRODUCTS
        and torch.backends.mkldnn.enabled
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool) -> Tensor:
    """Compute `models.linear.linear`; GELU is fused into the product where no gradient is wanted."""
    if not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)):
        return _product(x, weight, bias, gelu)
    y = _Linear.apply(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


# ---- layer norm that each item of a batch scales and shifts its own way
#
# Every item goes through PyTorch's layer norm with its own weights: one pass over the tokens forwards and one backwards
# instead of two and five.

_MIN_ITEM = 1 << 15  # numbers of an item; below, the calls cost more than the passes


class _ItemNorm(torch.autograd.Function):
    """Layer norm of x [B, N, D] with weights and biases [B, D]."""

    @staticmethod
    def forward(ctx: _Context, x: Tensor, bias: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        out = torch.empty_like(x)
        mean, rstd = (x.new_empty(*x.shape[:2], 1) for _ in range(2))
        for index in range(len(x)):
            torch.ops.aten.native_layer_norm.out(
                x[index],
                x.shape[2:],
                weight[index],
                bias[index],
                epsilon,
                out0=out[index],
                out1=mean[index],
                out2=rstd[index],
            )
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
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
        return grads[0], grads[2], grads[1], None


def takes_modulate(x: Tensor, shift: Tensor, scale: Tensor) -> bool:
    """Return whether `modulate` is faster for these tokens than a norm that is scaled and shifted."""
    return bool(
        ENABLED
        and x.device.type == "cpu"
        and x.dtype == shift.dtype == scale.dtype == torch.float32
        and x.is_contiguous()
        and x[0].numel() >= _MIN_ITEM
        and not torch.compiler.is_compiling()
    )


def modulate(x: Tensor, shift: Tensor, scale: Tensor, epsilon: float) -> Tensor:
    """Compute `models.modulation.modulate` item by item."""
    return _ItemNorm.apply(x, shift.flatten(1), 1 + scale.flatten(1), epsilon)


# ---- cross-attention over a short text
#
# Instead of projecting every audio token to a query (D² multiplications) and its output back (D²), the text's keys and
# values are multiplied with these two weights (heads * L vectors of width D). A GPU in float32 saves that work, too. In
# lower precision the rounded scores would be coarser than those of `scaled_dot_product_attention`.


class FoldedKeys(NamedTuple):
    """Keys and values multiplied with the query's and the output's weights.

    Attributes:
        queries: [B, heads * L, D]; their product with a token is its score for each head and word.
        bias: [B, 1, heads * L], added to the scores.
        values: [B, heads * L, D]; their sum, weighted with the attention, is the output.
    """

    queries: Tensor
    bias: Tensor
    values: Tensor


def takes_text(k: Tensor) -> bool:
    """Return whether folding keys k [B, heads, L, d] is less work, and as exact."""
    _, heads, words, d = k.shape
    return ENABLED and k.dtype == torch.float32 and heads * words < heads * d + words


def fold(
    k: Tensor, v: Tensor, mask: Tensor | None, query: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]
) -> FoldedKeys:
    """Fold keys and values [B, heads, L, d] into the weights and biases that make queries and the output."""
    (query_weight, query_bias), (output_weight, output_bias) = query, output
    heads, d = k.shape[1], k.shape[3]
    k = k * d**-0.5
    queries = _by_head(k, query_weight.unflatten(0, (heads, d)))  # [B, heads, L, D]
    bias = _by_head(k, query_bias.view(heads, d, 1))  # [B, heads, L, 1]
    values = _by_head(v, output_weight.t().unflatten(0, (heads, d)))  # [B, heads, L, D]
    # A head's weights sum to one: the output's bias can ride on the values of any one head.
    values = values + F.pad(output_bias.view(1, 1, 1, -1), (0, 0, 0, 0, 0, heads - 1))
    if mask is not None:
        keep = mask[:, None, :, None]
        bias, values = bias.masked_fill(~keep, torch.finfo(bias.dtype).min / 2), values * keep
    return FoldedKeys(queries.flatten(1, 2), bias.flatten(1).unsqueeze(1), values.flatten(1, 2))


def attend_folded(x: Tensor, text: FoldedKeys, num_heads: int) -> Tensor:
    """Return what the text adds to the tokens x [B, N, D]."""
    scores = torch.baddbmm(text.bias, x, text.queries.transpose(1, 2))  # [B, N, heads * L]
    weights = scores.unflatten(-1, (num_heads, -1)).softmax(-1).flatten(2)  # [B, N, heads * L]
    return torch.bmm(weights, text.values)  # [B, N, D]


def _by_head(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [B, heads, L, d] by weight [heads, d, D]; `@` would copy the weight for every item."""
    rows = x.transpose(0, 1).flatten(1, 2)  # [heads, B * L, d]
    return torch.bmm(rows, weight).unflatten(1, (len(x), -1)).transpose(0, 1)


# ---- attention in bfloat16
#
# PyTorch's kernel for bfloat16 takes five times as long as that for float32, which is used in its place. On processors
# that multiply matrices of bfloat16 (AMX) it takes 0.3 to 0.5 of the time; but with the gradient of short sequences
# twice as much.

_HAS_AMX = "amx_bf16" in _PROCESSOR
_LONG = 256  # tokens from which AMX is as fast, gradient included


def takes_attention(q: Tensor) -> bool:
    """Return whether attention from q [B, heads, N, d] is faster in float32."""
    amx = _HAS_AMX and (q.shape[2] >= _LONG or not (torch.is_grad_enabled() and q.requires_grad))
    low = q.device.type == "cpu" and q.dtype == torch.bfloat16
    return ENABLED and low and not amx and not torch.compiler.is_compiling()


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """Compute `models.layers.attend` in float32."""
    wide = None if bias is None else bias.float()
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(q.float(), k.float(), v.float(), attn_mask=wide).to(q.dtype)
