"""DNSMOS (Reddy et al. 2022, arXiv 2110.01763) through speechmos: quality of speech, a control arm for music."""

from __future__ import annotations

from importlib.metadata import version

import torch
from torch import Tensor

from .base import missing_extra

SCORES = {"OVRL": "ovrl_mos", "SIG": "sig_mos", "BAK": "bak_mos", "P808": "p808_mos"}


class Dnsmos:
    """One score of DNSMOS; its scale is 1 to 5 already, and what its polynomials throw beyond is cut off.

    Args:
        which: OVRL (overall), SIG (speech), BAK (background) or P808.
        device: ignored: its networks, which come with speechmos, run on the CPU.
    Raises:
        ValueError: for a score that there is not.
        RuntimeError: where speechmos is not installed.
    """

    sample_rate = 16000
    window = 9.01  # what its networks take
    hop = 5.0

    def __init__(self, which: str = "OVRL", device: str = "cpu") -> None:
        if which not in SCORES:
            raise ValueError(f"dnsmos/{which}: choose one of {', '.join(SCORES)}")
        try:
            from speechmos import dnsmos
        except ImportError as error:
            raise missing_extra("dnsmos") from error
        self.run, self.key = dnsmos.run, SCORES[which]
        self.name, self.version = f"dnsmos/{which}", version("speechmos")

    def score(self, audio: Tensor, sample_rate: int) -> Tensor:
        """Return p-MOS [B] of mono windows [B, S]."""
        windows = audio.float().clamp(-1, 1).cpu().numpy()
        return torch.tensor([float(self.run(window, sample_rate)[self.key]) for window in windows]).clamp(1, 5)
