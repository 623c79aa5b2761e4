"""Layer norm that each item of a batch scales and shifts its own way; on a CPU through `cpu_kernels`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from . import cpu_kernels

EPSILON = 1e-6


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Apply layer norm without weights to x [B, N, D], then scale and shift by [B, 1, D] (DiT, arXiv 2212.09748)."""
    if cpu_kernels.takes_modulate(x, shift, scale):
        return cpu_kernels.modulate(x, shift, scale, EPSILON)
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:], eps=EPSILON), 1 + scale)
