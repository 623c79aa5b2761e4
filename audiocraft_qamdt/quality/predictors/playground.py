"""The playground's judge: its classifier's estimate of how badly a window is degraded.

The classifier learned from the true severities, not from any predictor's scores, so that it can judge a model whose
training data another predictor labelled. It knows the playground's faults only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...playground.classifier import SAMPLE_RATE, VERSION, load_classifier


class PlaygroundJudge:
    """p-MOS from the severities that the playground's classifier hears.

    Args:
        device: where it computes.
    """

    name = "playground"
    version = VERSION
    sample_rate = SAMPLE_RATE
    window = 1.0
    hop = 0.5

    def __init__(self, device: str = "cpu") -> None:
        self.classifier = load_classifier(device=device)
        self.device = device

    @torch.no_grad()
    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """p-MOS of each window, 5 minus 4 times the severity of its worst fault.

        Args:
            audio: mono windows [B, S] at 16 kHz.
            sample_rate: Hz.
        Returns:
            p-MOS [B], on the device of the predictor.
        """
        audio = audio.to(self.device, torch.float32)
        power = audio.square().mean(1, keepdim=True).clamp(min=1e-10)
        return 5 - 4 * self.classifier(audio / power.sqrt()).severities.amax(1).clamp(0, 1)
