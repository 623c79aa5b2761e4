"""A predictor that gives every window the same p-MOS: the control arm that knows nothing."""

from __future__ import annotations

import torch
from torch import Tensor


class Constant:
    """The same p-MOS for every window.

    Args:
        pmos: that score, 1 to 5, a number or its text; it is the predictor's version, so that two of them never mix.
        device: where the scores lie.
    """

    name = "constant"
    sample_rate = None
    window = 1.0
    hop = 1.0

    def __init__(self, pmos: float | str = 3.0, device: str = "cpu") -> None:
        self.pmos = float(pmos)
        self.version = f"{self.pmos:g}"
        self.device = device

    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return the constant [B] for windows [B, S]."""
        return torch.full(audio.shape[:1], self.pmos, device=self.device)
