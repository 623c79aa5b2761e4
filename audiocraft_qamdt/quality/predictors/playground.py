"""The playground's judge: its classifier's estimate of how badly a window is degraded.

The classifier learned from the true severities, not from any predictor's scores, so that it can judge a model whose
training data another predictor labelled. It knows the playground's faults only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...playground.classifier import SAMPLE_RATE, VERSION, load_classifier


class PlaygroundJudge:
    """Derive p-MOS from the severities that the playground's classifier estimates.

    Args:
        device: where it computes.
    """

    name = "playground"
    version = f"{VERSION}.1"  # weights, and how severities become a score
    sample_rate = SAMPLE_RATE
    window = 1.0
    hop = 0.5

    def __init__(self, device: str = "cpu") -> None:
        self.classifier = load_classifier(device=device)
        self.device = device

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return each window's p-MOS: 1 plus 4 times what its faults leave; each takes its severity's share of it.

        Args:
            audio: mono windows [B, S] at 16 kHz.
            sample_rate: Hz.
        Returns:
            p-MOS [B], on the device of the predictor.
        """
        audio = audio.to(self.device, torch.float32)
        power = audio.square().mean(1, keepdim=True).clamp(min=1e-10)
        severities = self.classifier(audio / power.sqrt()).severities.clamp(0, 1)  # [B, faults]
        return 1 + 4 * (1 - severities).prod(1)
