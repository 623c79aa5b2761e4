"""`nn.Linear`, with a GELU after it where asked; on a CPU through `cpu_kernels`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from . import cpu_kernels


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, gelu: bool = False) -> Tensor:
    """Compute `x @ weight.T + bias`, followed by GELU (tanh approximation) where asked.

    Args:
        x: input [..., I].
        weight: [O, I].
        bias: [O], None = no bias.
        gelu: apply GELU to the result.
    Returns:
        [..., O].
    """
    if cpu_kernels.takes_linear(x, weight):
        return cpu_kernels.linear(x, weight, bias, gelu)
    y = F.linear(x, weight, bias)
    return F.gelu(y, approximate="tanh") if gelu else y


class Linear(nn.Linear):
    """`nn.Linear` with the same parameters, computed by `linear`."""

    def forward(self, x: Tensor, gelu: bool = False) -> Tensor:
        """Apply the layer to x [..., I], and GELU where asked; returns [..., O]."""
        return linear(x, self.weight, self.bias, gelu)
