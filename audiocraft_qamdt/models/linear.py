"""`nn.Linear`, with a GELU after it where asked; on a CPU through `cpu_kernels`. Layers may carry peft's adapters."""

from __future__ import annotations

from typing import Protocol

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


def apply_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a layer to x [..., I], then GELU: in one kernel where possible, after an adapter where it has one."""
    return layer(x, gelu=True) if isinstance(layer, Linear) else F.gelu(layer(x), approximate="tanh")


class Adapted(Protocol):
    """A linear layer under peft's adapters."""

    disable_adapters: bool
    merged: bool
    active_adapters: list[str]
    lora_A: nn.ModuleDict

    def get_base_layer(self) -> nn.Linear: ...

    def get_delta_weight(self, adapter: str) -> Tensor: ...


def weights_of(layer: nn.Linear | Adapted) -> tuple[Tensor, Tensor]:
    """Return weight [O, I] and bias [O] that a layer computes with: those of its active adapters are added.

    For code that takes a layer's weights apart instead of calling it. An adapter's dropout does not act there.
    """
    if isinstance(layer, nn.Linear):
        return layer.weight, layer.bias
    base = layer.get_base_layer()  # a layer of peft
    weight: Tensor = base.weight
    if not (layer.disable_adapters or layer.merged):
        for name in layer.active_adapters:
            if name in layer.lora_A:
                weight = weight + layer.get_delta_weight(name)
    return weight, base.bias
